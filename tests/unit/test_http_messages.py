"""Messages between devices and hubs: both forms, errors as data and back, and bodies that are not what they say."""

from __future__ import annotations

import sys
import tracemalloc

import pytest

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
    WrongKey,
)
from localstore.http_messages import (
    JSON,
    MESSAGE_PACK,
    LoginRequest,
    Problem,
    PushRequest,
    RefreshRequest,
    TokensReply,
    TooLong,
    compressed,
    decode_message,
    decompressed,
    encode_message,
    error_of,
    is_name,
    is_worth_compressing,
    problem_of,
)
from localstore.hub.declining import forbidden
from localstore.reasons import ResetReason

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ERRORS = [
    Offline("a", hint="b"),
    Busy("a", retry_after=2.5),
    RateLimited("a", retry_after=None),
    Unauthorized("a"),
    Refused("a", number=7),
    ResetRequired("device forked (again)", may_recover=False, hint="b"),
    ResetRequired("the tables changed", kind=ResetReason.SCHEMA_INCOMPATIBLE),
    MalformedChangeset("a"),
    NewerFormat("a"),
    SnapshotUnusable("a"),
    ProtocolError("a"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("media", [MESSAGE_PACK, JSON])
def test_an_error_comes_out_as_it_went_in(error: SyncError, media: str) -> None:
    sent = encode_message(problem_of(error), media)
    found = error_of(decode_message(Problem, sent, media))
    assert type(found) is type(error)
    assert vars(found) == vars(error)


def test_an_error_without_a_name_of_its_own_goes_as_what_it_is_first() -> None:
    assert problem_of(WrongKey("a")).kind == "protocol"


def test_a_kind_that_is_not_known_stops_the_session_and_says_where_to_look() -> None:
    found = error_of(Problem(kind="of a later hub", message="a", id="4f2a"))
    assert type(found) is ProtocolError
    assert "4f2a" in found.hint


def test_a_partition_that_a_user_may_not_use_stops_the_session_and_says_so() -> None:
    found = error_of(forbidden("team").problem)
    assert type(found) is ProtocolError  # and not Unauthorized: a new token is not the answer
    assert found.is_fatal
    assert "may not use the partition 'team'" in found.message


@pytest.mark.parametrize("media", [MESSAGE_PACK, JSON])
def test_changesets_pass_as_they_are(media: str) -> None:
    said = PushRequest(partition="ä/1", device=bytes(range(16)), remote_id="r", batch=[b"\x00\xff", b""])
    assert decode_message(PushRequest, encode_message(said, media), media) == said


@pytest.mark.parametrize("secret", ["hunter2"])
def test_no_secret_is_shown(secret: str) -> None:
    shown = [
        LoginRequest(provider="api_key", secret=secret),
        RefreshRequest(refresh_token=secret),
        TokensReply(user_id="u", access_token=secret, expires_in=1.0, refresh_token=secret),
    ]
    assert secret not in repr(shown)


@pytest.mark.parametrize("name", ["default", "user:7", "One/ä", "../x", "' OR 1=1 --", "x" * 255])
def test_a_name_is_any_text_on_one_line(name: str) -> None:
    assert is_name(name)


@pytest.mark.parametrize("name", ["", "x" * 256, "a\nb", "a\rb", "a\x00b", "a\x1bb", "a\x85b", "a\u2028b", "a\n"])
def test_a_text_that_breaks_a_line_is_no_name(name: str) -> None:
    assert not is_name(name)
    with pytest.raises(ProtocolError):
        decode_message(PushRequest, encode_message(PushRequest(partition=name, device=bytes(16), remote_id="r", batch=[b""])))


@pytest.mark.parametrize("size", [0, 1, 999, 1000])
def test_a_body_is_decompressed_up_to_its_limit(size: int) -> None:
    body = compressed(bytes(size))
    assert decompressed(body, 1000) == bytes(size)
    if size:
        with pytest.raises(TooLong):
            decompressed(body, size - 1)


@pytest.mark.parametrize("damage", [lambda body: body[:-2], lambda body: body + b"x", lambda body: b"", lambda body: b"x" * 50])
def test_a_body_that_is_damaged_is_told_so(damage: object) -> None:
    assert callable(damage)
    with pytest.raises(ProtocolError):
        decompressed(damage(compressed(bytes(5000))), 10_000)


def test_a_bomb_takes_no_more_memory_than_the_limit() -> None:
    bomb = zstd.compress(bytes(1 << 28))
    tracemalloc.start()
    try:
        with pytest.raises(TooLong):
            decompressed(bomb, 1 << 20)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_a_frame_that_wants_a_huge_window_is_refused() -> None:
    wide = zstd.compress(bytes(1 << 25), options={zstd.CompressionParameter.window_log: 26})
    with pytest.raises(ProtocolError):
        decompressed(wide[:-1] + b"", 1 << 26)


def test_what_is_compressed_inside_is_not_compressed_again() -> None:
    assert not is_worth_compressing(500)
    assert is_worth_compressing(50_000, 200)
    assert not is_worth_compressing(50_000, 2)
