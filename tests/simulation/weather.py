"""What may happen to the messages between a device and the remote, in numbers."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CALM", "Weather"]

_DAY = 86_400.0


@dataclass(frozen=True)
class Weather:
    """What happens to the messages of one device; all but the seconds are parts of 1.

    Attributes:
        is_up: whether there is a network at all.
        delay: seconds, at most, mostly.
        lose_request, lose_answer: how many never arrive.
        tell: of what is lost, how much the sender hears of; else it waits in vain.
        busy: how many requests the remote answers with that it is busy.
        twice: how many requests arrive a second time.
        late: how many of them arrive, or arrive again, much later than all others: up to ``late_s``.
        small: how many pages hold one changeset.
        again: how many pages begin with what the device has been given before.
        lose_hint: how many hints do not arrive; others do so ``twice``, or ``late``, as requests do.
    """

    is_up: bool = True
    delay: float = 0.05
    lose_request: float = 0.0
    lose_answer: float = 0.0
    tell: float = 0.5
    busy: float = 0.0
    twice: float = 0.0
    late: float = 0.0
    late_s: float = 2 * _DAY
    small: float = 0.0
    again: float = 0.0
    lose_hint: float = 0.0


CALM = Weather()
