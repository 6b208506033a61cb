"""Models: whatever SQLModel can declare works in a realm, is written on one device and read on another."""

# Without `from __future__ import annotations`: SQLModel reads the annotations of relationships itself.

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Optional
from uuid import UUID

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import registry, selectinload
from sqlalchemy.orm.exc import DetachedInstanceError
from sqlmodel import Field, Relationship, Session, SQLModel, col, delete, func, select, update

from localstore import LocalConfiguration, Realm, uuid7
from localstore.errors import SchemaError
from tests.unit.session_kit import PATIENCE, World, eventually
from tests.unit.store_kit import query


class Own(SQLModel, registry=registry()):
    """Keeps the classes here out of the metadata that other tests share."""


class Membership(Own, table=True):
    """Who can do what: a table of two keys and nothing else."""

    person_id: UUID = Field(foreign_key="person.id", primary_key=True, ondelete="CASCADE")
    skill_name: str = Field(foreign_key="skill.name", primary_key=True, ondelete="CASCADE")


class Team(Own, table=True):
    id: UUID = Field(default_factory=uuid7, primary_key=True)
    name: str
    people: list["Person"] = Relationship(back_populates="team")


class Person(Own, table=True):
    id: UUID = Field(default_factory=uuid7, primary_key=True)
    name: str
    team_id: UUID | None = Field(default=None, foreign_key="team.id")
    team: Team | None = Relationship(back_populates="people")
    boss_id: UUID | None = Field(default=None, foreign_key="person.id")
    boss: Optional["Person"] = Relationship(back_populates="reports", sa_relationship_kwargs={"remote_side": "Person.id"})
    reports: list["Person"] = Relationship(back_populates="boss")
    skills: list["Skill"] = Relationship(back_populates="people", link_model=Membership)


class Skill(Own, table=True):
    name: str = Field(primary_key=True)
    people: list[Person] = Relationship(back_populates="skills", link_model=Membership)


class Order(Own, table=True):
    """The name is a word of SQL. Its lines are deleted by SQLAlchemy, its notes by SQLite."""

    id: UUID = Field(default_factory=uuid7, primary_key=True)
    lines: list["Line"] = Relationship(back_populates="order", cascade_delete=True)
    notes: list["Remark"] = Relationship(passive_deletes="all")
    visits: list["Visit"] = Relationship(back_populates="order", passive_deletes=True)


class Line(Own, table=True):
    order_id: UUID = Field(foreign_key="order.id", primary_key=True)
    number: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    price: int = 0
    amount: int = 1
    total: int | None = Field(default=None, sa_column=sa.Column(sa.Integer, sa.Computed("price * amount")))
    order: Order | None = Relationship(back_populates="lines")


class Remark(Own, table=True):
    id: UUID = Field(default_factory=uuid7, primary_key=True)
    order_id: UUID = Field(foreign_key="order.id", ondelete="CASCADE")


class Visit(Own, table=True):
    id: UUID = Field(default_factory=uuid7, primary_key=True)
    order_id: UUID | None = Field(default=None, foreign_key="order.id", ondelete="SET NULL", nullable=True)
    order: Order | None = Relationship(back_populates="visits")


class Odd(Own, table=True):
    """Names that need quoting, and names that differ between class and table."""

    __tablename__: ClassVar[Any] = 'an "odd" table; -- ü'
    id: UUID = Field(default_factory=uuid7, primary_key=True, sa_column_kwargs={"name": "the key"})
    select: str = Field(sa_column=sa.Column('other "name"', sa.String, nullable=False))
    group: str | None = Field(default=None, sa_column_kwargs={"name": "GROUP BY"})


class Animal(Own, table=True):
    """One table for all animals, as the page on models shows."""

    __mapper_args__: ClassVar[dict[str, Any]] = {"polymorphic_on": "kind", "polymorphic_identity": "animal"}
    id: UUID = Field(default_factory=uuid7, primary_key=True)
    kind: str = "animal"
    name: str
    tricks: int | None = None
    home: Path | None = None


class Dog(Animal, table=False):
    def bark(self) -> str:
        return f"{self.name}!"


Dog.model_fields.update(Animal.model_fields, kind=Field(default="dog"))
Dog.model_config["table"] = True
Own._sa_registry.map_imperatively(Dog, inherits=Animal, polymorphic_identity="dog")  # type: ignore[attr-defined]


