"""The survey on a terminal: a live table, or plain lines where nobody watches."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from examples.field_survey.data import ISLANDS
from examples.field_survey.reports import Phase, Status
from examples.field_survey.survey import View

__all__ = ["watching"]

_COLUMNS = {"device": 9, "penguins": 8, "pending": 7, "session": 8, "connection": 22, "doing": 34}
_NUMBERS = {"penguins", "pending"}
_COLOURS = {"CONNECTED": "green", "CONNECTING": "yellow", "DISCONNECTED": "red", "ACTIVE": "green", "PAUSED": "yellow"}


@contextmanager
def watching(console: Console) -> Iterator[View]:
    """A view that suits the console."""
    if not console.is_terminal:
        yield _Lines(console)
        return
    view = _LiveTable()
    with Live(get_renderable=view.render, console=console, refresh_per_second=10):
        yield view


class _Lines:
    """A line for each thing that happens, and for a device when its phase or one of its states has changed."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last: dict[str, tuple[str, str, str]] = {}

    def headline(self, text: str) -> None:
        self._console.print(text, soft_wrap=True)

    def status(self, island: str, status: Status) -> None:
        now = (status.phase, status.session, status.connection)
        if self._last.get(island) != now:
            self._last[island] = now
            self._console.print(
                f"  {island}: {status.phase}; {status.rows} rows, {status.pending} pending, "
                f"session {status.session}, connection {_connection(status)}",
                soft_wrap=True,
                highlight=False,
            )


class _LiveTable:
    """One row a device."""

    def __init__(self) -> None:
        self._headline = ""
        self._statuses: dict[str, Status] = {}

    def headline(self, text: str) -> None:
        self._headline = text

    def status(self, island: str, status: Status) -> None:
        self._statuses[island] = status

    def render(self) -> Group:
        table = Table()
        for title, width in _COLUMNS.items():
            table.add_column(title, justify="right" if title in _NUMBERS else "left", min_width=width, no_wrap=True)
        for island in ISLANDS:
            status = self._statuses.get(island, Status("starting", 0, 0, "", ""))
            table.add_row(
                island,
                str(status.rows),
                str(status.pending),
                Text(status.session, _COLOURS.get(status.session, "")),
                Text(_connection(status), _COLOURS.get(status.connection, "")),
                status.phase if status.phase != Phase.RESULT else "done",
            )
        return Group(Text(self._headline), table)


def _connection(status: Status) -> str:
    return f"{status.connection} ({status.why})" if status.why else status.connection
