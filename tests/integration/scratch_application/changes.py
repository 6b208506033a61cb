"""The changes of the models that the scratch application goes through, and what its devices write meanwhile.

``the(n)`` in an edit is the task, or job, with the number n; ``ID(n)`` is a key with a number.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

__all__ = ["CHANGES", "FIRST_ROWS", "OLD", "Change", "Expected"]

Expected = dict[str, dict[int, dict[str, Any] | None]]
"""By table and number of the key: columns that a row has to hold, None for a row that must not be there."""

HEAD = """
from decimal import Decimal
from uuid import UUID

import sqlalchemy as sa
from sqlmodel import Field, SQLModel

from localstore import uuid7
from localstore.types import ExactDecimal
"""
TASK = """

class Task(SQLModel, table=True):
    id: UUID = Field(default_factory=uuid7, primary_key=True)
    name: str
    minutes: int = 0
    street: str | None = None
    city: str | None = None
"""
STEP = """

class Step(SQLModel, table=True):
    id: UUID = Field(default_factory=uuid7, primary_key=True)
    task_id: UUID = Field(foreign_key="task.id", ondelete="CASCADE")
    text: str
"""
OLD = HEAD + TASK + STEP

FIRST_ROWS = """
tx.add_all(Task(id=ID(n), name=f"task {n}", minutes=n, street=f"street {n}", city=f"city {n}") for n in range(1, 8))
tx.flush()
tx.add_all(Step(id=ID(100 + n), task_id=ID(n), text=f"step {n}") for n in range(1, 8))
"""


@dataclass(frozen=True)
class Change:
    """One change of the models.

    Attributes:
        models: the new models.
        unsent_on_a, unsent_on_b: edits under the old models, not sent when the device migrates.
        old_on_b: edits of b under the old models, when a has migrated.
        new_on_a: edits of a under the new models, when b has not migrated.
        later: an edit under the new models, when all have them.
        back: an edit under the old models, when all are back.
        expected: what all devices hold when all have migrated.
        expected_back: what all devices hold when all are back.
        revision: what the author writes into the revision's two functions; None leaves what autogenerate wrote.
        added: what the author adds to the two, ``%s`` being what autogenerate wrote.
    """

    models: str
    unsent_on_a: str
    unsent_on_b: str
    old_on_b: str
    new_on_a: str
    later: str
    back: str
    expected: Expected
    expected_back: Expected
    revision: tuple[str, str] = field(default=("%s", "%s"))


def _set(number: int, **values: Any) -> str:
    return "".join(f"the({number}).{name} = {value!r}\n" for name, value in values.items())


def _without(*columns: str) -> str:
    return "\n".join(line for line in OLD.splitlines() if line.strip().split(":")[0] not in columns)


ADD_COLUMN = Change(
    models=OLD.replace(
        "    minutes: int = 0\n",
        "    minutes: int = 0\n    due: str | None = None\n"
        "    price: Decimal | None = Field(default=None, sa_type=ExactDecimal(places=2))\n"
        '    is_done: bool = Field(default=False, sa_column_kwargs={"server_default": sa.false()})\n',
    ),
    unsent_on_a=_set(1, name="a, unsent") + 'tx.add(Task(id=ID(11), name="a, new, unsent"))',
    unsent_on_b=_set(2, name="b, unsent") + 'tx.add(Task(id=ID(12), name="b, new, unsent"))',
    old_on_b=_set(3, name="b, old") + 'tx.add(Task(id=ID(13), name="b, new, old"))\ntx.delete(the(6))',
    new_on_a=_set(4, name="a, new", due="today", is_done=True, price=Decimal("0.1"))
    + 'tx.add(Task(id=ID(14), name="a, new", due="soon"))',
    later=_set(5, due="later"),
    back=_set(5, name="back"),
    expected={
        "task": {
            1: {"name": "a, unsent", "due": None, "is_done": 0},
            2: {"name": "b, unsent", "due": None},
            3: {"name": "b, old"},
            4: {"name": "a, new", "due": "today", "is_done": 1, "price": "0.10"},
            5: {"due": "later"},
            6: None,
            11: {"name": "a, new, unsent", "due": None, "is_done": 0},
            12: {"name": "b, new, unsent", "is_done": 0},
            13: {"name": "b, new, old", "is_done": 0},
            14: {"name": "a, new", "due": "soon", "is_done": 0},
        },
        "step": {101: {"text": "step 1"}, 106: None},
    },
    expected_back={"task": {4: {"name": "a, new"}, 5: {"name": "back"}, 14: {"name": "a, new"}}},
)
RENAME_COLUMN = Change(
    models=OLD.replace("name: str", "title: str"),
    revision=(
        'with op.batch_alter_table("task") as batch:\n        batch.alter_column("name", new_column_name="title")',
        'with op.batch_alter_table("task") as batch:\n        batch.alter_column("title", new_column_name="name")',
    ),
    unsent_on_a=_set(1, name="a, unsent") + 'tx.add(Task(id=ID(11), name="a, new, unsent"))',
    unsent_on_b=_set(2, name="b, unsent") + 'tx.add(Task(id=ID(12), name="b, new, unsent"))',
    old_on_b=_set(3, name="b, old") + 'tx.add(Task(id=ID(13), name="b, new, old"))',
    new_on_a=_set(4, title="a, new") + 'tx.add(Task(id=ID(14), title="a, new"))',
    later=_set(5, title="later"),
    back=_set(6, name="back"),
    expected={
        "task": {
            1: {"title": "a, unsent"},
            2: {"title": "b, unsent"},
            3: {"title": "b, old"},
            4: {"title": "a, new"},
            5: {"title": "later"},
            11: {"title": "a, new, unsent"},
            12: {"title": "b, new, unsent"},
            13: {"title": "b, new, old"},
            14: {"title": "a, new"},
        },
        "step": {101: {"text": "step 1"}},
    },
    expected_back={"task": {3: {"name": "b, old"}, 4: {"name": "a, new"}, 5: {"name": "later"}, 6: {"name": "back"}}},
)
DROP_COLUMN = Change(
    models=_without("city"),
    unsent_on_a=_set(1, city="a, unsent") + 'tx.add(Task(id=ID(11), name="new", city="a, new, unsent"))',
    unsent_on_b=_set(2, city="b, unsent") + 'tx.add(Task(id=ID(12), name="new", city="b, new, unsent"))',
    old_on_b=_set(3, city="b, old", name="b") + 'tx.add(Task(id=ID(13), name="new", city="b, new, old"))',
    new_on_a=_set(4, name="a") + 'tx.add(Task(id=ID(14), name="a, new"))',
    later=_set(5, name="later"),
    back=_set(6, city="back"),
    expected={
        "task": {
            1: {"name": "task 1"},
            3: {"name": "b"},
            4: {"name": "a"},
            5: {"name": "later"},
            11: {},
            12: {},
            13: {},
            14: {"name": "a, new"},
        },
        "step": {101: {"text": "step 1"}},
    },
    expected_back={
        "task": {
            1: {"city": "a, unsent"},
            2: {"city": "b, unsent"},
            3: {"city": "b, old", "name": "b"},
            4: {"city": "city 4"},
            5: {"city": "city 5"},
            6: {"city": "back"},
            11: {"city": "a, new, unsent"},
            12: {"city": "b, new, unsent"},
            13: {"city": "b, new, old"},
            14: {"city": None},
        }
    },
)
CHANGE_TYPE = Change(
    models=OLD.replace("minutes: int = 0", "minutes: float = 0.0"),
    unsent_on_a=_set(1, minutes=101) + 'tx.add(Task(id=ID(11), name="new", minutes=11))',
    unsent_on_b=_set(2, minutes=102) + 'tx.add(Task(id=ID(12), name="new", minutes=12))',
    old_on_b=_set(3, minutes=103) + 'tx.add(Task(id=ID(13), name="new", minutes=13))',
    new_on_a=_set(4, minutes=4.0) + 'tx.add(Task(id=ID(14), name="new", minutes=14.0))',
    later=_set(5, minutes=5.5),
    back=_set(5, minutes=5) + _set(6, minutes=106),
    expected={
        "task": {
            1: {"minutes": 101.0},
            2: {"minutes": 102.0},
            3: {"minutes": 103.0},
            4: {"minutes": 4.0},
            5: {"minutes": 5.5},
            11: {"minutes": 11.0},
            12: {"minutes": 12.0},
            13: {"minutes": 13.0},
            14: {"minutes": 14.0},
        },
        "step": {101: {"text": "step 1"}},
    },
    expected_back={"task": {1: {"minutes": 101}, 3: {"minutes": 103}, 4: {"minutes": 4}, 5: {"minutes": 5}}},
)
RENAME_TABLE = Change(
    models=OLD.replace("class Task", "class Job").replace('"task.id"', '"job.id"'),
    revision=('op.rename_table("task", "job")', 'op.rename_table("job", "task")'),
    unsent_on_a=_set(1, name="a, unsent") + 'tx.add(Task(id=ID(11), name="new"))\ntx.flush()\n'
    'tx.add(Step(id=ID(111), task_id=ID(11), text="a, unsent"))',
    unsent_on_b=_set(2, name="b, unsent") + 'tx.add(Task(id=ID(12), name="new"))',
    old_on_b=_set(3, name="b, old") + 'tx.add(Task(id=ID(13), name="new"))\ntx.delete(the(7))\ntx.flush()\n'
    'tx.add(Step(id=ID(113), task_id=ID(13), text="b, old"))',
    new_on_a=_set(4, name="a, new") + 'tx.add(Job(id=ID(14), name="new"))\ntx.flush()\n'
    'tx.add(Step(id=ID(114), task_id=ID(14), text="a, new"))',
    later=_set(5, name="later"),
    back=_set(6, name="back"),
    expected={
        "job": {
            1: {"name": "a, unsent"},
            2: {"name": "b, unsent"},
            3: {"name": "b, old"},
            4: {"name": "a, new"},
            5: {"name": "later"},
            7: None,
            11: {},
            12: {},
            13: {},
            14: {},
        },
        "step": {101: {}, 107: None, 111: {}, 113: {"text": "b, old"}, 114: {"text": "a, new"}},
    },
    expected_back={"task": {3: {"name": "b, old"}, 5: {"name": "later"}, 6: {"name": "back"}, 7: None}},
)
NEW_TABLE = Change(
    models=OLD
    + """

