"""What an adapter may answer to a push, and what must not be believed."""

from __future__ import annotations

import pytest

from localstore.adapter import PushResult, Refusal
from localstore.sync.answers import answers

FIRST, LAST, MADE = 4, 6, 9


@pytest.mark.parametrize(
    ("acknowledged", "refused", "fits"),
    [
        (6, [], True),  # all of it
        (4, [], True),  # a part, the rest comes again
        (8, [], True),  # an earlier answer was lost: more is stored than this batch holds
        (3, [4], True),  # the first one is refused, and nothing was stored
        (5, [6], True),
        (0, [5], True),
        (3, [], False),  # neither taken nor refused: this would go on for ever
        (0, [], False),
        (10, [], False),  # a number that no changeset has yet
        (6, [7], False),  # refused what was not pushed
        (0, [0], False),
    ],
)
def test_an_answer_is_about_what_was_pushed(acknowledged: int, refused: list[int], fits: bool) -> None:
    result = PushResult(acknowledged=acknowledged, refusals=tuple(Refusal(number=number, reason="no") for number in refused))
    assert answers(result, FIRST, LAST, MADE) is fits
