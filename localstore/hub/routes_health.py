"""The endpoints for who runs a hub: whether it lives, whether it can serve, what it counts, and what can be asked of it."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress

from starlette.responses import PlainTextResponse, Response

from localstore.hub.asking import Asked
from localstore.hub.declining import Declined
from localstore.hub.metrics import CONTENT_TYPE
from localstore.hub.openapi import document

__all__ = ["PROBE_PARTITION", "health", "metrics", "openapi", "ready"]

PROBE_PARTITION = "hub:ready"
"""A partition that nobody has access to, for seeing whether the log answers."""
_READY_SECONDS = 5.0
_PROBE = bytes(16)
_FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip")


async def health(asked: Asked) -> Response:
    """The process lives."""
    return PlainTextResponse("ok\n")


async def ready(asked: Asked) -> Response:
    """Log and accounts answer; who sends devices here should do so only then."""
    try:
        async with asyncio.timeout(_READY_SECONDS):
            await asked.of_accounts(asked.parts.accounts.ready())
            await asked.parts.lines.connect(asked.parts.lines.own(PROBE_PARTITION, _PROBE))
    except (Declined, TimeoutError) as error:
        if not isinstance(error, Declined) or error.problem.kind != "reset_required":  # another history is an answer, too
            return PlainTextResponse("not ready\n", status_code=503)
    return PlainTextResponse("ready\n")


async def metrics(asked: Asked) -> Response:
    """For who shows the token, or without one, for this computer: not for what a proxy on it passes on."""
    token = asked.parts.settings.metrics_token
    if token is not None:
        may = hmac.compare_digest((asked.token or "").encode(), token.get_secret_value().encode())
    else:
        may = _is_loopback(asked.address) and not any(name in asked.request.headers for name in _FORWARDED)
    if not may:
        return PlainTextResponse("not found\n", status_code=404)
    return Response(asked.parts.metrics.text(), media_type=CONTENT_TYPE)


async def openapi(asked: Asked) -> Response:
    return Response(document(asked.parts.settings.path), media_type="application/json")


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
