"""What Linux tells of its network: links, addresses and default routes that came.

``Links`` decides by the kernel's messages alone and touches nothing; ``open_netlink`` reads them in an event loop, with no
thread of its own. Neither knows what becomes of a hint. The messages are those of ``man 7 rtnetlink``.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import struct
import sys
from collections.abc import Callable, Hashable, Iterator
from contextlib import suppress

__all__ = ["Links", "open_netlink"]

_log = logging.getLogger("localstore.sync")

_NEW_LINK, _DEL_LINK, _NEW_ADDRESS, _DEL_ADDRESS, _NEW_ROUTE, _DEL_ROUTE = 16, 17, 20, 21, 24, 25
_HEADER = struct.Struct("=IHHII")  # length with this header, type, flags, sequence, sender
_LINK = struct.Struct("=BxHiII")  # family, type, index, flags, change
_ADDRESS = struct.Struct("=BBBBi")  # family, prefix length, flags, scope, index
_ROUTE = struct.Struct("=BBBBBBBBI")  # family, lengths of destination and source, service, table, protocol, scope, type, flags
_ATTRIBUTE = struct.Struct("=HH")  # length with this header, type
_ATTRIBUTE_TYPE = 0x3FFF  # without the bits for nesting and byte order
_UP, _LOOPBACK, _RUNNING = 0x1, 0x8, 0x40
_MASTER = 10  # of a link: the bridge or bond that it is a port of, which has messages of its own
_IS_ADDRESS, _LOCAL, _FLAGS = 1, 2, 8  # of an address
_TENTATIVE = 0x40  # not usable before it is sure that nobody else has it
_OF_THIS_HOST = 254  # a scope: reaches nobody else
_OUT_BY, _GATEWAY, _TABLE = 4, 5, 15  # of a route
_GROUPS = 0x1 | 0x10 | 0x100 | 0x40 | 0x400  # links; addresses and routes of IPv4 and of IPv6
_KNOWN_MAX = 10_000  # links, addresses and routes that are remembered
_BUFFER_BYTES = 65_536
_READS_PER_TURN = 64  # so that a flood of messages does not keep the event loop


class Links:
    """Which links, addresses and default routes there are, as far as messages told. Says when one came that was not there.

    Messages that only repeat what is known, as routers and radios make the kernel send all the time, are no news.
    """

    def __init__(self) -> None:
        self._known: set[Hashable] = set()

    def forget(self) -> None:
        """Messages were lost: what is known may not be so any more."""
        self._known.clear()

    def has_come(self, data: bytes) -> bool:
        """Whether one of these messages tells of something new; what cannot be read tells of nothing."""
        came = False
        with suppress(struct.error):  # cut off: what was whole counts
            for kind, body in _messages(data):
                told = _told(kind, body)
                came = (told is not None and self._note(*told)) or came
        return came

    def _note(self, what: Hashable, there: bool) -> bool:
        """Remember something; whether it is there now and was not before."""
        if not there:
            self._known.discard(what)
            return False
        if what in self._known:
            return False
        if len(self._known) >= _KNOWN_MAX:
            self.forget()
        self._known.add(what)
        return True


def open_netlink(
    loop: asyncio.AbstractEventLoop, hint: Callable[[], object], *, connect: Callable[[], socket.socket] | None = None
) -> Callable[[], None] | None:
    """Call ``hint`` in this event loop when something came; to be called there.

    Args:
        loop: the event loop.
        hint: called without arguments.
        connect: makes a socket that the messages come from, instead of the system's; for tests.

    Returns:
        What ends it; None when the system has no such messages for us.
    """
    if connect is None and sys.platform != "linux":
        return None
    try:
        reader = _Reader(loop, (connect or _connect)(), hint)
    except (OSError, NotImplementedError) as error:  # as in a sandbox
        _log.debug("The network cannot be watched: %s. Sessions try again by their timers alone.", error)
        return None
    return reader.close


def _connect() -> socket.socket:
    """A socket that the kernel sends its messages to. Python closes it in programs that are started."""
    assert sys.platform == "linux"
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    try:
        opened.setblocking(False)
        opened.bind((0, _GROUPS))
    except BaseException:
        opened.close()
        raise
    return opened


class _Reader:
    """Reads what the kernel sends, when it sends something."""

    def __init__(self, loop: asyncio.AbstractEventLoop, messages: socket.socket, hint: Callable[[], object]) -> None:
        self._loop = loop
        self._hint = hint
        self._links = Links()
        self._socket = messages
        try:
            loop.add_reader(messages, self._read)
        except BaseException:
            messages.close()
            raise

    def close(self) -> None:
        """Read no more. Twice is fine."""
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
            self._socket.close()

    def _read(self) -> None:
        came = False
        for _ in range(_READS_PER_TURN):
            try:
                data, (sender, _groups) = self._socket.recvfrom(_BUFFER_BYTES)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    _log.debug("The network is not watched any more: %s.", error)
                    self.close()
                    break
                self._links.forget()  # more came than there was room for: anything may have happened
                came = True
                continue
            if sender == 0:  # the kernel; other programs may send as well
                came = self._links.has_come(data) or came
        if came:
            self._hint()


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and content of each message in a datagram."""
    at = 0
    while at < len(data):
        length, kind, *_ = _HEADER.unpack_from(data, at)
        if length < _HEADER.size or at + length > len(data):
            return
        yield kind, data[at + _HEADER.size : at + length]
        at += _aligned(length)


