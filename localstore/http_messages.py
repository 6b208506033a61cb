"""What a device and a hub say to each other over HTTP: every body under ``/v1``, and errors as data.

Bodies are MessagePack, or JSON with bytes as base64 where somebody asks for it. Sealed changesets travel in them as they are.
This module knows neither the network nor any library for it, nor what an adapter or a hub does with a message.
"""

from __future__ import annotations

import base64
import binascii
import re
import sys
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec

from localstore.changes import Device, Number
from localstore.credentials import Provider
from localstore.errors import (
    Busy,
    MalformedChangeset,
    NewerFormat,
    Offline,
    ProtocolError,
    RateLimited,
    Refused,
    ResetRequired,
    SnapshotUnusable,
    SyncError,
    Unauthorized,
)
from localstore.reasons import ResetReason

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = [
    "JSON",
    "MESSAGE_PACK",
    "NEWS_BYTES",
    "VERSION",
    "VERSION_HEADER",
    "ConnectReply",
    "ConnectRequest",
    "DoneReply",
    "LoginRequest",
    "News",
    "PageReply",
    "PingReply",
    "PollReply",
    "PollRequest",
    "Problem",
    "PullRequest",
    "PushReply",
    "PushRequest",
    "RefreshRequest",
    "RefusalReply",
    "SnapshotReply",
    "TokensReply",
    "TooLong",
    "compressed",
    "decode_message",
    "decode_news",
    "decompressed",
    "encode_message",
    "encode_news",
    "error_of",
    "is_name",
    "is_worth_compressing",
    "problem_of",
]

VERSION: Final = 1
"""Of this protocol; both sides say theirs in every message."""
VERSION_HEADER: Final = "localstore-version"
NEWS_BYTES: Final = 32 * 1024
"""How much an event brings of changesets at most; of more it only tells."""
MESSAGE_PACK: Final = "application/msgpack"
JSON: Final = "application/json"

_MAX_NAME = 255
_MAX_TEXT = 8192  # a JSON Web Token with many claims
_MAX_CURSOR_BYTES = 1024 * 1024  # some logs count each device in it
_MAX_BATCH = 100_000
_ZSTD_LEVEL = 1
_WINDOW_LOG_MAX = 23  # 8 MiB: what RFC 9659 asks everybody to take, and no more
_WORTH_COMPRESSING = 1024  # bytes; a frame's time counts for more below it
_PACKED_BYTES = 4096  # a changeset of so many bytes on average is compressed inside already

