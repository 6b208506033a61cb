"""What the hub answers instead of doing something: problems as data, with the status that goes with each.

Nothing of what goes on inside leaves the hub through here: what was not written for a device becomes an id that stands in the
log. This module knows no HTTP library.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from localstore.errors import (
    Busy,
    LocalStoreError,
    Offline,
    ProtocolError,
    RateLimited,
    ResetRequired,
    SnapshotUnusable,
    SyncError,
    Unauthorized,
)
from localstore.http_messages import Problem, TooLong, problem_of

__all__ = [
    "Declined",
    "declined_by_accounts",
    "declined_by_log",
    "forbidden",
    "not_understood",
    "rate_limited",
    "too_large",
    "unexpected",
]

_log = logging.getLogger("localstore.hub")
_BUSY_SECONDS = 1.0

_STATUS = {
    "offline": 503,
    "busy": 503,
    "rate_limited": 429,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "range": 416,
    "reset_required": 409,
    "snapshot_unusable": 410,
    "refused": 422,
    "too_large": 413,
    "timeout": 408,
    "too_old": 426,
    "too_new": 426,
    "unexpected": 500,
}


class Declined(Exception):  # noqa: N818 - it is an answer
    """The answer to a request that was not done.

    Attributes:
        problem: what the device is told.
        status: the HTTP status.
    """

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem
        self.status = 500 if problem.id else _STATUS.get(problem.kind, 400)

    @classmethod
    def of(cls, error: SyncError) -> Declined:
        """An error whose words were written for devices."""
        return cls(problem_of(error))


def forbidden(partition: str, wanted: str = "use") -> Declined:
    """What is told of a partition that somebody has no access to; the same whether it exists or not."""
    message = f"This user may not {wanted} the partition {partition!r}. Nothing was read or written."
    return Declined(Problem(kind="forbidden", message=message, hint="Ask for access, or open another partition."))


def rate_limited(seconds: float) -> Declined:
    return Declined.of(RateLimited("Too many requests came to the hub. Nothing is lost.", retry_after=round(seconds, 3)))


def too_large(limit: int) -> Declined:
    return Declined(Problem(kind="too_large", message=f"The hub takes up to {limit} bytes in one request."))


def declined_by_accounts(error: LocalStoreError, new_id: Callable[[], str]) -> Declined:
    """Accounts speak to users; all else that can come from them is not meant for these."""
    return Declined.of(error) if isinstance(error, Unauthorized | Busy) else unexpected(error, new_id)


def declined_by_log(error: BaseException, new_id: Callable[[], str]) -> Declined:
    """What a log says, less what is nobody's business: where it is, and what it is made of."""
    if isinstance(error, ResetRequired):
        return Declined.of(ResetRequired(error.reason, kind=error.kind, may_recover=error.may_recover))
    if isinstance(error, Busy):
        return Declined.of(Busy("The hub's log is busy. Nothing is lost.", retry_after=error.retry_after or _BUSY_SECONDS))
    if isinstance(error, Offline):
        _log.warning("The log is out of reach: %s", error)
        return Declined.of(Offline("The hub cannot reach its log now. Nothing is lost."))
    if isinstance(error, SnapshotUnusable):
        return Declined.of(SnapshotUnusable("The hub does not have this snapshot any more.", hint="Ask for the latest again."))
    return unexpected(error, new_id)


def unexpected(error: BaseException, new_id: Callable[[], str]) -> Declined:
    """An answer that tells nothing but where the log tells more."""
    name = new_id()
    _log.error("A request failed (%s).", name, exc_info=error)
    message = "Something went wrong in the hub. Nothing is lost, and it is tried again."
    return Declined(Problem(kind="busy", message=message, retry_after=_BUSY_SECONDS, id=name))


def not_understood(error: ProtocolError, limit: int) -> Declined:
    """A body that cannot be read."""
    return too_large(limit) if isinstance(error, TooLong) else Declined.of(error)