class Draft(Own, table=True):
    """Stays on its device."""

    id: int | None = Field(default=None, primary_key=True)
    text: str = Field(unique=True)
    person_id: UUID | None = Field(default=None, foreign_key="person.id")


SCHEMA: set[Any] = {Membership, Team, Person, Skill, Order, Line, Remark, Visit, Odd, Animal}


@dataclass
class Pair:
    """Two devices on one remote."""

    one: Realm
    two: Realm

    def sync(self) -> None:
        """Both have all that either wrote."""
        for sender, receiver in ((self.one, self.two), (self.two, self.one)):
            assert sender.sync_session.upload_all_local_changes(timeout=PATIENCE)
            assert receiver.sync_session.download_all_server_changes(timeout=PATIENCE)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with World(tmp_path) as world:
        yield Pair(*(world.device(name).open(schema=SCHEMA) for name in ("one", "two")))


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Realm]:
    with Realm.open(LocalConfiguration(path=tmp_path / "local.db", schema=SCHEMA)) as realm:
        yield realm


@pytest.fixture(params=["local", "synced"])
def realm(request: pytest.FixtureRequest) -> Realm:
    """Each kind of realm in turn."""
    if request.param == "local":
        return request.getfixturevalue("local")  # type: ignore[no-any-return]
    return request.getfixturevalue("pair").one  # type: ignore[no-any-return]


def count(realm: Realm, model: type[SQLModel]) -> int:
    return realm.exec(select(func.count()).select_from(model)).one()


def same_everywhere(pair: Pair, *models: type[SQLModel]) -> None:
    """All rows of some classes are the same on both devices."""
    pair.sync()
    for model in models:
        here, there = (sorted(map(repr, realm.exec(select(model.__table__)))) for realm in (pair.one, pair.two))  # type: ignore[attr-defined,call-overload]
        assert here == there
        assert here, model


class TestRelationships:
    def test_one_to_many_from_either_side(self, pair: Pair) -> None:
        with pair.one.write() as tx:
            tx.add(Team(name="Blue", people=[Person(name="Ann"), Person(name="Bo")]))
            tx.add(Person(name="Cy", team=Team(name="Red")))
        same_everywhere(pair, Team, Person)
        with pair.two.write() as tx:
            blue = tx.exec(select(Team).where(Team.name == "Blue")).one()
            assert sorted(person.name for person in blue.people) == ["Ann", "Bo"]
            cy = tx.exec(select(Person).where(Person.name == "Cy")).one()
            assert cy.team is not None
            assert cy.team.name == "Red"
            cy.team = blue
            assert cy in blue.people
        pair.sync()
        moved = select(Team.name).join(Person).where(Person.name == "Cy")
        assert pair.one.exec(moved).all() == ["Blue"]

    def test_rows_that_refer_to_each_other_may_be_added_in_any_order(self, realm: Realm) -> None:
        team = Team(name="Blue")
        with realm.write() as tx:
            tx.add(Person(name="Ann", team_id=team.id))
            tx.add(team)
        assert count(realm, Person) == 1

    def test_a_reference_to_nothing_is_refused_where_it_is_written(self, realm: Realm) -> None:
        with pytest.raises(IntegrityError, match="FOREIGN KEY constraint failed"), realm.write() as tx:
            tx.add(Person(name="Ann", team_id=uuid7()))
        assert count(realm, Person) == 0

    def test_many_to_many(self, pair: Pair) -> None:
        with pair.one.write() as tx:
            ski, row = Skill(name="ski"), Skill(name="row")
            tx.add_all([Person(name="Ann", skills=[ski, row]), Person(name="Bo", skills=[ski])])
        same_everywhere(pair, Person, Skill, Membership)
        with pair.two.write() as tx:
            ann = tx.exec(select(Person).where(Person.name == "Ann")).one()
            row = tx.get_one(Skill, "row")
            ann.skills.remove(row)
            row.people.append(tx.exec(select(Person).where(Person.name == "Bo")).one())
        same_everywhere(pair, Membership)
        with pair.one.write() as tx:
            skills = {person.name: sorted(skill.name for skill in person.skills) for person in tx.exec(select(Person))}
        assert skills == {"Ann": ["ski"], "Bo": ["row", "ski"]}

    def test_a_class_that_refers_to_itself(self, pair: Pair) -> None:
        with pair.one.write() as tx:
            tx.add(Person(name="Ann", reports=[Person(name="Bo", reports=[Person(name="Cy")])]))
        same_everywhere(pair, Person)
        with pair.two.write() as tx:
            cy = tx.exec(select(Person).where(Person.name == "Cy")).one()
            assert cy.boss is not None
            assert cy.boss.boss is not None
            assert cy.boss.boss.name == "Ann"
            cy.boss = cy.boss.boss
        pair.sync()
        with pair.one.write() as tx:
            ann = tx.exec(select(Person).where(Person.name == "Ann")).one()
            assert sorted(person.name for person in ann.reports) == ["Bo", "Cy"]

    def test_what_was_loaded_stays_readable_after_the_block(self, realm: Realm) -> None:
        with realm.write() as tx:
            tx.add(Team(name="Blue", people=[Person(name="Ann")]))
        with realm.write() as tx:
            loaded = tx.exec(select(Team)).one()
            assert loaded.people[0].team is loaded
        assert loaded.people[0].name == "Ann"
        assert loaded.people[0].team is loaded
        eager = realm.exec(select(Team).options(selectinload(Team.people))).one()  # type: ignore[arg-type]
        assert [person.name for person in eager.people] == ["Ann"]

    def test_what_was_not_loaded_is_sqlalchemys_own_error_after_the_block(self, realm: Realm) -> None:
        with realm.write() as tx:
            tx.add(Team(name="Blue"))
        team = realm.exec(select(Team)).one()
        with pytest.raises(DetachedInstanceError):
            _ = team.people