def _attributes(data: bytes) -> dict[int, bytes]:
    """A message's attributes by their type."""
    found: dict[int, bytes] = {}
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size or at + length > len(data):
            break
        found[kind & _ATTRIBUTE_TYPE] = data[at + _ATTRIBUTE.size : at + length]
        at += _aligned(length)
    return found


def _aligned(length: int) -> int:
    return (length + 3) & ~3


def _told(kind: int, body: bytes) -> tuple[Hashable, bool] | None:
    """What a message is about, and whether it is there now; None for what cannot bring a network back."""
    if kind in (_NEW_LINK, _DEL_LINK):
        return _link(body, kind == _NEW_LINK)
    if kind in (_NEW_ADDRESS, _DEL_ADDRESS):
        return _address(body, kind == _NEW_ADDRESS)
    if kind in (_NEW_ROUTE, _DEL_ROUTE):
        return _route(body, kind == _NEW_ROUTE)
    return None


def _link(body: bytes, new: bool) -> tuple[Hashable, bool] | None:
    """A link is there when it is switched on and has a carrier."""
    _family, _type, index, flags, _change = _LINK.unpack_from(body)
    if flags & _LOOPBACK or _MASTER in _attributes(body[_LINK.size :]):
        return None
    return ("link", index), new and flags & (_UP | _RUNNING) == _UP | _RUNNING


def _address(body: bytes, new: bool) -> tuple[Hashable, bool] | None:
    family, _length, short_flags, scope, index = _ADDRESS.unpack_from(body)
    if scope == _OF_THIS_HOST:
        return None
    attributes = _attributes(body[_ADDRESS.size :])
    flags = int.from_bytes(attributes.get(_FLAGS, b""), sys.byteorder) or short_flags
    address = attributes.get(_LOCAL) or attributes.get(_IS_ADDRESS)
    return ("address", family, index, address), new and not flags & _TENTATIVE


def _route(body: bytes, new: bool) -> tuple[Hashable, bool] | None:
    """Only default routes: without one nothing but the neighbours can be reached."""
    family, length, _source, _service, table, *_ = _ROUTE.unpack_from(body)
    if length:
        return None
    attributes = _attributes(body[_ROUTE.size :])
    return ("route", family, attributes.get(_TABLE, table), attributes.get(_OUT_BY), attributes.get(_GATEWAY)), new
