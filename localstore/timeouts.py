"""How long a caller is ready to wait: what every call with a timeout takes for one, and refuses. Pure."""

from __future__ import annotations

__all__ = ["at_most"]

_LONGEST_SECONDS = 100 * 366 * 86_400.0  # what is longer is for ever, and no clock or lock has to be able to count it


def at_most(timeout: object, *, name: str = "timeout", for_ever: str = "None", may_be_zero: bool = False) -> float | None:
    """Seconds to wait at most; None to wait as long as it takes, as for infinity.

    Args:
        timeout: what the caller gave.
        name: what the argument is called.
        for_ever: how to say that one waits as long as it takes.
        may_be_zero: whether one may look without waiting.

    Raises:
        TypeError, ValueError: it is no time to wait.
    """
    if timeout is None:
        return None
    positive = "number of seconds" if may_be_zero else "positive number of seconds"
    wanted = f"{name} is a {positive}, or {for_ever} to wait as long as it takes"
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise TypeError(f"{wanted}, not {timeout!r}.")
    if not (timeout > 0 or (may_be_zero and timeout == 0)):
        raise ValueError(f"{wanted}; got {timeout!r}.")
    return float(timeout) if timeout <= _LONGEST_SECONDS else None