class Tag(SQLModel, table=True):
    id: UUID = Field(default_factory=uuid7, primary_key=True)
    task_id: UUID = Field(foreign_key="task.id", ondelete="CASCADE")
    label: str
""",
    unsent_on_a=_set(1, name="a, unsent"),
    unsent_on_b=_set(2, name="b, unsent"),
    old_on_b=_set(3, name="b, old") + 'tx.add(Task(id=ID(13), name="new"))',
    new_on_a='tx.add_all(Tag(id=ID(200 + n), task_id=ID(n), label=f"tag {n}") for n in (1, 2, 13))',
    later='tx.add(Tag(id=ID(207), task_id=ID(7), label="tag 7"))\ntx.get(Tag, ID(202)).label = "later"',
    back=_set(6, name="back"),
    expected={
        "task": {1: {"name": "a, unsent"}, 2: {"name": "b, unsent"}, 3: {"name": "b, old"}, 13: {}},
        "tag": {201: {"label": "tag 1"}, 202: {"label": "later"}, 213: {"label": "tag 13"}, 207: {}},
        "step": {101: {}},
    },
    expected_back={"task": {6: {"name": "back"}, 13: {}}, "step": {101: {}}},
)
_SPLIT = """op.create_table(
        "address",
        sa.Column("task_id", sa.Uuid(), nullable=False),
        sa.Column("street", sqlmodel.sql.sqltypes.AutoString(), nullable=True),
        sa.Column("city", sqlmodel.sql.sqltypes.AutoString(), nullable=True),
        sa.ForeignKeyConstraint(["task_id"], ["task.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("task_id"),
    )
    op.execute("INSERT INTO address (task_id, street, city) SELECT id, street, city FROM task")
    with op.batch_alter_table("task") as batch:
        batch.drop_column("city")
        batch.drop_column("street")"""
_JOIN = """with op.batch_alter_table("task") as batch:
        batch.add_column(sa.Column("street", sqlmodel.sql.sqltypes.AutoString(), nullable=True))
        batch.add_column(sa.Column("city", sqlmodel.sql.sqltypes.AutoString(), nullable=True))
    op.execute(
        "UPDATE task SET (street, city) = (SELECT street, city FROM address WHERE task_id = task.id)"
    )
    op.drop_table("address")"""
SPLIT_TABLE = Change(
    models=_without("street", "city")
    + """

class Address(SQLModel, table=True):
    task_id: UUID = Field(primary_key=True, foreign_key="task.id", ondelete="CASCADE")
    street: str | None = None
    city: str | None = None
""",
    revision=(_SPLIT, _JOIN),
    unsent_on_a=_set(1, city="a, unsent") + 'tx.add(Task(id=ID(11), name="new", city="a, new, unsent"))',
    unsent_on_b=_set(2, name="b, unsent") + 'tx.add(Task(id=ID(12), name="new", city="b, new, unsent"))',
    old_on_b=_set(3, name="b, old") + 'tx.add(Task(id=ID(13), name="new", city="b, new, old"))',
    new_on_a='tx.get(Address, ID(4)).city = "a, new"\ntx.delete(tx.get(Address, ID(5)))\n'
    'tx.add(Task(id=ID(14), name="new"))\ntx.flush()\ntx.add(Address(task_id=ID(14), city="a, new"))',
    later='tx.get(Address, ID(7)).city = "later"',
    back=_set(6, city="back"),
    expected={
        "task": {2: {"name": "b, unsent"}, 3: {"name": "b, old"}, 13: {}, 14: {}},
        "address": {
            1: {"city": "a, unsent", "street": "street 1"},
            2: {"city": "city 2", "street": "street 2"},
            3: {"city": "city 3"},
            4: {"city": "a, new", "street": "street 4"},
            5: None,
            7: {"city": "later", "street": "street 7"},
            11: {"city": "a, new, unsent"},
            12: {"city": "b, new, unsent"},
            13: {"city": "b, new, old"},
            14: {"city": "a, new"},
        },
        "step": {101: {}},
    },
    expected_back={
        "task": {
            1: {"city": "a, unsent", "street": "street 1"},
            4: {"city": "city 4", "street": "street 4"},  # the column's own value, not what the downgrade makes of the address
            6: {"city": "back", "street": "street 6"},
            7: {"city": "city 7", "street": "street 7"},
            13: {"city": "b, new, old"},
            14: {"city": "a, new"},
        }
    },
)

CHANGES = {
    "add column": ADD_COLUMN,
    "rename column": RENAME_COLUMN,
    "drop column": DROP_COLUMN,
    "change type": CHANGE_TYPE,
    "rename table": RENAME_TABLE,
    "new table": NEW_TABLE,
    "split table": SPLIT_TABLE,
}
