"""Three devices write, hear of each other, and migrate there and back at random: columns and tables are dropped, renamed, and
come back. When all have the same schema again they hold the same, to the last clock.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations

from localstore.testing.clock import ManualClock
from tests.unit.store_kit import Device, close_devices, exchange

STEPS = 25


def text_table(name: str, *columns: str) -> sa.Table:
    text = (sa.Column(column, sa.String) for column in columns)
    return sa.Table(name, sa.MetaData(), sa.Column("id", sa.String, primary_key=True), *text)


OTHER = text_table("other", "text")
SCHEMAS = {
    "wide": [text_table("note", "title", "city"), OTHER],
    "narrow": [text_table("note", "title"), OTHER],
    "renamed": [text_table("note", "title", "town"), OTHER],
    "memo": [text_table("memo", "title", "city"), OTHER],
    "none": [OTHER],
}
MIGRATIONS = {
    ("wide", "narrow"): "ALTER TABLE note DROP COLUMN city",
    ("narrow", "wide"): "ALTER TABLE note ADD COLUMN city VARCHAR",
    ("wide", "renamed"): "ALTER TABLE note RENAME COLUMN city TO town",
    ("renamed", "wide"): "ALTER TABLE note RENAME COLUMN town TO city",
    ("wide", "memo"): "ALTER TABLE note RENAME TO memo",
    ("memo", "wide"): "ALTER TABLE memo RENAME TO note",
    ("wide", "none"): "DROP TABLE note",
    ("none", "wide"): "CREATE TABLE note (id VARCHAR PRIMARY KEY NOT NULL, title VARCHAR, city VARCHAR)",
    ("narrow", "none"): "DROP TABLE note",
    ("none", "narrow"): "CREATE TABLE note (id VARCHAR PRIMARY KEY NOT NULL, title VARCHAR)",
}


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    close_devices()


@pytest.mark.parametrize("seed", range(12))
def test_devices_that_migrate_at_random_hold_the_same_in_the_end(tmp_path: Path, seed: int) -> None:
    choose, clock = random.Random(seed), ManualClock()
    devices = [Device(tmp_path, name, SCHEMAS["wide"], clock=clock) for name in ("one", "two", "three")]
    schema_of = {device.name: "wide" for device in devices}
    for step in range(STEPS):
        device = choose.choice(devices)
        match choose.choices(["write", "exchange", "migrate"], [5, 3, 2])[0]:
            case "write":
                change_a_row(device, SCHEMAS[schema_of[device.name]][0], choose, step)
            case "exchange":
                exchange(*choose.sample(devices, 2))
            case "migrate":
                following = choose.choice([after for before, after in MIGRATIONS if before == schema_of[device.name]])
                migrate(device, schema_of, following)
        clock.advance(choose.choice([0, 1, 1000]))
    exchange(*devices)
    for device in devices:
        if schema_of[device.name] != "wide":
            migrate(device, schema_of, "wide")
    exchange(*devices)
    exchange(*devices)  # links that came with the first may have explained more
    assert devices[0].rows() == devices[1].rows() == devices[2].rows()
    assert devices[0].clocks() == devices[1].clocks() == devices[2].clocks()


def migrate(device: Device, schema_of: dict[str, str], following: str) -> None:
    device.close()
    engine = sa.create_engine(f"sqlite:///{device.path}", poolclass=sa.NullPool)
    with engine.begin() as connection:
        Operations(MigrationContext.configure(connection)).execute(MIGRATIONS[schema_of[device.name], following])
    schema_of[device.name] = following
    device.reopen(SCHEMAS[following])


def change_a_row(device: Device, table: sa.Table, choose: random.Random, step: int) -> None:
    if table is OTHER:
        return
    key, columns = choose.choice("abcd"), [column.name for column in table.columns if column.name != "id"]
    if (key,) not in device.rows(table.name):
        values = ", ".join(f"'{column} {step}'" for column in columns)
        device.write(f"INSERT INTO {table.name} (id, {', '.join(columns)}) VALUES ('{key}', {values})")
    elif choose.random() < 0.3:
        device.write(f"DELETE FROM {table.name} WHERE id = '{key}'")
    else:
        device.write(f"UPDATE {table.name} SET {choose.choice(columns)} = '{step}' WHERE id = '{key}'")