class TestDeletes:
    @pytest.fixture
    def order(self, pair: Pair) -> Order:
        """An order with everything there can be, on both devices."""
        order = Order(lines=[Line(number=1), Line(number=2)], notes=[], visits=[Visit()])
        with pair.one.write() as tx:
            tx.add(order)
            tx.flush()
            tx.add_all([Remark(order_id=order.id), Remark(order_id=order.id)])
        same_everywhere(pair, Order, Line, Remark, Visit)
        return order

    def counts(self, realm: Realm) -> list[int]:
        return [count(realm, model) for model in (Order, Line, Remark, Visit)]

    def test_what_a_delete_takes_with_it_goes_on_all_devices(self, pair: Pair, order: Order) -> None:
        with pair.one.write() as tx:
            tx.delete(tx.get_one(Order, order.id))
        pair.sync()
        assert self.counts(pair.one) == self.counts(pair.two) == [0, 0, 0, 1]
        assert pair.two.exec(select(Visit.order_id)).all() == [None]

    def test_a_statement_deletes_by_the_rules_of_the_tables_alone(self, pair: Pair, order: Order) -> None:
        with pair.one.write() as tx:
            tx.exec(delete(Line))
            tx.exec(delete(Order).where(col(Order.id) == order.id))
        pair.sync()
        assert self.counts(pair.one) == self.counts(pair.two) == [0, 0, 0, 1]
        assert pair.two.exec(select(Visit.order_id)).all() == [None]

    def test_a_row_that_others_need_is_kept(self, realm: Realm) -> None:
        with realm.write() as tx:
            tx.add(Order(lines=[Line(number=1)]))
        with pytest.raises(IntegrityError, match="FOREIGN KEY"), realm.write() as tx:
            tx.exec(delete(Order))
        assert count(realm, Order) == 1

    def test_an_orphan_goes_everywhere(self, pair: Pair, order: Order) -> None:
        with pair.two.write() as tx:
            there = tx.get_one(Order, order.id)
            there.lines = [line for line in there.lines if line.number == 2]
        pair.sync()
        assert pair.one.exec(select(Line.number)).all() == pair.two.exec(select(Line.number)).all() == [2]

    def test_a_link_goes_with_either_end(self, pair: Pair) -> None:
        with pair.one.write() as tx:
            tx.add(Person(name="Ann", skills=[Skill(name="ski"), Skill(name="row")]))
        pair.sync()
        with pair.two.write() as tx:
            tx.exec(delete(Skill).where(col(Skill.name) == "ski"))
        pair.sync()
        assert pair.one.exec(select(Membership.skill_name)).all() == ["row"]
        with pair.one.write() as tx:
            tx.delete(tx.exec(select(Person)).one())
        pair.sync()
        assert [count(realm, Membership) for realm in (pair.one, pair.two)] == [0, 0]

    def test_a_reference_whose_target_another_device_deleted_meanwhile_is_not_shown(self, pair: Pair) -> None:
        team = Team(name="Blue")
        with pair.one.write() as tx:
            tx.add(team)
        pair.sync()
        for realm in (pair.one, pair.two):
            realm.sync_session.pause()
        with pair.one.write() as tx:
            tx.delete(tx.get_one(Team, team.id))
        with pair.two.write() as tx:
            tx.add(Person(name="Ann", team_id=team.id))
        for realm in (pair.one, pair.two):
            realm.sync_session.resume()
        pair.sync()
        for realm in (pair.one, pair.two):
            assert count(realm, Team) == 0
            with realm.write() as tx:
                ann = tx.exec(select(Person)).one()
                assert (ann.team_id, ann.team) == (None, None)
                ann.name += "!"

    def test_the_error_handler_hears_of_rows_that_are_set_aside(self, tmp_path: Path) -> None:
        with World(tmp_path) as world:
            devices = [world.device(name) for name in ("one", "two")]
            pair = Pair(*(device.open(schema=SCHEMA) for device in devices))
            order = Order()
            with pair.one.write() as tx:
                tx.add(order)
            pair.sync()
            pair.two.sync_session.pause()
            with pair.two.write() as tx:
                tx.add(Remark(order_id=order.id))
            with pair.one.write() as tx:
                tx.delete(tx.get_one(Order, order.id))
            assert pair.one.sync_session.upload_all_local_changes(timeout=PATIENCE)
            pair.two.sync_session.resume()
            pair.sync()
            assert [count(realm, Remark) for realm in (pair.one, pair.two)] == [0, 0]
            eventually(lambda: [device.kinds for device in devices] == [["RowsSetAside"], ["RowsSetAside"]])


