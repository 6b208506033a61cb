"""The hub: users, rules and HTTP in front of any log that devices share. Nothing of it is loaded by ``import localstore``.

``create_hub`` makes an ASGI application for any server that speaks it; ``localstore hub serve`` brings a server along.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from localstore.hub.application import Hub, create_hub
    from localstore.hub.settings import HubSettings

__all__ = ["Hub", "HubSettings", "create_hub"]


def __getattr__(name: str) -> Any:
    """What needs the extra ``hub`` is loaded when it is asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from localstore.hub import application, settings

    return getattr(settings if name == "HubSettings" else application, name)
