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

from localstore.clock import stamp_ms
from localstore.errors import SchemaMismatch, StoreBusy
from localstore.store.apply import catch_up, fold
from localstore.store.capture import LOGS, Capturing, attach, captured_tables, set_capturing
from localstore.store.conflicts import A_DELETE_WINS, A_LATER_WRITE_WINS, forget_oldest
from localstore.store.file import Store
from localstore.store.incoming import DoesNotFitError, Incoming, read_incoming
from localstore.store.losses import note_lost
from localstore.store.mirroring import mirror
from localstore.store.recovering import Dropped, Recovered, recover
from localstore.store.rows import Rows
from localstore.store.seal import seal_leftovers
from localstore.store.seeding import seed, seeding_horizon, take_seeds
from localstore.store.snapshot_file import SCHEMA
from localstore.store.state import load_state
from localstore.store.stored import read_changeset
from localstore.store.undoing import HAVE_UNDONE, refusals

__all__ = ["Dropped", "ResetOutcome", "ResetPlan", "reset"]

_FOLD_CHUNK = 500
_CACHE_KIB = 64 * 1024  # rows come in the order of their stamps, which is none that a file lies in
_UNSENT = "main.localstore_unsent"  # what was in the outbox, for as long as a reset takes


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
        device: the identity that the file must still have, so that of two processes only one resets it; None for any.
    """

    recover: bool
    seed: bool = False
    stored: Mapping[int, bytes] = field(default_factory=dict)
    stored_up_to: int = 0
    step: str = "reset"
    device: bytes | None = None


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
        StoreBusy: another program kept the file too long, or has reset it meanwhile. Nothing was changed.
    """
    if fresh.path == store.path:
        raise ValueError("A store cannot be reset to itself.")
    fresh.seal()
    fresh.catch_up()
    if plan.seed:
        store.fold()
        store.catch_up()
    options = store.options
    with store.transaction(unconstrained=True, beside=fresh.path, key=options.encryption_key) as connection:
        seal_leftovers(connection, now_ms=now_ms, limits=options.limits)
        _check_fresh(connection)
        if plan.device not in (None, load_state(connection).device):
            raise StoreBusy(f"{store.path} was reset by another process meanwhile. Nothing was changed.")
        connection.execute(f"PRAGMA main.cache_size = -{_CACHE_KIB}")  # of this connection, which ends with the transaction
        return _Reset(connection, store, plan, now_ms).run()


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


class _Reset:
    """One reset, within a transaction."""

    def __init__(self, connection: sqlite3.Connection, store: Store, plan: ResetPlan, now_ms: int) -> None:
        self._connection = connection
        self._store = store
        self._plan = plan
        self._now_ms = now_ms
        self._old = load_state(connection)
        (self._device,) = connection.execute(f"SELECT device FROM {SCHEMA}.localstore_state").fetchone()

    def run(self) -> ResetOutcome:
        connection, store = self._connection, self._store
        (unsent,) = connection.execute("SELECT count(*) FROM localstore_outbox").fetchone()
        seeds = self._seed() if self._plan.seed else 0
        # What is in the outbox is in no clock there.
        connection.execute("UPDATE localstore_state SET folded = ?", (max(seeds, self._old.last_number),))
        keeps = self._plan.recover or self._plan.seed
        mirror(connection, _incoming(connection, store), keep_unsealed=keeps)
        catch_up(connection, self._now_ms, store.rules)
        last_stamp = max(self._old.last_stamp, load_state(connection).last_stamp)
        set_capturing(connection, Capturing.OFF)
        if self._plan.seed:
            take_seeds(connection, self._rows(), seeds)
            done = Recovered(number=seeds, last_stamp=last_stamp, conflicts=self._note_what_seeds_lost())
        elif self._plan.recover:
            done = recover(
                connection,
                self._plan,
                old=self._old.device,
                last_stamp=last_stamp,
                now_ms=self._now_ms,
                rules=store.rules,
            )
        else:
            connection.execute("DELETE FROM localstore_outbox")
            done = Recovered(last_stamp=last_stamp)
        self._note_refused(done)
        self._finish(done)
        return ResetOutcome(
            self._device,
            recovered=done.number,
            skipped=done.skipped,
            discarded=0 if keeps else unsent,
            dropped=tuple(done.dropped),
            dropped_count=done.dropped_count,
            aside=tuple(done.aside),
        )

    def _seed(self) -> int:
        """Put all that the file holds into the outbox, in place of what is unsent, which is part of it."""
        connection, options = self._connection, self._store.options
        while fold(connection, _FOLD_CHUNK):
            pass
        catch_up(connection, self._now_ms, self._store.rules)
        connection.execute(f"CREATE TABLE {_UNSENT} AS SELECT number, sealed FROM main.localstore_outbox")
        connection.execute("DELETE FROM localstore_outbox")
        offline_ms = int(options.client_maximum_offline_time * 1000)
        before = seeding_horizon(self._now_ms, stamp_ms(self._old.last_stamp), offline_ms)
        return seed(connection, self._device, before=before, limits=options.limits)

    def _note_what_seeds_lost(self) -> int:
        """List the unsent values in whose place are others that the remote has; returns how many."""
        rows, count = self._rows(), 0
        for (data,) in self._connection.execute(f"SELECT sealed FROM {_UNSENT} ORDER BY number"):
            changeset, rules = read_changeset(data), (A_LATER_WRITE_WINS, A_DELETE_WINS)
            count += note_lost(self._connection, rows, changeset, own=(self._device,), rules=rules, now_ms=self._now_ms)
        self._connection.execute(f"DROP TABLE {_UNSENT}")
        return count

    def _note_refused(self, done: Recovered) -> None:
        """List what the remote had refused and was not undone yet: it is now, as the remote does not have it."""
        rows, own = self._rows(), (self._old.device, self._device)
        for refusal in refusals(self._connection):
            rules = (refusal.rule, refusal.rule)
            done.conflicts += note_lost(self._connection, rows, refusal.changeset, own=own, rules=rules, now_ms=self._now_ms)
        self._connection.execute(HAVE_UNDONE)

    def _rows(self) -> Rows:
        return Rows(self._connection, self._device, self._now_ms, self._store.rules)

    def _finish(self, done: Recovered) -> None:
        connection, options = self._connection, self._store.options
        connection.execute(
            "UPDATE localstore_state SET last_number = ?, folded = ?, last_stamp = ?",
            (done.number, done.number, done.last_stamp),
        )
        attach(connection, list(captured_tables(connection)))
        set_capturing(connection, Capturing.BY_KEY)
        connection.execute("UPDATE localstore_reset SET step = ?", (self._plan.step,))
        if done.conflicts:
            forget_oldest(connection, done.conflicts, self._now_ms, options.conflicts_max_age, options.conflicts_max_count)