class TestNames:
    def test_names_that_need_quoting_and_names_that_differ(self, pair: Pair) -> None:
        odd = Odd(select="a", group="b")
        with pair.one.write() as tx:
            tx.add_all([odd, Odd(select="gone")])
        pair.sync()
        with pair.two.write() as tx:
            found = tx.get_one(Odd, odd.id)
            assert (found.select, found.group) == ("a", "b")
            found.select = "c"
            tx.exec(delete(Odd).where(Odd.select == "gone"))  # type: ignore[arg-type]
        pair.sync()
        assert pair.one.exec(select(Odd.select, Odd.group)).all() == [("c", "b")]
        columns = query(pair.one.path, "SELECT name FROM pragma_table_info('an \"odd\" table; -- ü')")
        assert columns == [("the key",), ('other "name"',), ("GROUP BY",)]

    def test_a_key_is_looked_up_by_the_name_of_the_attribute(self, realm: Realm) -> None:
        odd = Odd(select="a")
        with realm.write() as tx:
            tx.add(odd)
        assert realm.get(Odd, odd.id) == realm.get(Odd, {"id": odd.id}) == odd


class TestColumnsThatTheDatabaseComputes:
    def test_every_device_computes_them(self, pair: Pair) -> None:
        order = Order(lines=[Line(number=1, price=3, amount=4)])
        with pair.one.write() as tx:
            tx.add(order)
        pair.sync()
        assert pair.two.exec(select(Line.total)).all() == [12]
        with pair.two.write() as tx:
            tx.get_one(Line, (order.id, 1)).amount = 5
        pair.sync()
        assert pair.one.exec(select(Line.total)).all() == pair.two.exec(select(Line.total)).all() == [15]

    def test_they_are_readable_after_the_block(self, realm: Realm) -> None:
        order, line = Order(), Line(number=1, price=3, amount=4)
        with realm.write() as tx:
            order.lines.append(line)
            tx.add(order)
        assert line.total == 12
        with realm.write() as tx:
            tx.add(line)
            line.amount = 5
        assert line.total == 15

    def test_what_a_statement_changed_behind_an_object_is_readable_after_the_block(self, realm: Realm) -> None:
        with realm.write() as tx:
            tx.add(Order(lines=[Line(number=1, price=3)]))
        with realm.write() as tx:
            line = tx.exec(select(Line)).one()
            line.price = Line.price + 1  # type: ignore[assignment]  an expression of SQL
        assert line.price == 4
        with realm.write() as tx:
            tx.add(line)
            tx.exec(update(Line).values(price=func.max(Line.price * 2, 0)))
        assert (line.price, line.total) == (8, 8)

    def test_an_object_whose_row_a_statement_deleted_stops_nothing(self, realm: Realm) -> None:
        with realm.write() as tx:
            tx.add(Order(lines=[Line(number=1, price=3)]))
        with realm.write() as tx:
            line = tx.exec(select(Line)).one()
            line.price = Line.price + 1  # type: ignore[assignment]  an expression of SQL
            tx.flush()
            tx.connection().execute(sa.delete(Line))
        assert count(realm, Line) == 0
        assert line.number == 1


