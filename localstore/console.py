"""Progress bars for programs in a terminal.

It shows what ``session.progress()`` tells, and waits like the session does. Nothing else in the library needs it.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from localstore.sync.progress import Direction, Progress, ProgressMode
from localstore.sync.session import SyncSession
from localstore.sync.stream import Stream
from localstore.timeouts import at_most

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["show_transfer"]

_BOTH = (Direction.UPLOAD, Direction.DOWNLOAD)


def show_transfer(
    session: SyncSession,
    *directions: Direction,
    timeout: float | None = None,
    console: Console | None = None,
) -> bool:
    """Wait until everything is transferred that is outstanding now, and draw a bar for each direction meanwhile.

    Where the output is no terminal nothing is drawn but the bars as they are at the end.

    Args:
        session: whose transfers.
        directions: which; both unless given.
        timeout: seconds to wait at most for each direction; None waits as long as it takes.
        console: where to draw; standard output unless given.

    Returns:
        Whether everything was transferred; False when the time was up. The transfers go on then.

    Raises:
        What ``upload_all_local_changes`` and ``download_all_server_changes`` raise.
    """
    from rich.progress import Progress as Bars

    timeout = at_most(timeout)
    wanted = directions or _BOTH
    with Bars(console=console) as bars:
        watched = []
        for direction in wanted:
            bar = bars.add_task(direction.value, total=1.0)
            stream = session.progress(direction, ProgressMode.CURRENT_CHANGES)

            def draw(stream: Stream[Progress] = stream, bar: int = bar) -> None:
                for progress in stream:
                    bars.update(bars.task_ids[bar], completed=progress.estimate)

            thread = threading.Thread(target=draw, name=f"localstore-{direction.value}-bar", daemon=True)
            thread.start()
            watched.append((direction, stream, thread, bar))
        done = True
        try:
            for direction, _, _, bar in watched:
                if _wait(session, direction, timeout):
                    bars.update(bars.task_ids[bar], completed=1.0)
                else:
                    done = False
        finally:
            for _, stream, thread, _ in watched:
                stream.close()
                thread.join()
    return done


def _wait(session: SyncSession, direction: Direction, timeout: float | None) -> bool:
    if direction is Direction.UPLOAD:
        return session.upload_all_local_changes(timeout)
    return session.download_all_server_changes(timeout)
