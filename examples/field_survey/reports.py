"""What a device process tells the survey, as lines of JSON, and the phases that the survey asks it to go through."""

import json
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

__all__ = ["Failed", "Finished", "LostValue", "Phase", "Report", "Result", "Status", "decode", "encode"]


class Phase(StrEnum):
    """What a device is asked to do next. The values are what people read."""

    ENTER = "entering data, remote out of reach"
    UPLOAD = "online, uploading"
    DOWNLOAD = "online, downloading"
    EDIT = "paused, editing"
    RESULT = "reporting"


@dataclass(frozen=True)
class Status:
    """How a device is right now; ``why`` names the error that it met last, if it has not connected since."""

    phase: str
    rows: int
    pending: int
    session: str
    connection: str
    why: str = ""


@dataclass(frozen=True)
class Finished:
    """The phase that was asked for is done."""

    phase: str


@dataclass(frozen=True)
class Failed:
    """The device cannot go on."""

    reason: str


@dataclass(frozen=True)
class LostValue:
    """A value that this device wrote and that gave way to another device's."""

    table: str
    key: list[Any]
    column: str
    lost_value: Any
    won_value: Any
    lost_device: str
    won_device: str
    rule: str


@dataclass(frozen=True)
class Result:
    """What a device holds at the end."""

    device_id: str
    path: str
    rows: dict[str, int]
    digest: str
    lost: list[LostValue] = field(default_factory=list)


Report = Status | Finished | Failed | Result
_KINDS: dict[str, type[Report]] = {kind.__name__: kind for kind in (Status, Finished, Failed, Result)}


def encode(report: Report) -> str:
    """One line for a report."""
    return json.dumps({"kind": type(report).__name__, **asdict(report)})


def decode(line: str) -> Report:
    """The report of a line."""
    content = json.loads(line)
    kind = _KINDS[content.pop("kind")]
    if kind is Result:
        content["lost"] = [LostValue(**lost) for lost in content["lost"]]
    return kind(**content)