class TestOneTableForSeveralClasses:
    def test_objects_come_back_as_what_they_were(self, pair: Pair) -> None:
        with pair.one.write() as tx:
            tx.add_all([Animal(name="Cat"), Dog(name="Rex", tricks=3, home=Path("/kennel"))])
        same_everywhere(pair, Animal)
        animals = pair.two.exec(select(Animal).order_by(Animal.name)).all()
        assert [(type(animal), animal.kind, animal.name) for animal in animals] == [
            (Animal, "animal", "Cat"),
            (Dog, "dog", "Rex"),
        ]
        (dog,) = pair.two.exec(select(Dog)).all()
        assert (dog.bark(), dog.tricks, dog.home) == ("Rex!", 3, Path("/kennel"))
        assert pair.two.exec(select(Dog.id).where(Dog.home == Path("/kennel"))).all() == [dog.id]
        assert isinstance(pair.two.get(Animal, dog.id), Dog)
        assert pair.two.get(Dog, animals[0].id) is None

    def test_objects_are_changed_and_deleted_by_class(self, pair: Pair) -> None:
        with pair.one.write() as tx:
            tx.add_all([Animal(name="Cat"), Dog(name="Rex"), Dog(name="Fido")])
        pair.sync()
        with pair.two.write() as tx:
            tx.exec(select(Dog).where(Dog.name == "Rex")).one().tricks = 1
            tx.exec(delete(Dog).where(col(Dog.name) == "Fido"))
        pair.sync()
        found = pair.one.exec(select(Animal.kind, Animal.name, Animal.tricks).order_by(Animal.name)).all()
        assert found == [("animal", "Cat", None), ("dog", "Rex", 1)]

    def test_either_class_or_both_can_be_in_the_schema(self, tmp_path: Path) -> None:
        schemas: list[set[Any]] = [{Animal}, {Dog}, {Animal, Dog}]
        for number, schema in enumerate(schemas):
            with Realm.open(LocalConfiguration(path=tmp_path / f"{number}.db", schema=schema)) as realm:
                with realm.write() as tx:
                    tx.add(Dog(name="Rex"))
                assert count(realm, Animal) == 1


class TestTablesBesideTheSchema:
    """Classes share one metadata; what is synced and created is the schema alone."""

    @pytest.fixture
    def drafts(self, pair: Pair) -> Pair:
        for realm in (pair.one, pair.two):
            with realm.write() as tx:
                Own.metadata.create_all(tx.connection(), tables=[Draft.__table__])  # type: ignore[attr-defined]
        return pair

    def test_only_the_schema_is_created(self, pair: Pair) -> None:
        assert "draft" in Own.metadata.tables
        assert query(pair.one.path, "SELECT name FROM sqlite_master WHERE name = 'draft'") == []

    def test_they_are_not_synced(self, drafts: Pair) -> None:
        with drafts.one.write() as tx:
            tx.add(Draft(text="here"))
        assert drafts.one.pending() == []
        drafts.sync()
        assert count(drafts.two, Draft) == 0

    def test_they_are_written_together_with_what_is(self, drafts: Pair) -> None:
        ann = Person(name="Ann")
        with drafts.one.write() as tx:
            tx.add(ann)
            tx.flush()  # no relationship says which comes first
            tx.add(Draft(text="about Ann", person_id=ann.id))
        drafts.sync()
        assert [count(drafts.two, model) for model in (Person, Draft)] == [1, 0]
        assert [count(drafts.one, model) for model in (Person, Draft)] == [1, 1]

    @pytest.mark.parametrize("failing", ["the synced row", "the other row"])
    def test_either_both_are_written_or_neither(self, drafts: Pair, failing: str) -> None:
        with drafts.one.write() as tx:
            tx.add_all([Skill(name="ski"), Draft(text="once")])
        rows = {
            "the synced row": [Draft(text="new"), Skill(name="ski")],
            "the other row": [Skill(name="row"), Draft(text="once")],
        }[failing]

        def attempt() -> None:
            with drafts.one.write() as tx:
                for row in rows:
                    tx.add(row)
                    tx.flush()

        with pytest.raises(IntegrityError):
            attempt()
        assert [count(drafts.one, model) for model in (Skill, Draft)] == [1, 1]
        assert len(drafts.one.pending()) <= 1

    def test_they_are_left_alone_when_the_file_is_opened_again(self, drafts: Pair) -> None:
        with drafts.one.write() as tx:
            tx.add(Draft(text="kept"))
        drafts.one.close()
        with Realm.open(drafts.one.configuration) as again:
            assert again.exec(select(Draft.text)).all() == ["kept"]

    def test_all_tables_of_a_metadata_can_be_the_schema_of_a_local_realm(self, tmp_path: Path) -> None:
        configuration = LocalConfiguration(path=tmp_path / "all.db", schema=Own.metadata.tables.values())
        with Realm.open(configuration) as realm:
            assert {count(realm, model) for model in (Draft, Person, Odd)} == {0}

    def test_tables_of_sqlalchemy_are_synced_like_classes(self, tmp_path: Path) -> None:
        table = sa.Table(
            "reading", sa.MetaData(), sa.Column("sensor", sa.String, primary_key=True), sa.Column("value", sa.Float)
        )
        with World(tmp_path) as world:
            pair = Pair(*(world.device(name).open(schema=[table, Skill]) for name in ("one", "two")))
            with pair.one.write() as tx:
                tx.connection().execute(table.insert(), [{"sensor": "a", "value": 1.5}, {"sensor": "b", "value": None}])
                tx.add(Skill(name="ski"))
            pair.sync()
            assert sorted(pair.two.exec(sa.select(table)).all()) == [("a", 1.5), ("b", None)]  # type: ignore[call-overload]
            assert count(pair.two, Skill) == 1

    def test_a_synced_class_cannot_refer_to_an_unsynced_one(self, tmp_path: Path) -> None:
        with World(tmp_path) as world, pytest.raises(SchemaError) as caught:
            world.device().open(schema={Line})
        assert "Table line cannot be synced: it refers (order_id) to Order (table order), which is not synced" in str(
            caught.value
        )
        assert caught.value.hint.startswith("Add Order to the schema")
        assert not (tmp_path / "one.db").exists()


