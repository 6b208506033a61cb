"""Settings, read in this order: constructor, environment, ``localstore.toml``, ``[tool.localstore]`` in ``pyproject.toml``.

Both files are looked for in the working directory. Times are in seconds unless the name says otherwise.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    PyprojectTomlConfigSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from localstore.wire import MAX_CHANGESET_BYTES

__all__ = ["Settings"]


class Settings(BaseSettings):
    """How a store and its session behave. Every field can be set as ``LOCALSTORE_<NAME>``.

    Attributes:
        remote: URL of the remote, when ``App.create`` is not given one.
        busy_timeout: how long a write waits for another writer.
        synchronous: SQLite's setting; NORMAL may lose the last commits at power loss, FULL does not.
        max_changeset_bytes: largest changeset before compression; a larger transaction is refused and rolled back.
        max_clock_drift: how far a remote change's stamp may be ahead of this device's clock before it has to wait.
        connect_timeout: for reaching the remote.
        request_timeout: for one push or pull.
        poll: how often to look for news without a hint; None leaves it to the adapter.
        backoff_initial, backoff_factor, backoff_max, backoff_jitter: waits after errors; the jitter is the largest part
            of a wait that is taken off at random.
        page_bytes, page_count: largest page to pull and apply in one transaction.
    """

    model_config = SettingsConfigDict(
        env_prefix="LOCALSTORE_",
        toml_file="localstore.toml",
        pyproject_toml_table_header=("tool", "localstore"),
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
    )

    remote: str | None = None
    busy_timeout: float = Field(default=10.0, gt=0)
    synchronous: Literal["NORMAL", "FULL"] = "NORMAL"
    max_changeset_bytes: int = Field(default=MAX_CHANGESET_BYTES, gt=0, le=MAX_CHANGESET_BYTES)
    max_clock_drift: float = Field(default=300.0, ge=0)
    connect_timeout: float = Field(default=120.0, ge=1)
    request_timeout: float = Field(default=120.0, gt=0)
    poll: float | None = Field(default=None, gt=0)
    backoff_initial: float = Field(default=1.0, gt=0)
    backoff_factor: float = Field(default=2.0, ge=1)
    backoff_max: float = Field(default=300.0, gt=0)
    backoff_jitter: float = Field(default=0.25, ge=0, lt=1)
    page_bytes: int = Field(default=4 * 1024 * 1024, gt=0)
    page_count: int = Field(default=5000, gt=0)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The order that the module's docstring promises."""
        return (
            init_settings,
            env_settings,
            TomlConfigSettingsSource(settings_cls),
            PyprojectTomlConfigSettingsSource(settings_cls),
        )
