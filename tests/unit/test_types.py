"""Types: what is written through one realm comes out of another as it went in, and lies in both files bit for bit alike."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import math
import sys
import warnings
from collections.abc import Iterator
from decimal import Decimal
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
    ip_network,
)
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Optional
from uuid import UUID

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import AwareDatetime, FilePath, NaiveDatetime
from sqlalchemy.exc import IntegrityError, StatementError
from sqlalchemy.ext.mutable import MutableDict
from sqlalchemy.orm import aliased, registry
from sqlmodel import JSON, Field, Session, SQLModel, col, func, select, update

from localstore import LocalConfiguration, Realm
from localstore.types import ExactDecimal, LossyTypeWarning, TextOf, recognise_text, stored_type, warn_of_lossy
from tests.unit.session_kit import PATIENCE, World
from tests.unit.store_kit import Device, devices, exactly, query


class Own(SQLModel, registry=registry()):
    """Keeps the classes here out of the metadata that other tests share."""


class Color(enum.Enum):
    RED = "r"
    GREEN = 2


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Unit(enum.StrEnum):
    KELVIN = "K"
    CELSIUS = "°C"


class Everything(Own, table=True):
    """A nullable column of every type that SQLModel has a column for."""

    id: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    uuid: UUID | None = None
    text: str | None = None
    short_text: str | None = Field(default=None, max_length=5)
    whole: int | None = None
    real: float | None = None
    flag: bool | None = None
    blob: bytes | None = None
    day: dt.date | None = None
    clock: dt.time | None = None
    moment: dt.datetime | None = None
    aware: AwareDatetime | None = None
    naive: NaiveDatetime | None = None
    span: dt.timedelta | None = None
    color: Color | None = None
    level: Level | None = None
    unit: Unit | None = None
    decimal: Decimal | None = Field(default=None, sa_type=ExactDecimal)
    money: Annotated[Decimal | None, Field(sa_type=ExactDecimal(places=2))] = None
    path: Path | None = None
    file: FilePath | None = None
    ip4: Optional[IPv4Address] = None  # noqa: UP045  the other spelling
    ip6: IPv6Address | None = None
    net4: IPv4Network | None = None
    net6: IPv6Network | None = None
    interface4: IPv4Interface | None = None
    interface6: IPv6Interface | None = None
    document: Any = Field(default=None, sa_type=JSON, nullable=True)
    mutable: dict[str, Any] | None = Field(default=None, sa_type=MutableDict.as_mutable(JSON))  # type: ignore[arg-type]


UTC = dt.UTC
PLANES = "".join(chr(plane << 16 | 0xABC) for plane in range(17)) + "\U0010ffff"
DEEP: Any = {"text": PLANES, "list": [1, 2.5, None, True, 2**63, 0.1 + 0.2, -0.0], "empty": {}}

VALUES: dict[str, list[Any]] = {
    "uuid": [UUID(int=0), UUID(int=2**128 - 1), UUID("0193a7c0-0000-7000-8000-00000000002a")],
    "text": ["", "a", "a\0b", "\0", PLANES, "e\u0301", "\u00e9", "\ufeffbom", " \r\n\t", "1", "1.0", "x" * 1_000_000],
    "short_text": ["", "exact", "longer than five"],
    "whole": [0, 1, -1, 2**53 + 1, 2**63 - 1, -(2**63 - 1), -(2**63)],
    "real": [
        0.0, 1.0, 0.1, 0.1 + 0.2, 1 / 3, 5e-324, -5e-324, 2.2250738585072014e-308, sys.float_info.max, 1e22, 2.0**53, 2.0**63,
        9007199254740993.0, 123456789.12345679, math.inf, -math.inf,
    ],
    "flag": [True, False],
    "blob": [b"", b"\0", bytes(range(256)), b"x" * 1_000_000],
    "day": [dt.date.min, dt.date.max, dt.date(2024, 2, 29)],
    "clock": [dt.time.min, dt.time.max, dt.time(12, 30), dt.time(1, 2, 3, 4)],
    "moment": [
        dt.datetime.min.replace(tzinfo=UTC), dt.datetime.max.replace(tzinfo=UTC), dt.datetime(2024, 2, 29, 1, 2, 3, 4, UTC),
        dt.datetime(2024, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=-3, minutes=-30))),
    ],
    "aware": [dt.datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC)],
    "naive": [dt.datetime.min, dt.datetime.max, dt.datetime(2024, 2, 29, 1, 2, 3, 4)],
    "span": [dt.timedelta(), dt.timedelta(microseconds=1), dt.timedelta(days=-1, microseconds=1), dt.timedelta(days=800_000)],
    "color": list(Color),
    "level": list(Level),
    "unit": list(Unit),
    "decimal": [
        Decimal(text)
        for text in ("0", "-0", "1.10", "1.1", "-0.00", "1E+5", "1E-30", "12345678901234567.1234567890", "9" * 200, "0E-7",
                     "-1.5E+400", "0.1", "1000000", "1E+6")
    ],
    "money": [Decimal("0.00"), Decimal("-12.30"), Decimal("123456789012345678901234567890.12")],
    "path": [Path("a/b"), Path("/"), Path(), Path("/tmp/ä ö\U0001f600")],
    "file": [Path("b")],
    "ip4": [ip_address("0.0.0.0"), ip_address("255.255.255.255")],
    "ip6": [ip_address("::"), ip_address("2001:db8::1"), ip_address("fe80::1%eth0")],
    "net4": [ip_network("0.0.0.0/0"), ip_network("10.1.2.0/24")],
    "net6": [ip_network("fe80::/10")],
    "interface4": [ip_interface("10.0.0.1/8")],
    "interface6": [ip_interface("fe80::1/64")],
    "document": [DEEP, [], {}, "", "5", True, False, 1, 2**53 + 1, 0.5, [0.0], {"": None}],
    "mutable": [{"a": 1}, {}, DEEP],
}  # fmt: skip

STORED: dict[str, tuple[Any, Any]] = {
    "uuid": (UUID(int=42), "0000000000000000000000000000002a"),
    "text": ("a\0é", "a\0é"),
    "whole": (7, 7),
    "real": (0.1, 0.1),
    "flag": (True, 1),
    "blob": (b"\0\xff", b"\0\xff"),
    "day": (dt.date(2024, 2, 29), "2024-02-29"),
    "clock": (dt.time(1, 2, 3, 4), "01:02:03.000004"),
    "moment": (dt.datetime(2024, 1, 1, 12, tzinfo=dt.timezone(dt.timedelta(hours=5))), "2024-01-01 07:00:00.000000"),
    "naive": (dt.datetime(2024, 1, 1, 12), "2024-01-01 12:00:00.000000"),
    "span": (dt.timedelta(days=1, seconds=2), "1970-01-02 00:00:02.000000"),
    "color": (Color.RED, "RED"),
    "level": (Level.HIGH, "HIGH"),
    "unit": (Unit.CELSIUS, "CELSIUS"),
    "decimal": (Decimal("1.10"), "1.10"),
    "money": (Decimal(5), "5.00"),
    "path": (Path("a/b"), "a/b"),
    "ip4": (ip_address("10.0.0.1"), "10.0.0.1"),
    "net6": (ip_network("fe80::/10"), "fe80::/10"),
    "interface4": (ip_interface("10.0.0.1/8"), "10.0.0.1/8"),
    "document": ({"a": [1, None]}, '{"a": [1, null]}'),
}


class Places(NamedTuple):
    """The same rows on two devices, and which row holds which value."""

    one: Realm
    two: Realm
    rows: dict[int, tuple[str, Any]]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    """All values, written through one realm and synced to another."""
    cases = [(name, value) for name, values in VALUES.items() for value in (None, *values)]
    cases += [(name, value) for name, (value, _) in STORED.items()]
    rows = dict(enumerate(cases))
    with World(tmp_path_factory.mktemp("types")) as world:
        one = world.device("one").open(schema={Everything})
        with one.write() as tx:
            tx.add_all(Everything(id=id_, **{name: value}) for id_, (name, value) in rows.items())
        assert one.sync_session.upload_all_local_changes(timeout=PATIENCE)
        two = world.device("two").open(schema={Everything})
        assert two.sync_session.download_all_server_changes(timeout=PATIENCE)
        yield Places(one, two, rows)


def bits(value: Any) -> Any:
    """A value that is equal only to one that cannot be told from it; moments may name another time zone."""
    if isinstance(value, dict | list | float):
        return exactly(value)
    return str(value) if isinstance(value, Decimal) else (type(value), value)


def test_every_column_type_of_sqlmodel_is_tried() -> None:
    assert set(VALUES) == {name for name in Everything.model_fields if name != "id"}


@pytest.mark.parametrize("name", VALUES)
def test_values_come_out_of_another_device_as_they_went_in(places: Places, name: str) -> None:
    found = {row.id: row for row in places.two.exec(select(Everything))}
    ids = [id_ for id_, (column, _) in places.rows.items() if column == name and name != "money"]
    for id_ in ids:
        _, value = places.rows[id_]
        assert bits(getattr(found[id_], name)) == bits(value), repr(value)[:200]
    assert name == "money" or len(ids) > len(VALUES[name])


@pytest.mark.parametrize("name", VALUES)
def test_values_lie_in_both_files_bit_for_bit_alike(places: Places, name: str) -> None:
    statement = f"SELECT id, typeof({name}), {name} FROM everything ORDER BY id"
    stored = query(places.one.path, statement)
    assert exactly(query(places.two.path, statement)) == exactly(stored)
    assert len(stored) == len(places.rows)


@pytest.mark.parametrize("name", STORED)
def test_values_are_stored_as_the_page_on_models_says(places: Places, name: str) -> None:
    value, expected = STORED[name]
    id_ = next(id_ for id_, case in reversed(places.rows.items()) if case[0] == name and case[1] is value)
    assert exactly(query(places.two.path, f"SELECT {name} FROM everything WHERE id = ?", id_)) == exactly([(expected,)])


class Required(Own, table=True):
    """One column of each type that may not be null."""

    id: UUID = Field(primary_key=True)
    text: str
    real: float
    blob: bytes
    moment: dt.datetime
    color: Color
    decimal: Decimal = Field(sa_type=ExactDecimal)
    path: Path
    ip: IPv6Interface


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Realm]:
    with Realm.open(LocalConfiguration(path=tmp_path / "local.db", schema={Everything, Required})) as realm:
        yield realm


@pytest.fixture(params=["local", "synced"])
def realm(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Realm]:
    """Each kind of realm in turn; the synced one has no remote to reach."""
    if request.param == "local":
        yield request.getfixturevalue("local")
        return
    with World(tmp_path) as world:
        world.remote.go_offline()
        yield world.device().open(schema={Everything, Required})


def some(**changes: Any) -> Required:
    values = {
        "id": UUID(int=1), "text": "", "real": 0.0, "blob": b"", "color": Color.RED,
        "moment": dt.datetime(2024, 1, 1, tzinfo=UTC), "decimal": Decimal(0), "path": Path("a"), "ip": ip_interface("::1"),
    }  # fmt: skip
    return Required(**{**values, **changes})


def written(realm: Realm, **values: Any) -> Everything:
    """One row, as another session reads it."""
    with realm.write() as tx:
        tx.add(Everything(id=1, **values))
    return realm.exec(select(Everything)).one()


def refused(realm: Realm, error: type[Exception], **values: Any) -> str:
    """What a write says that fails; nothing of it is in the file."""
    rows = [Everything(id=1), Everything(id=2, **values)]
    with pytest.raises(error) as caught, realm.write() as tx:
        tx.add_all(rows)
    assert realm.exec(select(Everything)).all() == []
    return str(caught.value)


class TestWhatSQLiteOrSQLModelDoOtherwise:
    """Traps that the page on models names; each of them is a promise of that page."""

    def test_columns_that_may_not_be_null_take_the_same_values(self, realm: Realm) -> None:
        row = some(ip=ip_interface("fe80::1/64"))
        with realm.write() as tx:
            tx.add(row)
        assert realm.get(Required, row.id) == row

    def test_nan_becomes_null(self, realm: Realm) -> None:
        assert written(realm, real=math.nan).real is None
        assert query(realm.path, "SELECT typeof(real) FROM everything") == [("null",)]

    def test_nan_in_a_column_that_may_not_be_null_is_refused(self, realm: Realm) -> None:
        with pytest.raises(IntegrityError, match=r"NOT NULL constraint failed: required\.real"), realm.write() as tx:
            tx.add(some(real=math.nan))
        assert realm.exec(select(Required)).all() == []

    def test_the_sign_of_zero_is_dropped_by_a_column_of_floats(self, realm: Realm) -> None:
        assert exactly(written(realm, real=-0.0).real) == exactly(0.0)

    @pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 10**30])
    def test_a_whole_number_beyond_64_bits_is_pythons_own_error(self, realm: Realm, number: int) -> None:
        assert "too large to convert to SQLite INTEGER" in refused(realm, OverflowError, whole=number)

    def test_half_a_surrogate_pair_is_pythons_own_error(self, realm: Realm) -> None:
        assert "surrogates not allowed" in refused(realm, UnicodeEncodeError, text="\ud800")

    def test_a_naive_datetime_is_refused_with_the_remedy(self, realm: Realm) -> None:
        assert "annotate the field with NaiveDatetime" in refused(realm, StatementError, moment=dt.datetime(2024, 1, 1))

    def test_an_aware_datetime_comes_back_in_utc(self, realm: Realm) -> None:
        there = dt.datetime(2024, 1, 1, 12, tzinfo=dt.timezone(dt.timedelta(hours=5)))
        assert written(realm, moment=there).moment == there
        assert written_moment(realm) == dt.datetime(2024, 1, 1, 7, tzinfo=UTC)

    def test_naive_columns_and_times_of_day_drop_a_time_zone(self, realm: Realm) -> None:
        row = written(realm, naive=dt.datetime(2024, 1, 1, 12, tzinfo=UTC), clock=dt.time(12, tzinfo=UTC))
        assert (row.naive, row.clock) == (dt.datetime(2024, 1, 1, 12), dt.time(12))

    def test_a_span_beyond_the_calendar_is_refused(self, realm: Realm) -> None:
        assert "date value out of range" in refused(realm, StatementError, span=dt.timedelta.max)

    def test_a_number_that_is_a_whole_json_document_is_kept_as_sql_keeps_numbers(self, realm: Realm) -> None:
        assert exactly(written(realm, document=1.0).document) == exactly(1)
        with realm.write() as tx:
            tx.add(Everything(id=2, document=10**20 + 1, mutable={"n": 10**20 + 1}))
        row = realm.get(Everything, 2)
        assert row is not None
        assert exactly(row.document) == exactly(1e20)
        assert row.mutable == {"n": 10**20 + 1}

    def test_a_json_document_changed_in_place_is_noticed_only_by_a_mutable_type(self, realm: Realm) -> None:
        with realm.write() as tx:
            tx.add(Everything(id=1, document={"n": 1}, mutable={"n": 1}))
        with realm.write() as tx:
            row = tx.exec(select(Everything)).one()
            row.document["n"] = 2
            assert row.mutable is not None
            row.mutable["n"] = 2
        row = realm.exec(select(Everything)).one()
        assert (row.document, row.mutable) == ({"n": 1}, {"n": 2})

    def test_a_json_document_changed_in_place_in_a_new_object_goes_unnoticed(self, realm: Realm) -> None:
        row = Everything(id=1, mutable={"n": 1})
        with realm.write() as tx:
            tx.add(row)
        with realm.write() as tx:
            tx.add(row)
            assert row.mutable is not None
            row.mutable["n"] = 2
        assert realm.exec(select(Everything.mutable)).one() == {"n": 1}
        with realm.write() as tx:
            tx.add(row)
            row.mutable = {**row.mutable, "n": 3}
        assert realm.exec(select(Everything.mutable)).one() == {"n": 3}

    def test_none_in_a_json_column_is_the_document_null_and_not_sqls(self, realm: Realm) -> None:
        assert written(realm).document is None
        assert query(realm.path, "SELECT document, typeof(document) FROM everything") == [("null", "text")]
        assert realm.exec(select(Everything.id).where(col(Everything.document).is_(None))).all() == []

    def test_classes_with_tables_are_not_validated(self, realm: Realm) -> None:
        assert written(realm, whole=1.5, text=5).whole == 1.5
        assert realm.exec(select(Everything.text)).one() == "5"


def written_moment(realm: Realm) -> dt.datetime | None:
    (moment,) = realm.exec(select(Everything.moment)).all()
    assert moment is not None
    assert moment.tzinfo is UTC
    return moment


class TestPathsAndAddresses:
    def test_they_can_be_looked_for(self, realm: Realm) -> None:
        written(realm, path=Path("/a/b"), ip4=ip_address("10.0.0.1"))
        assert realm.exec(select(Everything.path).where(Everything.path == Path("/a/b"))).all() == [Path("/a/b")]
        assert realm.exec(select(Everything.id).where(col(Everything.path).like("/a/%"))).all() == [1]
        assert realm.exec(select(Everything.id).where(col(Everything.path).startswith("/a/"))).all() == [1]
        assert realm.exec(select(Everything.id).where(col(Everything.ip4).in_([ip_address("10.0.0.1")]))).all() == [1]

    def test_they_may_be_written_as_text(self, realm: Realm) -> None:
        row = written(realm, path="/a//b", ip4="10.0.0.1")
        assert (row.path, row.ip4) == (Path("/a/b"), ip_address("10.0.0.1"))

    def test_a_text_that_is_none_is_refused(self, realm: Realm) -> None:
        assert "'10.0.0.300'" in refused(realm, StatementError, ip4="10.0.0.300")

    def test_an_object_of_another_class_is_refused(self, realm: Realm) -> None:
        assert "takes IPv4Address or str, not IPv6Address('::1')" in refused(realm, StatementError, ip4=ip_address("::1"))

    def test_the_column_in_the_file_is_the_one_that_sqlmodel_makes(self, realm: Realm) -> None:
        declared = dict(query(realm.path, "SELECT name, type FROM pragma_table_info('everything')"))
        assert {declared[name] for name in ("text", "path", "ip4", "net6")} == {"VARCHAR"}

    def test_a_class_that_was_used_before_is_recognised_as_well(self, tmp_path: Path) -> None:
        class Early(Own, table=True):
            id: int = Field(primary_key=True)
            path: Path = Field(max_length=9)

        def look() -> Any:
            return select(Early.path).where(Early.path == Path("/a"))

        look()
        earlier = select(Early), select(aliased(Early)), select(Early.path)
        with Realm.open(LocalConfiguration(path=tmp_path / "early.db", schema={Early})) as realm:
            with realm.write() as tx:
                tx.add(Early(id=1, path=Path("/a")))
                tx.exec(update(Early).values(path=Path("/a")))
            assert realm.exec(look()).all() == [Path("/a")]
            assert [row.path for statement in earlier[:2] for row in realm.exec(statement)] == [Path("/a")] * 2
            assert realm.exec(earlier[2]).all() == [Path("/a")]
        assert repr(Early.__table__.c.path.type) == "TextOf(Path, 9)"  # type: ignore[attr-defined]

    def test_a_type_that_was_chosen_is_left_alone(self) -> None:
        class Chosen(Own, table=True):
            id: int = Field(primary_key=True)
            path: Path = Field(sa_type=sa.String)
            name: str

        before = [column.type for column in Chosen.__table__.c]  # type: ignore[attr-defined]
        recognise_text([Chosen])
        assert [column.type for column in Chosen.__table__.c] == before  # type: ignore[attr-defined]

    def test_a_table_without_a_class_says_so_itself(self, tmp_path: Path) -> None:
        table = sa.Table("plain", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("path", TextOf(Path)))
        with Realm.open(LocalConfiguration(path=tmp_path / "plain.db", schema=[table])) as realm:
            with realm.write() as tx:
                tx.connection().execute(table.insert().values(id=1, path=Path("a")))
            assert realm.exec(sa.select(table.c.path)).scalars().all() == [Path("a")]  # type: ignore[call-overload]


class TestExactDecimal:
    def test_a_whole_number_is_taken_as_it_is(self, realm: Realm) -> None:
        assert str(written(realm, decimal=10**40).decimal) == str(10**40)

    def test_the_callers_context_rounds_nothing(self, realm: Realm) -> None:
        exact = Decimal("1.23456789")
        with decimal.localcontext(prec=2):
            assert written(realm, decimal=exact, money=Decimal("1234.50")).decimal == exact
            assert realm.exec(select(Everything.money)).one() == Decimal("1234.50")

    @pytest.mark.parametrize("value", [1.1, True, "1.1", b"1"])
    def test_what_is_no_decimal_is_refused_with_the_reason(self, realm: Realm, value: Any) -> None:
        told = refused(realm, StatementError, decimal=value)
        assert f"ExactDecimal takes Decimal or int, not {type(value).__name__}: {value!r} may not be the number" in told
        assert "Write Decimal('1.10')." in told

    @pytest.mark.parametrize("value", ["NaN", "-Infinity", "sNaN"])
    def test_what_is_no_number_is_refused(self, realm: Realm, value: str) -> None:
        assert f"stores numbers; {value} is none" in refused(realm, StatementError, decimal=Decimal(value))

    @pytest.mark.parametrize("text", ["abc", "NaN", ""])
    def test_a_text_of_another_program_that_is_no_number_is_named(self, realm: Realm, text: str) -> None:
        written(realm, decimal=Decimal(1))
        query(realm.path, "UPDATE everything SET decimal = ?", text)
        with pytest.raises(ValueError, match=rf"holds '{text}', which is no number\. Another program wrote it"):
            realm.exec(select(Everything.decimal))

    @pytest.mark.parametrize(
        ("given_", "stored"),
        [("5", "5.00"), ("5.1", "5.10"), ("5.1000", "5.10"), ("1E+3", "1000.00"), ("-0", "0.00"), ("-0.01", "-0.01")],
    )
    def test_with_places_a_number_has_one_form(self, realm: Realm, given_: str, stored: str) -> None:
        assert str(written(realm, money=Decimal(given_)).money) == stored

    def test_with_places_nothing_is_rounded(self, realm: Realm) -> None:
        told = refused(realm, StatementError, money=Decimal("1.005"))
        assert "1.005 has more than 2 digits after the point; round it first." in told

    def test_with_places_equality_is_that_of_numbers(self, realm: Realm) -> None:
        written(realm, money=Decimal("1.10"))
        for condition in (
            Everything.money == Decimal("1.1"),
            Everything.money != 1,
            col(Everything.money).in_([1, Decimal("1.100")]),
            col(Everything.money).is_distinct_from(2),
        ):
            assert realm.exec(select(Everything.id).where(condition)).all() == [1]

    def test_without_places_null_and_other_columns_can_be_compared_with(self, realm: Realm) -> None:
        written(realm, decimal=Decimal("1.1"))
        for condition in (
            col(Everything.decimal).is_not(None),
            Everything.decimal != None,  # noqa: E711
            Everything.decimal == Everything.decimal,
        ):
            assert realm.exec(select(Everything.id).where(condition)).all() == [1]

    @pytest.mark.parametrize(
        "build",
        [
            lambda price: price == Decimal("1.1"),
            lambda price: price != 1,
            lambda price: price.in_([Decimal("1.1")]),
            lambda price: price.not_in([1]),
        ],
    )
    def test_without_places_equality_with_a_number_is_refused_with_the_remedy(self, build: Any) -> None:
        with pytest.raises(
            TypeError, match=r"everything\.decimal is .*keeps 1\.1 and 1\.10 apart.*ExactDecimal\(places=\.\.\.\)"
        ):
            build(col(Everything.decimal))

    @pytest.mark.parametrize(
        "build",
        [
            lambda price: price > 1,
            lambda price: 1 > price,  # noqa: SIM300
            lambda price: price.between(1, 2),
            lambda price: price + 1,
            lambda price: 1 + price,
            lambda price: price * price,
            lambda price: -price,
            lambda price: price.desc(),
            lambda price: price.asc(),
            lambda price: price.like("1%"),
        ],
    )
    @pytest.mark.parametrize("column", ["decimal", "money"])
    def test_what_would_go_by_the_text_is_refused(self, column: str, build: Any) -> None:
        with pytest.raises(TypeError, match=rf"^everything\.{column} is an ExactDecimal, .*whole number of the smallest unit"):
            build(getattr(Everything, column))

    def test_what_sqlite_computed_in_floating_point_is_refused(self, realm: Realm) -> None:
        written(realm, decimal=Decimal("1.1"))
        with pytest.raises(TypeError, match=r"SQLite computed 1\.1 from an ExactDecimal, in floating point"):
            realm.exec(select(func.sum(Everything.decimal)))

    def test_approximate_order_can_be_asked_for(self, realm: Realm) -> None:
        with realm.write() as tx:
            tx.add_all(Everything(id=n, decimal=Decimal(text)) for n, text in enumerate(["10", "9.5", "-1", "1E+3"]))
        ordered = select(Everything.decimal).order_by(sa.cast(Everything.decimal, sa.Float))
        assert list(map(str, realm.exec(ordered))) == ["-1", "9.5", "10", "1E+3"]

    @pytest.mark.parametrize("places", [-1, 1.5, "2", True])
    def test_places_is_a_number_of_digits(self, places: Any) -> None:
        with pytest.raises(ValueError, match="places is a number of digits after the point, or None"):
            ExactDecimal(places=places)

    def test_it_shows_as_it_is_written(self) -> None:
        assert repr(ExactDecimal()) == "ExactDecimal()"
        assert repr(ExactDecimal(places=2)) == "ExactDecimal(places=2)"

    def test_statements_with_other_places_are_told_apart(self) -> None:
        keys = {ExactDecimal(places=places)._static_cache_key for places in (None, 1, 2)}
        assert len(keys) == 3


class TestWarning:
    def model(self, **fields: Any) -> sa.Table:
        return sa.Table("item", sa.MetaData(), sa.Column("id", sa.Uuid, primary_key=True), *(
            sa.Column(name, kind) for name, kind in fields.items()
        ))  # fmt: skip

    @pytest.mark.parametrize(
        "kind", [sa.Numeric(10, 2), sa.DECIMAL, sa.Float(asdecimal=True)], ids=["numeric", "decimal", "float as decimal"]
    )
    def test_a_decimal_that_sqlite_approximates_is_named_with_the_remedy(self, kind: Any) -> None:
        with pytest.warns(
            LossyTypeWarning, match=r"^SQLite stores item\.price as .*Field\(sa_type=localstore\.types\.ExactDecimal\)"
        ):
            warn_of_lossy([self.model(price=kind)], stacklevel=1)

    def test_a_decimal_within_an_own_type_is_named_as_well(self) -> None:
        class Euro(sa.TypeDecorator[Decimal]):
            impl = sa.Numeric
            cache_ok = True

        with pytest.warns(LossyTypeWarning, match=r"item\.price"):
            warn_of_lossy([self.model(price=Euro)], stacklevel=1)

    @pytest.mark.parametrize("kind", [ExactDecimal, ExactDecimal(places=2), sa.Numeric(asdecimal=False), sa.Float, sa.Integer])
    def test_nothing_is_said_of_what_is_kept(self, kind: Any) -> None:
        with warnings.catch_warnings(action="error"):
            warn_of_lossy([self.model(price=kind)], stacklevel=1)

    @pytest.mark.parametrize("synced", [False, True], ids=["local", "synced"])
    def test_each_open_warns_once_and_names_all_columns_and_the_caller(self, tmp_path: Path, synced: bool) -> None:
        table = self.model(price=sa.Numeric, tax=sa.Numeric, fee=ExactDecimal)
        with World(tmp_path) as world:
            world.remote.go_offline()
            device = world.device()
            local = LocalConfiguration(path=tmp_path / "local.db", schema=[table])
            configuration = device.configuration(schema=[table]) if synced else local
            for _ in range(2):
                with pytest.warns(LossyTypeWarning) as caught:
                    realm = Realm.open(configuration)
                realm.close()
                (warning,) = caught
                assert "item.price, item.tax as" in str(warning.message)
                assert warning.filename == __file__

    def test_who_makes_it_an_error_gets_no_file(self, tmp_path: Path) -> None:
        configuration = LocalConfiguration(path=tmp_path / "local.db", schema=[self.model(price=sa.Numeric)])
        with warnings.catch_warnings(action="error"), pytest.raises(LossyTypeWarning):
            Realm.open(configuration)
        assert not list(tmp_path.iterdir())


def test_a_type_is_stored_as_the_innermost_says() -> None:
    class Outer(sa.TypeDecorator[Any]):
        impl = ExactDecimal
        cache_ok = True

    assert type(stored_type(Outer())) is sa.String
    assert type(stored_type(sa.Integer())) is sa.Integer


def test_an_application_that_autogenerates_a_revision_gets_a_type_that_can_be_imported() -> None:
    from alembic.autogenerate import produce_migrations, render_python_code
    from alembic.migration import MigrationContext

    metadata = sa.MetaData()
    sa.Table("item", metadata, sa.Column("price", ExactDecimal), sa.Column("money", ExactDecimal(places=2)))
    engine = sa.create_engine("sqlite://")
    with engine.connect() as connection:
        upgrades = produce_migrations(MigrationContext.configure(connection), metadata).upgrade_ops
        assert upgrades is not None
        code = render_python_code(upgrades)
    engine.dispose()
    assert "sa.Column('price', localstore.types.ExactDecimal(), nullable=True)" in code
    assert "sa.Column('money', localstore.types.ExactDecimal(places=2), nullable=True)" in code


# -- whatever values there are

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3),
    max_leaves=8,
)
MOMENTS = st.datetimes(min_value=dt.datetime(2, 1, 1), max_value=dt.datetime(9998, 12, 31))
STRATEGIES: dict[str, st.SearchStrategy[Any]] = {
    "uuid": st.uuids(),
    "text": st.text(st.characters(codec="utf-8")),
    "whole": st.integers(-(2**63), 2**63 - 1),
    "real": st.floats(allow_nan=False).map(lambda number: number + 0.0),  # which turns -0.0 into 0.0, as SQLite does
    "blob": st.binary(),
    "day": st.dates(),
    "clock": st.times(),
    "moment": st.datetimes(
        min_value=dt.datetime(2, 1, 1), max_value=dt.datetime(9998, 12, 31), timezones=st.timezones(), allow_imaginary=False
    ),
    "naive": st.datetimes().map(lambda moment: moment.replace(fold=0)),
    "span": st.timedeltas(dt.timedelta(days=-719_000), dt.timedelta(days=2_900_000)),
    "decimal": st.decimals(allow_nan=False, allow_infinity=False),
    "money": st.decimals(allow_nan=False, allow_infinity=False, places=2).map(lambda number: number if number else abs(number)),
    "path": st.text(st.characters(codec="utf-8", exclude_characters="\0")).map(Path),
    "ip4": st.ip_addresses(v=4),
    "ip6": st.ip_addresses(v=6),
    "document": st.lists(JSON_VALUES, max_size=3)
    | st.dictionaries(st.text(st.characters(codec="utf-8")), JSON_VALUES, max_size=3),
}


class TestAnyValue:
    """Two stores without sessions, for speed."""

    @pytest.fixture(scope="class")
    @staticmethod
    def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Device]]:
        recognise_text([Everything])
        table: sa.Table = Everything.__table__  # type: ignore[attr-defined]
        with devices(tmp_path_factory.mktemp("any"), "ab", [table]) as opened:
            yield opened

    @pytest.mark.parametrize("name", STRATEGIES)
    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    def test_comes_out_as_it_went_in(self, stores: list[Device], name: str, data: st.DataObject) -> None:
        values = data.draw(st.lists(STRATEGIES[name], min_size=1, max_size=20))
        one, two = stores
        with one.store.write() as tx:
            tx.exec(sa.delete(Everything))
            tx.add_all(Everything(id=n, **{name: value}) for n, value in enumerate(values))
        sealed = one.sealed()
        two.receive(sealed[-1])
        one.store.acknowledge(sealed[-1].number)
        assert exactly(two.rows("everything")) == exactly(one.rows("everything"))
        with two.store.read() as session:
            found = read_back(session, name)
        assert list(map(bits, found)) == list(map(bits, map(as_stored, values)))


def as_stored(value: Any) -> Any:
    """Aware moments are stored in UTC: one that an ambiguous hour of another zone names equals nothing in that zone itself."""
    return value.astimezone(dt.UTC) if isinstance(value, dt.datetime) and value.tzinfo else value


def read_back(session: Session, name: str) -> list[Any]:
    return [getattr(row, name) for row in session.exec(select(Everything).order_by(col(Everything.id)))]


@example(Decimal("1E+6"), Decimal("1000000"))
@given(*[st.decimals(allow_nan=False, allow_infinity=False)] * 2)
def test_only_the_same_decimal_has_the_same_text(one: Decimal, other: Decimal) -> None:
    dialect = sa.create_mock_engine("sqlite://", lambda *_: None).dialect
    kind = ExactDecimal()
    texts = [kind.process_bind_param(number, dialect) for number in (one, other)]
    assert (texts[0] == texts[1]) == (one.as_tuple() == other.as_tuple())
    assert [kind.process_result_value(text, dialect) for text in texts] == [one, other]