def flush_object(session: Session) -> None:
    session.add(Draft(text="a"))
    session.flush()


class TestAClassOutsideTheSchema:
    MESSAGE = "Draft has no table draft in {path}. Add Draft to the schema that the realm is opened with."

    @pytest.mark.parametrize(
        "use",
        [
            flush_object,
            lambda tx: tx.exec(select(Draft)).all(),
            lambda tx: tx.exec(delete(Draft)),
            lambda tx: tx.get(Draft, 1),
            lambda tx: tx.connection().exec_driver_sql("SELECT * FROM draft"),
        ],
    )
    def test_is_named_where_it_is_written(self, realm: Realm, use: Any) -> None:
        def attempt() -> None:
            with realm.write() as tx:
                tx.add(Skill(name="ski"))
                use(tx)

        with pytest.raises(SchemaError) as caught:
            attempt()
        assert str(caught.value) == self.MESSAGE.format(path=realm.path)
        assert count(realm, Skill) == 0

    def test_is_named_at_the_end_of_the_block(self, realm: Realm) -> None:
        with pytest.raises(SchemaError, match="Add Draft to the schema"), realm.write() as tx:
            tx.add(Draft(text="a"))

    @pytest.mark.parametrize(
        "use", [lambda realm: realm.exec(select(Draft)), lambda realm: realm.get(Draft, 1)], ids=["exec", "get"]
    )
    def test_is_named_where_it_is_read(self, realm: Realm, use: Any) -> None:
        with pytest.raises(SchemaError) as caught:
            use(realm)
        assert str(caught.value) == self.MESSAGE.format(path=realm.path)

    def test_a_table_that_has_no_class_is_named_itself(self, realm: Realm) -> None:
        with pytest.raises(SchemaError, match=r"There is no table nowhere in .*\. Add the class or table to the schema"):
            realm.exec(sa.text("SELECT * FROM nowhere"))  # type: ignore[call-overload]

    def test_the_write_goes_on_when_the_error_is_caught(self, realm: Realm) -> None:
        with realm.write() as tx:
            with pytest.raises(SchemaError):
                tx.exec(select(Draft))
            tx.add(Skill(name="ski"))
        assert count(realm, Skill) == 1


@pytest.mark.parametrize("key", ["nope", 5, None, b"x"])
def test_a_key_of_the_wrong_type_is_a_wrong_argument(realm: Realm, key: Any) -> None:
    with pytest.raises(TypeError, match=r"^The key id of Team is of type UUID; .* is of type \w+\.$"):
        realm.get(Team, key)
