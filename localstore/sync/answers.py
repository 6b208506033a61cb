"""Whether a remote's answers make sense, and are those of the remote that this device knows. Pure."""

from __future__ import annotations

from localstore.adapter import PushResult, Welcome
from localstore.errors import ResetRequired
from localstore.store.state import State

__all__ = ["answers", "check_welcome"]


def check_welcome(welcome: Welcome, state: State, *, acknowledged: int, made: int) -> None:
    """See that the remote is the one this device knows, and that their histories have not parted.

    Args:
        welcome: its answer.
        state: of the file before it was asked.
        acknowledged: the highest number that the remote had acknowledged before it answered.
        made: the highest number that the file had given away after that.

    Raises:
        ResetRequired: they have.
    """
    if state.remote_id not in (None, welcome.remote_id):
        raise ResetRequired(
            "remote replaced", hint="Nothing was sent to it; this device's data and unsent changes are untouched."
        )
    if welcome.last_number < acknowledged:
        raise ResetRequired(
            f"remote restored (it had acknowledged changeset {acknowledged} of this device, and has {welcome.last_number})",
            hint="It lost history, as by going back to an old backup. This device's data is untouched.",
        )
    if welcome.last_number > made:
        raise ResetRequired(
            f"device forked (the remote has changeset {welcome.last_number} of this device, the file {made})",
            hint="The file was copied, or restored from a backup. Its data and unsent changes are untouched.",
        )


def answers(result: PushResult, first: int, last: int, made: int) -> bool:
    """Whether a result can be the answer to a batch.

    Args:
        result: what the adapter said. It may acknowledge what was stored before, beyond the batch.
        first, last: the batch's numbers.
        made: the highest number that this device has given to a changeset.
    """
    refused = {refusal.number for refusal in result.refusals}
    return (
        result.acknowledged <= made
        and refused <= set(range(first, last + 1))
        and (result.acknowledged >= first or bool(refused))
    )
