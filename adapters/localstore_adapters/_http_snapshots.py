"""Snapshots on their way to and from a hub: mere bytes, from any place on, and never more of them than there are."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from urllib.parse import quote

from localstore.adapter import SnapshotInfo
from localstore.errors import Offline, SnapshotUnusable
from localstore_adapters._http_wire import Wire

__all__ = ["Sending", "part_of"]


class Sending:
    """Chunks on their way, and what their source raised, which is no error of the network."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self.error: Exception | None = None

    async def __aiter__(self) -> AsyncGenerator[bytes]:
        try:
            async for chunk in self._chunks:
                if chunk:
                    yield chunk
        except Exception as error:
            self.error = error
            raise


async def part_of(
    wire: Wire, place: Mapping[str, str], token: str | None, info: SnapshotInfo, start: int
) -> AsyncGenerator[bytes]:
    """A snapshot's bytes from a place on, and no more than there are."""
    headers = {"range": f"bytes={start}-"} if start else {}
    name = f"snapshot/{quote(info.name, safe='')}"
    async with wire.stream(name, place, token=token, headers=headers) as response:
        left = info.byte_count - start
        if response.headers.get("content-length") != str(left):
            raise SnapshotUnusable(f"The hub does not have {info.name} as it said.", hint="Ask for the latest again.")
        async for chunk in response.aiter_raw():
            left -= len(chunk)
            if left < 0:
                raise SnapshotUnusable(f"The hub sent more of {info.name} than there is.")
            yield chunk
    if left:
        raise Offline("The hub's snapshot broke off.")
