"""Syncthing daemons that keep copies of a folder in step, on loopback and known to nobody else."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.integration.real_tools import PATIENCE_SECONDS, until

__all__ = ["Daemon", "daemons"]

_KEY = "only-for-this-test"
_ANSWER_SECONDS = 20
_ENVIRONMENT = {**os.environ, "STNODEFAULTFOLDER": "1", "STNOUPGRADE": "1"}
_OPTIONS = {
    "globalAnnounceEnabled": "false",
    "localAnnounceEnabled": "false",
    "relaysEnabled": "false",
    "natEnabled": "false",
    "crashReportingEnabled": "false",
    "urAccepted": "-1",
    "autoUpgradeIntervalH": "0",
    "startBrowser": "false",
    "reconnectionIntervalS": "5",
    "setLowPriority": "false",
}


class Daemon:
    """A Syncthing with its own identity and its own copy of the folder; it runs from ``start`` to ``stop``."""

    def __init__(self, home: Path, copy: Path) -> None:
        self.copy = copy
        self._home = home
        self._gui, self.port = _free_port(), _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        copy.mkdir()
        self.identity = _new_identity(home)

    def know(self, everybody: Sequence[Daemon]) -> None:
        """Share the copy with these, of whom it is one, and speak to nobody else."""
        (self._home / "config.xml").write_text(_configuration(self, self._gui, everybody), encoding="utf-8")

    def start(self) -> None:
        with (self._home / "log").open("ab") as log:
            self._process = subprocess.Popen(
                ["syncthing", "serve", f"--home={self._home}", "--no-browser", "--no-restart", "--no-upgrade"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_ENVIRONMENT,
            )
        until(self._answers, "an answer of Syncthing")

    def stop(self) -> None:
        """End it in order, if it runs."""
        if self._process is None:
            return
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(PATIENCE_SECONDS)
        self._process.kill()
        self._process.wait()
        self._process = None

    def has_given_everything_to(self, other: Daemon) -> bool:
        """Whether the other has all that lies in this copy now, as far as this one knows."""
        self._ask("db/scan?folder=shared", method="POST")
        completion = self._ask(f"db/completion?folder=shared&device={other.identity}")
        return bool(completion["completion"] == 100 and other.identity in self._connected())

    def _connected(self) -> set[str]:
        connections = self._ask("system/connections")["connections"]
        return {identity for identity, connection in connections.items() if connection["connected"]}

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._home / "log").read_text(encoding="utf-8")
        with suppress(OSError):
            return self._ask("system/ping") == {"ping": "pong"}
        return False

    def _ask(self, what: str, method: str = "GET") -> Any:
        url = f"http://127.0.0.1:{self._gui}/rest/{what}"
        request = urllib.request.Request(url, method=method, headers={"X-API-Key": _KEY})
        with urllib.request.urlopen(request, timeout=_ANSWER_SECONDS) as answer:
            return json.loads(answer.read() or b"null")


@contextmanager
def daemons(folder: Path) -> Iterator[tuple[Daemon, Daemon]]:
    """Two daemons that know each other, not started, and stopped whatever happens."""
    folder.mkdir()
    pair = Daemon(folder / "home a", folder / "copy a"), Daemon(folder / "home b", folder / "copy b")
    with ExitStack() as stack:
        for daemon in pair:
            daemon.know(pair)
            stack.callback(daemon.stop)
        yield pair


def _configuration(own: Daemon, gui: int, everybody: Sequence[Daemon]) -> str:
    members = "".join(f'<device id="{daemon.identity}"/>' for daemon in everybody)
    devices = "".join(
        f'<device id="{daemon.identity}" name="{daemon.copy.name}"><address>tcp://127.0.0.1:{daemon.port}</address></device>'
        for daemon in everybody
    )
    options = "".join(f"<{name}>{value}</{name}>" for name, value in _OPTIONS.items())
    return f"""<configuration version="35">
<folder id="shared" path="{own.copy}" type="sendreceive" rescanIntervalS="3600" fsWatcherEnabled="true" fsWatcherDelayS="1">
{members}<minDiskFree unit="%">0</minDiskFree><maxConflicts>10</maxConflicts></folder>
{devices}
<gui enabled="true" tls="false"><address>127.0.0.1:{gui}</address><apikey>{_KEY}</apikey></gui>
<options><listenAddress>tcp://127.0.0.1:{own.port}</listenAddress>{options}</options>
</configuration>
"""


def _new_identity(home: Path) -> str:
    """Make a key, and return the name that others know it by."""
    command = ["syncthing", "generate", f"--home={home}"]
    subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE_SECONDS, env=_ENVIRONMENT)
    found = re.search(r'<device id="([A-Z0-9-]+)"', (home / "config.xml").read_text(encoding="utf-8"))
    assert found is not None
    return found[1]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
