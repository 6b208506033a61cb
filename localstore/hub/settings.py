"""How a hub is set up. Every field can be set as ``LOCALSTORE_HUB_<NAME>`` in the environment.

Secrets come by the environment, or by a file of the name ``localstore_hub_<name>`` in the directory that
``LOCALSTORE_HUB_SECRETS`` names, and from nowhere else: a command line is seen by everybody on the machine.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from localstore.sources import HUB_PREFIX, Source, environment, refuse_unknown
from localstore.wire import MAX_CHANGESET_BYTES

__all__ = ["SECRETS_VARIABLE", "HubSettings"]

SECRETS_VARIABLE = f"{HUB_PREFIX}SECRETS"
_DAY = 86_400.0
_MIB = 1024 * 1024


class HubSettings(BaseSettings):
    """A hub's settings. Times are in seconds.

    Attributes:
        app: the application whose data it serves, as in ``App.create``.
        store: URL of the log; may hold a password.
        accounts: URL of the database with users and grants; None for the log's.
        anonymous: whether somebody without an account may log in, as a new user each time.
        access_seconds, log_in_days: how long an access token lives, and a log-in of which nothing is heard.
        default_partition, default_access: the partition that everybody may use who has no grant that says otherwise, and what
            for.
        tries_by_address, tries_by_email: how many log-ins may fail one after the other, of one address and for one email; after
            that, one more every 2 and every 15 seconds.
        authorize: ``module:function``, a rule that is asked before grants are.
        issuers: a TOML file with the services whose JSON Web Tokens are taken.
        path: what comes before ``/v1`` in the path of every call, as ``/todo``.
        host, port: where it listens; port 0 takes a free one.
        certificate, private_key, private_key_password: PEM files for TLS; without them it speaks plain HTTP.
        trusted_proxies: addresses whose ``X-Forwarded-For`` is believed, comma-separated; none by default.
        metrics_token: who shows it may read the metrics; without one, only this computer may.
        heartbeat: how often an open stream gives a sign of life, and its user's rights are looked at again.
        token_notice: how long before its token ends a stream says so.
        poll_seconds: how often devices look for news when no hint came.
        header_timeout: for the head of a request to arrive.
        body_timeout: for its body to arrive, and for a device to take more of an answer that waits for it.
        keep_alive: how long a connection may be idle; longer than devices keep theirs, so that none is closed under a request.
        max_body_bytes: of one request, compressed and not.
        max_bodies_bytes: of all requests that are being read at one time.
        max_changeset_bytes: larger ones are refused.
        max_batch_bytes, max_batch_count: what a device sends in one request.
        page_bytes, page_count: what a device gets in one answer, whatever it asks for.
        max_calls: how many pushes and pulls are worked on at one time; others wait.
        max_lines: how many lines to the log are kept, one for each device that was there lately.
        max_connections: how many connections are held at one time.
        user_rate, user_burst, address_rate, address_burst: requests a second of one user and from one address, and how many may
            come at once; a rate of 0 sets no limit.
        user_streams: how many streams of events, and polls, one user has open at one time; other devices look now and then.
        models: the application's, as ``package.module``, with which the hub makes snapshots.
        snapshot_every: after how many changesets of a partition it makes one; 0 for never.
        snapshot_files: the directory in which it merges partitions for that, a cache; None for the system's place of data.
        horizon_days: how long the log keeps history that is in a snapshot, and so how long a device may stay away.
        devices_write_snapshots: whether devices make the snapshots of a partition that they may write to.
        max_snapshot_bytes: of one snapshot that a device makes.
        shutdown_timeout: how long it waits for what is under way when it is told to end.

    Raises:
        ValueError: a setting cannot be used, or does not exist.
    """

    model_config = SettingsConfigDict(
        env_prefix=HUB_PREFIX, extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True
    )

    app: str = Field(min_length=1, max_length=255)
    store: SecretStr | None = None
    accounts: SecretStr | None = None
    anonymous: bool = False
    access_seconds: float = Field(default=1800.0, ge=10, le=_DAY)
    log_in_days: float = Field(default=90.0, gt=0, le=36_600)
    default_partition: str = Field(default="default", min_length=1, max_length=255)
    default_access: Literal["none", "read", "write"] = "write"
    tries_by_address: int = Field(default=30, gt=0, le=1_000_000)
    tries_by_email: int = Field(default=10, gt=0, le=1_000_000)
    authorize: str | None = None
    issuers: Path | None = None
    path: str = ""
    host: str = Field(default="127.0.0.1", min_length=1)
    port: int = Field(default=8765, ge=0, le=65_535)
    certificate: str | None = None
    private_key: str | None = None
    private_key_password: SecretStr | None = None
    trusted_proxies: str = ""
    metrics_token: SecretStr | None = None
    heartbeat: float = Field(default=20.0, gt=0, le=600)
    token_notice: float = Field(default=60.0, ge=0, le=_DAY)
    poll_seconds: float = Field(default=60.0, gt=0, le=_DAY)
    header_timeout: float = Field(default=10.0, gt=0, le=600)
    body_timeout: float = Field(default=60.0, gt=0, le=_DAY)
    keep_alive: float = Field(default=120.0, gt=0, le=_DAY)
    max_body_bytes: int = Field(default=MAX_CHANGESET_BYTES + 4 * _MIB, ge=64 * 1024, le=1024 * _MIB)
    max_bodies_bytes: int = Field(default=256 * _MIB, ge=64 * 1024)
    max_changeset_bytes: int = Field(default=MAX_CHANGESET_BYTES, gt=0, le=MAX_CHANGESET_BYTES)
    max_batch_bytes: int = Field(default=4 * _MIB, gt=0, le=64 * _MIB)
    max_batch_count: int = Field(default=1000, gt=0, le=100_000)
    page_bytes: int = Field(default=4 * _MIB, gt=0, le=64 * _MIB)
    page_count: int = Field(default=5000, gt=0, le=1_000_000)
    max_calls: int = Field(default=16, gt=0, le=10_000)
    max_lines: int = Field(default=1000, gt=0, le=1_000_000)
    max_connections: int = Field(default=10_000, gt=0, le=1_000_000)
    user_rate: float = Field(default=100.0, ge=0, le=1_000_000)
    user_burst: float = Field(default=1000.0, ge=1, le=10_000_000)
    address_rate: float = Field(default=500.0, ge=0, le=1_000_000)
    address_burst: float = Field(default=5000.0, ge=1, le=10_000_000)
    user_streams: int = Field(default=1000, gt=0, le=1_000_000)
    models: str | None = Field(default=None, min_length=1)
    snapshot_every: int = Field(default=5000, ge=0, le=1_000_000)
    snapshot_files: Path | None = None
    horizon_days: float = Field(default=30.0, ge=1, le=36_600)
    devices_write_snapshots: bool = False
    max_snapshot_bytes: int = Field(default=4096 * _MIB, gt=0)
    shutdown_timeout: float = Field(default=10.0, gt=0, le=600)

    @field_validator("path")
    @classmethod
    def _as_prefix(cls, path: str) -> str:
        """With a slash before it and none after it, or empty."""
        stripped = path.strip("/")
        return f"/{stripped}" if stripped else ""

    if not TYPE_CHECKING:  # type checkers know the arguments by the fields

        def __init__(self, **values: Any) -> None:
            found = environment(os.environ, prefix=HUB_PREFIX)
            directory = found.values.get("secrets")
            known = {name: value for name, value in found.values.items() if name != "secrets"}
            sources = [Source("the arguments of HubSettings", values, {}), dataclasses.replace(found, values=known)]
            refuse_unknown(sources, type(self).model_fields)
            try:
                super().__init__(_secrets_dir=directory, **values)
            except ValidationError as error:
                problems = [(".".join(map(str, problem["loc"])), problem["msg"]) for problem in error.errors()]
            else:
                return
            # Raised here and not in the handler: pydantic's error may hold a secret, and must not come along as context.
            raise ValueError(" ".join(f"The hub's setting {name} cannot be used: {told}." for name, told in problems))
