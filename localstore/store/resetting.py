"""Resetting a store: it comes to hold what a freshly filled one holds, under that one's identity, in one transaction.

Whatever happened to the remote's history or to this file, a second store was filled from the remote beside it. This file
takes over all that it holds, and the unsent changes are put on top, by the rules in ``store.recovering``, or go; or, for a
remote that lost its data, all that this file holds is put on top and sent again (``store.seeding``). Until the commit the file
is as it was, and afterwards it is reset: there is nothing between.

Why a reset is needed, where the fresh store comes from, and what is done before and after, is not known here.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field

from localstore.errors import SchemaMismatch
from localstore.store.apply import catch_up
from localstore.store.capture import LOGS, Capturing, attach, captured_tables, set_capturing
from localstore.store.conflicts import forget_oldest
from localstore.store.file import Store
from localstore.store.incoming import DoesNotFitError, Incoming, read_incoming
from localstore.store.mirroring import mirror
from localstore.store.recovering import Dropped, Recovered, recover
from localstore.store.seal import seal_leftovers
from localstore.store.snapshot_file import SCHEMA
from localstore.store.state import load_state

__all__ = ["Dropped", "ResetOutcome", "ResetPlan", "reset"]


@dataclass(frozen=True, kw_only=True)
class ResetPlan:
    """What a reset does with the unsent changes.

    Attributes:
        recover: put them on top of what the remote has; else they go.
        seed: put all on top that this file holds, as the remote lost it. Unsent changes are part of it.
        stored: number and digest of changesets of this file's device that were seen in the remote's history. Those that are
            equal are left out, as they are there.
        stored_up_to: the remote has this device's changesets up to this number for certain; 0 when it is not known.
        step: what the record of the reset is to say when it is done.
    """

    recover: bool
    seed: bool = False
    stored: Mapping[int, bytes] = field(default_factory=dict)
    stored_up_to: int = 0
    step: str = "reset"


@dataclass(frozen=True)
class ResetOutcome:
    """What a reset did.

    Attributes:
        device: the identity that the file has now.
        recovered: how many changesets were put on top and wait in the outbox.
        skipped: how many the remote had already.
        discarded: how many are gone, as the plan said; the backup has them.
        dropped: rows whose unsent changes have no place in what the remote has, the first of them. Their values are in the
            conflicts list.
        dropped_count: how many there are in all.
        aside: numbers of unsent changesets that could not be put on top, with the reason. They are kept whole, set aside.
    """

    device: bytes
    recovered: int = 0
    skipped: int = 0
    discarded: int = 0
    dropped: tuple[Dropped, ...] = ()
    dropped_count: int = 0
    aside: tuple[tuple[int, str], ...] = ()


def reset(store: Store, fresh: Store, plan: ResetPlan, now_ms: int) -> ResetOutcome:
    """Make a store hold what a fresh one holds, with the unsent changes on top or without. Its rows change as if applied.

    Args:
        store: open, and stays so.
        fresh: filled from the remote's history, with the same schema and key, and nothing written in it. It is not changed,
            and may be deleted afterwards.
        now_ms: this device's clock.

    Raises:
        ValueError: the fresh store is not one: it is the same, of another application or partition, or was written to.
        SchemaMismatch: its tables do not fit this file's. Nothing was changed.
        StoreUnusable: there is no room (``DiskFull``, ``DiskFailed``). Nothing was changed.
        StoreBusy: another program kept the file too long. Nothing was changed.
    """
    if fresh.path == store.path:
        raise ValueError("A store cannot be reset to itself.")
    fresh.seal()
    fresh.catch_up()
    options = store.options
    with store.transaction(unconstrained=True, beside=fresh.path, key=options.encryption_key) as connection:
        seal_leftovers(connection, now_ms=now_ms, limits=options.limits)
        _check_fresh(connection)
        old = load_state(connection)
        connection.execute("UPDATE localstore_state SET folded = ?", (old.last_number,))  # what is unsent is in no clock there
        mirror(connection, _incoming(connection, store))
        catch_up(connection, now_ms, store.rules)
        outcome = _put_on_top(connection, store, plan, old.device, now_ms)
        attach(connection, list(captured_tables(connection)))
        set_capturing(connection, Capturing.BY_KEY)
        connection.execute("UPDATE localstore_reset SET step = ?", (plan.step,))
    return outcome


def _check_fresh(connection: sqlite3.Connection) -> None:
    here, there = (
        connection.execute(f"SELECT app, partition, device FROM {schema}.localstore_state").fetchone()
        for schema in ("main", SCHEMA)
    )
    if here[:2] != there[:2]:
        raise ValueError(f"The fresh store is of the application {there[0]!r}, partition {there[1]!r}.")
    if here[2] == there[2]:
        raise ValueError("The fresh store is the same device as this one.")
    own = " OR ".join(f"EXISTS (SELECT 1 FROM {SCHEMA}.{table})" for table in ("localstore_outbox", *LOGS))
    if connection.execute(f"SELECT last_number OR {own} FROM {SCHEMA}.localstore_state").fetchone()[0]:
        raise ValueError("The fresh store was written to.")


def _incoming(connection: sqlite3.Connection, store: Store) -> list[Incoming]:
    try:
        return read_incoming(connection)
    except DoesNotFitError as error:
        raise SchemaMismatch(
            f"What the remote has does not fit the tables of {store.path}: {error}. Nothing was changed.",
            hint="Migrate the file: alembic upgrade head.",
        ) from error


def _put_on_top(connection: sqlite3.Connection, store: Store, plan: ResetPlan, old: bytes, now_ms: int) -> ResetOutcome:
    set_capturing(connection, Capturing.OFF)
    device, last_stamp = load_state(connection).device, _highest(connection)
    (unsent,) = connection.execute("SELECT count(*) FROM localstore_outbox").fetchone()
    skipped = 0
    found = Recovered()
    if plan.recover:
        found = recover(connection, plan, old=old, last_stamp=last_stamp, now_ms=now_ms, rules=store.rules)
        last_stamp, skipped = found.last_stamp, found.skipped
    else:
        connection.execute("DELETE FROM localstore_outbox")
    connection.execute(
        "UPDATE localstore_state SET last_number = ?, folded = ?, last_stamp = ?", (found.number, found.number, last_stamp)
    )
    bounds = (store.options.conflicts_max_age, store.options.conflicts_max_count)
    if found.conflicts:
        forget_oldest(connection, found.conflicts, now_ms, *bounds)
    return ResetOutcome(
        device,
        recovered=found.number,
        skipped=skipped,
        discarded=0 if plan.recover else unsent,
        dropped=tuple(found.dropped),
        dropped_count=found.dropped_count,
        aside=tuple(found.aside),
    )


def _highest(connection: sqlite3.Connection) -> int:
    """The highest stamp of all that this file has known, before and after."""
    (found,) = connection.execute(
        "SELECT max(last_stamp, coalesce((SELECT max(stamp) FROM localstore_outbox), 0)) FROM localstore_state"
    ).fetchone()
    return int(found)
