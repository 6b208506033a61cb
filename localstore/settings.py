"""Settings, read in this order: constructor, environment, ``localstore.toml``, ``[tool.localstore]`` in ``pyproject.toml``.

Both files are looked for in the working directory. Times are in seconds unless the name says otherwise. Each has an upper
bound, so that nothing further down overflows: SQLite counts milliseconds in 32 bits, and event loops and sockets have
limits of their own. What is read from where, and which names there are refused, is the business of ``sources``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from localstore.sources import PREFIX, Source, environment, files, refuse_unknown
from localstore.urls import redacted
from localstore.wire import DEFAULT_CHANGESET_ROWS, MAX_CHANGESET_BYTES, MAX_CHANGESET_ROWS

__all__ = ["Settings"]

_DAY = 86_400.0
_YEAR = 366 * _DAY
_NO_NUMBERS = ("remote", "directory", "synchronous", "watch_network")


class Settings(BaseSettings):
    """How a store and its session behave. Every field can be set as ``LOCALSTORE_<NAME>``.

    Attributes:
        remote: URL of the remote, when ``App.create`` is not given one. A password in it is not shown in ``repr``.
        directory: where log-ins and the files of users who logged in are kept; None for the system's place for a user's data.
        busy_timeout: how long a write waits for another writer.
        synchronous: SQLite's setting; NORMAL may lose the last commits at power loss, FULL does not.
        max_changeset_bytes: largest changeset before compression; a larger transaction is refused and rolled back.
        max_changeset_rows: most rows in a changeset; a transaction that changes more is refused and rolled back.
        max_clock_drift: how far a remote change's stamp may be ahead of this device's clock before it has to wait.
        conflicts_max_age, conflicts_max_count: how long a value that lost stays in ``realm.conflicts()``, and how many do;
            the oldest go when others come, and the error handler hears of it.
        client_maximum_offline_time: how long a device may stay away from the remote, or have something unsent, without a
            client reset; the clocks of rows that nobody changed for twice that time are forgotten. The same for all devices.
        connect_timeout: for reaching the remote.
        request_timeout: for one push or pull.
        ping_period: how often an idle session asks the remote for a sign of life, where the adapter can.
        pong_timeout: how long it waits for that before it takes the connection for dead.
        urgent_pong_timeout: the same after ``app.sync.reconnect()``, which asks at once.
        fast_reconnect_limit: after a shorter loss of the connection uploads begin at once; else what others did comes first.
        linger: how long the line of a realm that was closed is kept, for it to be opened again.
        poll: how often to look for news without a hint; None leaves it to the adapter.
        backoff_initial, backoff_factor, backoff_max, backoff_jitter: waits after errors; the jitter is the largest part
            of a wait that is taken off at random.
        page_bytes, page_count: largest page to pull and apply in one transaction.
        snapshot_every: after how many changesets of all devices one of them makes a snapshot for all, where the remote keeps
            any; 0 for never.
        watch_network: whether sessions try again at once when the network comes back or the device wakes up.

    Raises:
        ValueError: a setting cannot be used, does not exist, or a file cannot be read; says which, where and why.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True
    )

    remote: str | None = Field(default=None, min_length=1)
    directory: str | None = Field(default=None, min_length=1)
    busy_timeout: float = Field(default=10.0, gt=0, le=_DAY)
    synchronous: Literal["NORMAL", "FULL"] = "NORMAL"
    max_changeset_bytes: int = Field(default=MAX_CHANGESET_BYTES, gt=0, le=MAX_CHANGESET_BYTES)
    max_changeset_rows: int = Field(default=DEFAULT_CHANGESET_ROWS, gt=0, le=MAX_CHANGESET_ROWS)
    max_clock_drift: float = Field(default=300.0, ge=0, le=_YEAR)
    conflicts_max_age: float = Field(default=30 * _DAY, gt=0, le=100 * _YEAR)
    conflicts_max_count: int = Field(default=10_000, gt=0, le=1_000_000)
    client_maximum_offline_time: float = Field(default=30 * _DAY, ge=3600, le=_YEAR)
    connect_timeout: float = Field(default=120.0, ge=1, le=_DAY)
    request_timeout: float = Field(default=120.0, gt=0, le=_DAY)
    ping_period: float = Field(default=60.0, gt=5, le=_DAY)
    pong_timeout: float = Field(default=120.0, gt=5, le=_DAY)
    urgent_pong_timeout: float = Field(default=15.0, ge=1, le=_DAY)
    fast_reconnect_limit: float = Field(default=60.0, gt=1, le=_DAY)
    linger: float = Field(default=0.0, ge=0, le=_DAY)
    poll: float | None = Field(default=None, gt=0, le=_DAY)
    backoff_initial: float = Field(default=1.0, gt=0, le=_DAY)
    backoff_factor: float = Field(default=2.0, ge=1, le=100)
    backoff_max: float = Field(default=300.0, gt=0, le=_DAY)
    backoff_jitter: float = Field(default=0.25, ge=0, lt=1)
    page_bytes: int = Field(default=4 * 1024 * 1024, gt=0, le=1024**3)  # a page is held in memory
    page_count: int = Field(default=5000, gt=0, le=1_000_000)
    snapshot_every: int = Field(default=5000, ge=0, le=1_000_000)
    watch_network: bool = True

    @field_validator("*", mode="before")
    @classmethod
    def _as_meant(cls, value: Any, info: ValidationInfo) -> Any:
        """``true`` would be taken for 1, and a path is a text."""
        if info.field_name == "directory" and isinstance(value, os.PathLike):
            return os.fspath(value)
        if isinstance(value, bool) and info.field_name not in _NO_NUMBERS:
            raise PydanticCustomError("truth", "it should be a number, not true or false")
        return value

    @field_validator("directory", mode="before")
    @classmethod
    def _take_path(cls, value: Any) -> Any:
        return str(value) if isinstance(value, Path) else value

    if not TYPE_CHECKING:  # type checkers know the arguments by the fields

        def __init__(self, **values: Any) -> None:
            arguments = Source("the arguments of Settings", {key: values[key] for key in values if key[:1] != "_"}, {})
            sources = [arguments, environment(os.environ), *files(Path())]
            refuse_unknown(sources, type(self).model_fields)
            try:
                super().__init__(**values)
            except ValidationError as error:
                problems = [(str(problem["loc"][0]), problem["msg"]) for problem in error.errors()]
            else:
                return
            # Raised here and not in the handler: pydantic's error holds the values, and must not come along as context.
            raise ValueError(" ".join(_in_words(name, problem, sources) for name, problem in problems))

        def __setattr__(self, name: str, value: Any) -> None:  # pydantic's refusal quotes the value
            raise ValueError(f"Settings are frozen: {name} was not changed. Make new ones, as with Settings({name}=...).")

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        """Fields and values as ``repr`` and ``print`` show them."""
        for name, value in super().__repr_args__():
            yield name, redacted(value) if name == "remote" and value is not None else value

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
        read = [InitSettingsSource(settings_cls, dict(source.values)) for source in files(Path())]
        return init_settings, env_settings, *read


def _in_words(name: str, problem: str, sources: Iterable[Source]) -> str:
    """A setting that cannot be used: where it was said, what is wrong with it, and what to do."""
    said = next((source.says(name) for source in sources if name in source.values), name)
    problem = problem.replace("Input should", "it should", 1).replace("String should", "it should", 1)
    default = Settings.model_fields[name].default
    instead = "" if default is None else f" for the default, {default!r}"
    return f"{said} cannot be used: {problem}. Correct it, or leave it out{instead}."
