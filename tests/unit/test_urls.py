"""What of a remote's URL may be shown: everything but what might let somebody in."""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest

from localstore import App
from localstore.registry import adapter_factory
from localstore.testing.memory import MemoryAdapter
from localstore.urls import redacted, redacted_text, split_url
from localstore_adapters.folder import FolderAdapter


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://emma:s3cret@hub.example/todo", "https://***@hub.example/todo"),
        ("https://s3cret@hub.example:8443/todo", "https://***@hub.example:8443/todo"),
        ("postgresql://emma@db/todo?password=s3cret&sslmode=require", "postgresql://***@db/todo?password=***"),
        ("postgresql://db/todo?sslmode=require&password=s3cret", "postgresql://db/todo?sslmode=require&password=***"),
        ("postgresql://db/todo?password=s3cret&s3cret;s3cret#s3cret", "postgresql://db/todo?password=***"),
        ("s3://bucket/path?region=eu&secret_access_key=s3cret", "s3://bucket/path?region=eu&secret_access_key=***"),
        ("https://hub/?p%61ssword=s3cret", "https://hub/?p%61ssword=***"),
        ("https://hub/todo#access_token=s3cret", "https://hub/todo#access_token=***"),
        ("https://hub/todo?X-Amz-Signature=s3cret", "https://hub/todo?X-Amz-Signature=***"),
        ("https://emma:s3/cret@hub/todo", "https://***@hub/todo"),
        ("https://emma:s3?cret@hub/todo", "https://***@hub/todo"),
        ("https://emma:s3#cret@hub/todo", "https://***@hub/todo"),
        ("https://emma:s3@cret/s3cret@hub/todo", "https://***@hub/todo"),
        ("https://emma:s3://cret@hub/todo", "https://***@hub/todo"),
        ("https://emma:s3 cret@hub/todo", "https://***@hub/todo"),
        ("https:///emma:s3cret@hub/todo", "https:///***@hub/todo"),
        ("https:/emma:s3cret@hub/todo", "***@hub/todo"),
        ("emma:s3cret@hub/todo", "***@hub/todo"),
        ("host=hub user=emma password=s3cret", "host=hub user=emma password=***"),
    ],
)
def test_what_lets_somebody_in_is_hidden(url: str, shown: str) -> None:
    assert redacted(url) == shown
    assert "cret" not in shown.replace("secret_access_key", "")


@pytest.mark.parametrize(
    "url",
    [
        "folder:///mnt/share/todo",
        "folder:///mnt/emma@work/todo",
        "folder:///C:/share/todo@home",
        "folder://server/share/emma@work",
        "memory://todo",
        "https://hub.example:8443/todo?limit=3&order=up#top",
        "https://[::1]:8443/emma@work",
        "https://hub/?password=",
        "/mnt/share/todo",
        "todo",
        "",
    ],
)
def test_the_rest_is_shown_as_it_is(url: str) -> None:
    assert redacted(url) == url


def test_every_url_in_a_text_is_redacted() -> None:
    text = "Cannot reach 'https://emma:s3cret@hub/todo' (proxy: http://s3cret@proxy:3128); see https://docs.example/errors."
    assert redacted_text(text) == (
        "Cannot reach 'https://***@hub/todo' (proxy: http://***@proxy:3128); see https://docs.example/errors."
    )


@pytest.mark.parametrize("url", ["https://emma:s3cret@[hub/todo", "https://emma:s3cret@\u2100/todo", "https://[s3cret]x@hub"])
def test_a_url_that_cannot_be_read_is_refused_without_its_secret(url: str) -> None:
    with pytest.raises(ValueError, match="cannot be read") as caught:
        split_url(url)
    assert "cret" not in told(caught.value)


REFUSED = [
    "emma:s3cret@hub/todo",
    "//emma:s3cret@hub/todo",
    "s3cret@hub/todo",
    "pigeon://emma:s3cret@loft",
    "pigeon://loft?password=s3cret",
    "https://emma:s3cret@[hub/todo",
    "s3cret:x@hub/todo",
    "folder://emma:s3cret@server/share",
    "folder:///share?password=s3cret",
]


@pytest.mark.parametrize("remote", REFUSED)
def test_no_refusal_of_a_remote_tells_its_secret(remote: str) -> None:
    with pytest.raises(ValueError, match=r"remote|folder|URL|adapter") as caught:
        App.create("todo", remote=remote)
    assert "s3cret" not in told(caught.value)
    with pytest.raises(ValueError, match=r"remote|folder|URL|adapter"):
        adapter_factory(remote)()


@pytest.mark.parametrize("make", [MemoryAdapter.from_url, FolderAdapter.from_url])
@pytest.mark.parametrize("url", ["x://emma:s3cret@[y", "x:?limit=3&password=s3cret"])
def test_nor_does_an_adapters_own(make: type[MemoryAdapter] | type[FolderAdapter], url: str) -> None:
    with pytest.raises(ValueError, match=r"remote|folder|URL|adapter") as caught:
        make(url)  # type: ignore[arg-type]
    assert "s3cret" not in told(caught.value)


@pytest.mark.parametrize("remote", [b"https://emma:s3cret@hub", Path("/s3cret"), {"url": "https://emma:s3cret@hub"}])
def test_what_is_no_url_is_named_by_its_kind_alone(remote: object) -> None:
    with pytest.raises(TypeError, match=type(remote).__name__) as caught:
        App.create("todo", remote=remote)  # type: ignore[arg-type]
    assert "s3cret" not in told(caught.value)


def told(error: BaseException) -> str:
    """All that a traceback would say of an error, but for the lines of code."""
    said, seen = [], error
    while seen is not None:
        said += [*traceback.format_exception_only(seen), repr(seen), repr(seen.args)]
        seen = seen.__cause__ or seen.__context__  # type: ignore[assignment]
    return "\n".join(said)