_NAME = r"[^\x00-\x1f\x7f-\x9f\u2028\u2029]+"
"""No character that could begin a line of its own in somebody's log."""
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=_MAX_NAME, pattern=rf"\A{_NAME}\Z")]
_Text = Annotated[str, msgspec.Meta(max_length=_MAX_TEXT)]
_Cursor = Annotated[bytes, msgspec.Meta(max_length=_MAX_CURSOR_BYTES)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
_Seconds = Annotated[float, msgspec.Meta(ge=0, le=86_400)]
_Days = Annotated[float, msgspec.Meta(ge=0, le=1_000_000)]
_SealedBytes = bytes

T = TypeVar("T")


class _Request(msgspec.Struct, frozen=True, kw_only=True):
    """What a device asks. Fields that are not known are stepped over: a later version may add some."""


class LoginRequest(_Request, frozen=True, kw_only=True):
    provider: Provider
    email: Annotated[str, msgspec.Meta(max_length=320)] | None = None
    secret: _Text | None = None

    def __repr__(self) -> str:
        return f"LoginRequest(provider={self.provider!r}, ...)"


class RefreshRequest(_Request, frozen=True, kw_only=True):
    """Also for logging out."""

    refresh_token: _Text

    def __repr__(self) -> str:
        return "RefreshRequest(...)"


class ConnectRequest(_Request, frozen=True, kw_only=True):
    app: Name
    partition: Name
    device: Device
    remote_id: Name | None = None
    cursor: _Cursor | None = None
    horizon_days: _Days | None = None


class PushRequest(_Request, frozen=True, kw_only=True):
    """A run of consecutive numbers of one device, each changeset sealed and encoded."""

    partition: Name
    device: Device
    remote_id: Name
    batch: Annotated[list[_SealedBytes], msgspec.Meta(min_length=1, max_length=_MAX_BATCH)]


class PullRequest(_Request, frozen=True, kw_only=True):
    partition: Name
    device: Device
    remote_id: Name
    cursor: _Cursor | None = None
    max_bytes: Annotated[int, msgspec.Meta(ge=1, le=2**40)] = 4 * 1024 * 1024
    max_count: Annotated[int, msgspec.Meta(ge=1, le=10_000_000)] = 5000


class PollRequest(_Request, frozen=True, kw_only=True):
    """Come back when there is news, or after so many seconds: for who cannot hold a stream of events.

    Attributes:
        seen: what the last answer said; without it the answer comes at once.
    """

    partition: Name
    device: Device
    seen: Annotated[str, msgspec.Meta(max_length=_MAX_NAME)] | None = None
    wait: _Seconds = 25.0


class TokensReply(msgspec.Struct, frozen=True, kw_only=True):
    user_id: str
    access_token: str
    expires_in: float
    refresh_token: str

    def __repr__(self) -> str:
        return f"TokensReply(user_id={self.user_id!r}, ...)"


class ConnectReply(msgspec.Struct, frozen=True, kw_only=True):
    """A hub's welcome, and what can be done there.

    Attributes:
        access: what the user may do with the partition.
        max_batch_bytes, max_batch_count, max_changeset_bytes: of one push; see ``Capabilities``.
        poll_seconds: how often to look for news when no hint comes.
        heartbeat_seconds: how often a stream of events gives a sign of life.
        devices_write_snapshots: whether devices make the snapshots; else the hub does, if anybody.
    """

    remote_id: str
    last_number: int
    time_ms: int | None
    horizon_days: float | None
    access: Literal["read", "write"]
    max_batch_bytes: int
    max_batch_count: int
    max_changeset_bytes: int | None
    poll_seconds: float
    heartbeat_seconds: float
    devices_write_snapshots: bool


class RefusalReply(msgspec.Struct, frozen=True, kw_only=True):
    number: Number
    reason: str


class PushReply(msgspec.Struct, frozen=True, kw_only=True):
    acknowledged: _Count
    refusals: list[RefusalReply] = []


class PageReply(msgspec.Struct, frozen=True, kw_only=True):
    changesets: list[_SealedBytes]
    cursor: bytes
    more: bool
    remaining_bytes: int | None = None
    warnings: list[str] = []
    passed_over: list[str] = []


class News(msgspec.Struct, frozen=True, kw_only=True):
    """What came after a cursor, as the data of an event: who is there needs no pull to have it.

    Attributes:
        remote_id, after: of what, and where a device has to be for this to be what it lacks.
        changesets, cursor: as of a page.
    """

    remote_id: Name
    after: bytes
    changesets: list[_SealedBytes]
    cursor: bytes


class PollReply(msgspec.Struct, frozen=True, kw_only=True):
    news: bool
    seen: str


class PingReply(msgspec.Struct, frozen=True, kw_only=True):
    time_ms: int


class SnapshotReply(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    cursor: bytes
    byte_count: _Count
    later: int | None = None


class DoneReply(msgspec.Struct, frozen=True, kw_only=True):
    """It was done, and there is nothing to say."""


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why something was not done, for the device to raise.

    Attributes:
        kind: what the device must do; see ``error_of``.
        message, hint: for a person.
        retry_after: seconds to wait.
        reason, reset, may_recover: of a ``ResetRequired``.
        number: of the changeset that it is about.
        id: under which the hub's log tells more.
    """

    kind: str
    message: str
    hint: str = ""
    retry_after: float | None = None
    reason: str | None = None
    reset: str | None = None
    may_recover: bool = True
    number: int | None = None
    id: str | None = None


class TooLong(ProtocolError):  # noqa: N818 - as all that is named by what to do
    """A body is longer than it may be."""


_KINDS: dict[str, type[SyncError]] = {
    "offline": Offline,
    "busy": Busy,
    "rate_limited": RateLimited,
    "unauthorized": Unauthorized,
    "reset_required": ResetRequired,
    "refused": Refused,
    "malformed": MalformedChangeset,
    "newer_format": NewerFormat,
    "snapshot_unusable": SnapshotUnusable,
    "protocol": ProtocolError,
}
_BAD_INPUT = (msgspec.DecodeError, RecursionError, UnicodeDecodeError, OverflowError, ValueError)
_packer = msgspec.msgpack.Encoder()


def is_name(text: str) -> bool:
    """Whether a text can be the name of a partition, as in every message."""
    return len(text) <= _MAX_NAME and re.fullmatch(_NAME, text) is not None


def problem_of(error: SyncError) -> Problem:
    """An error as data. Its words are told as they are: whoever raises it answers for them."""
    kind = next((name for name, known in _KINDS.items() if type(error) is known), None)
    if kind is None:
        kind = next((name for name, known in _KINDS.items() if isinstance(error, known)), "protocol")
    reset = error if isinstance(error, ResetRequired) else None
    return Problem(
        kind=kind,
        message=error.message,
        hint=error.hint,
        retry_after=error.retry_after if isinstance(error, Busy) else None,
        reason=None if reset is None else reset.reason,
        reset=None if reset is None else reset.kind.name,
        may_recover=reset is None or reset.may_recover,
        number=error.number if isinstance(error, Refused) else None,
    )


def error_of(problem: Problem) -> SyncError:
    """The error that a problem stands for. A kind that is not known stops the session, as the contract's others do not fit."""
    message, hint = problem.message, problem.hint
    if problem.id:
        hint = f"{hint} The hub's log tells more under {problem.id}.".lstrip()
    kind = _KINDS.get(problem.kind, ProtocolError)
    if issubclass(kind, Busy):
        return kind(message, retry_after=problem.retry_after, hint=hint)
    if issubclass(kind, Refused):
        return kind(message, number=problem.number, hint=hint)
    if issubclass(kind, ResetRequired):
        reset = ResetReason.__members__.get(problem.reset or "")
        return kind(problem.reason or "unknown reason", kind=reset, may_recover=problem.may_recover, hint=hint)
    return kind(message, hint=hint)


def encode_message(message: msgspec.Struct, media: str = MESSAGE_PACK) -> bytes:
    return msgspec.json.encode(message) if media == JSON else _packer.encode(message)


def decode_message(kind: type[T], data: bytes | bytearray, media: str = MESSAGE_PACK) -> T:
    """The opposite of ``encode_message``.

    Raises:
        ProtocolError: it is no such message. Nothing of it is quoted: it may hold a password.
    """
    decode: Any = msgspec.json.decode if media == JSON else msgspec.msgpack.decode
    try:
        found: T = decode(data, type=kind)
    except _BAD_INPUT as error:
        problem = str(error) if isinstance(error, msgspec.ValidationError) else "it is damaged"
    else:
        return found
    raise ProtocolError(f"A message of {len(data)} bytes is no {kind.__name__}: {_unquoted(problem)}.")


def encode_news(news: News) -> bytes:
    """As the data of an event, which is one line of text."""
    return base64.b64encode(_packer.encode(news))


def decode_news(data: str) -> News:
    """The opposite of ``encode_news``.

    Raises:
        ProtocolError: it is none.
    """
    try:
        packed = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ProtocolError(f"The data of an event has {len(data)} characters and is no base64.") from error
    return decode_message(News, packed)


def is_worth_compressing(byte_count: int, changesets: int = 0) -> bool:
    """Whether a body gets smaller by it: large changesets are compressed already, many small ones are not."""
    return byte_count >= _WORTH_COMPRESSING and (not changesets or byte_count / changesets < _PACKED_BYTES)


def compressed(body: bytes) -> bytes:
    return zstd.compress(body, _ZSTD_LEVEL)


def decompressed(body: bytes | bytearray, limit: int) -> bytes:
    """The opposite of ``compressed``, in no more memory than the limit.

    Raises:
        TooLong: it would be longer than the limit.
        ProtocolError: it is not compressed, or not whole.
    """
    frame = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _WINDOW_LOG_MAX})
    try:
        plain = frame.decompress(body, max_length=limit + 1)
    except zstd.ZstdError as error:
        raise ProtocolError(f"A body of {len(body)} bytes cannot be decompressed: {error}.") from error
    if len(plain) > limit:
        raise TooLong(f"A body is longer than {limit} bytes when decompressed.")
    if not frame.eof or frame.unused_data:
        raise ProtocolError(f"A body of {len(body)} bytes does not end where its compressed content ends.")
    return plain


def _unquoted(problem: str) -> str:
    """msgspec's words without values: it quotes those of enumerations."""
    return problem.split(" '", 1)[0] if "Invalid enum value" in problem else problem
