"""uvicorn's protocol with a bound for what comes around a body: heads, addresses, trailers, the sizes of chunks.

httptools takes these at any length and keeps them, from strangers too; h11 has a bound of its own. This module knows no hub.
"""

from __future__ import annotations

from typing import Any

__all__ = ["AROUND_BYTES", "bounded"]

AROUND_BYTES = 128 * 1024
"""An address of 64 KiB is the longest that httptools reads, and a JSON Web Token the longest header."""
_SHARE = 16  # of a body that comes in chunks, what their sizes may take


def bounded(protocol: Any) -> Any:
    """The protocol, which ends a connection whose request has too much around its body."""

    class Bounded(protocol):  # type: ignore[misc]
        around = body = 0

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self.around += len(data)
            if self.around > AROUND_BYTES + self.body // _SHARE:
                self.transport.abort()

        def on_message_begin(self) -> None:
            self.around = self.body = 0
            super().on_message_begin()

        def on_body(self, body: bytes) -> None:
            self.body += len(body)
            self.around -= len(body)
            super().on_body(body)

    return Bounded
