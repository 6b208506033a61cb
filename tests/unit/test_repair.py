"""References between synced tables: whatever several devices do to both ends, all show the same, and nothing points nowhere.

What tables show is compared with a second reading of ``docs/merging.md``: the merged rows come from a device whose tables have
no foreign keys, and the rule is applied to them the long way round.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import event, given, settings

from localstore.testing.clock import ManualClock
from tests.unit.repair_kit import (
    Blank,
    Link,
    Round,
    Tables,
    beginning,
    blank_devices,
    insert,
    schema,
    stories,
    tables_in,
    the_long_way,
    try_to,
)
from tests.unit.store_kit import Device, close_devices, exchange, is_clean, query

EXAMPLES = 25


@pytest.fixture(scope="module")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Blank:
    return blank_devices(tmp_path_factory.mktemp("blank"), "xyzm")


def play(group: list[Device], links: list[Link], rounds: list[Round]) -> None:
    """Everything that happens, and in the end everybody has everything."""
    with group[0].store.write() as tx:
        tx.connection().exec_driver_sql("PRAGMA defer_foreign_keys = ON")
        for statement in beginning(links):
            tx.connection().exec_driver_sql(statement)
    exchange(*group)
    for round_ in rounds:
        for device, sql in zip(group, round_.writes, strict=True):
            device.clock.advance(0.001)
            try_to(device, *sql)
        for to, of, count in round_.deliveries:
            sealed = group[of].sealed()
            group[to].receive(*sealed[-count:], *sealed[:count])
        for device in round_.reopened:
            group[device].reopen()
    exchange(*group)


def check(group: list[Device], expected: Tables) -> None:
    for device in group:
        assert query(device.path, "PRAGMA foreign_key_check") == []
        assert tables_in(device) == expected
        assert is_clean(device.path)


def mend(group: list[Device], links: list[Link], merged: Device) -> None:
    """One device inserts what is missing again, and all hear of it."""
    number = group[0].store.state().last_number
    for link in links:
        lost = {row[link.column] for row in tables_in(merged)[link.table].values()} - {None}
        for key in sorted(map(str, lost)):
            try_to(group[0], insert(links, link.target, key, itertools.repeat(key), 5))
    news = [sealed for sealed in group[0].sealed() if sealed.number > number]
    for device in (*group[1:], merged):
        device.receive(*news)


@settings(max_examples=EXAMPLES, deadline=None)
@given(story=stories())
def test_every_device_shows_what_the_rule_makes_of_the_merged_rows(blank: Blank, story: tuple[list[Link], list[Round]]) -> None:
    links, rounds = story
    clock = ManualClock()
    with TemporaryDirectory() as folder:
        group = [blank(Path(folder), name, schema(links, enforced=True), clock) for name in "xyz"]
        merged = blank(Path(folder), "m", schema(links, enforced=False), clock)
        try:
            play(group, links, rounds)
            merged.receive(*(sealed for device in group for sealed in device.sealed()))
            expected = the_long_way(links, tables_in(merged))
            event("repaired" if expected != tables_in(merged) else "as merged")
            check(group, expected)
            mend(group, links, merged)
            check(group, the_long_way(links, tables_in(merged)))
        finally:
            close_devices()
