"""What the three devices do to the same rows while they cannot see each other's changes.

Every edit is one ``write()``. The islands edit one after the other, Biscoe first, so that the later one is known.
"""

from collections.abc import Callable

from sqlmodel import Session, SQLModel

from examples.field_survey.models import Note, Penguin, Station, key_of
from localstore import Realm

__all__ = ["edit", "enter_station"]

_WEIGHED_TWICE = key_of("penguin", "Adelie Penguin (Pygoscelis adeliae)", "1")
_BOAT = key_of("note", "boat")


def enter_station(tx: Session, island: str) -> None:
    """The station on the device's own island and, once, the note about the boat."""
    tx.add(Station(id=key_of("station", island), island=island))
    if island == "Biscoe":
        tx.add(Note(id=_BOAT, title="Boat", text="Leaves Biscoe on Monday."))


def edit(realm: Realm, island: str) -> None:
    """The edits that one device makes."""
    for change in _EDITS[island]:
        with realm.write() as tx:
            change(tx)


def _set(model: type[SQLModel], key: object, **values: object) -> Callable[[Session], None]:
    def change(tx: Session) -> None:
        row = tx.get_one(model, key)
        for name, value in values.items():
            setattr(row, name, value)

    return change


def _delete(model: type[SQLModel], key: object) -> Callable[[Session], None]:
    return lambda tx: tx.delete(tx.get_one(model, key))


_EDITS: dict[str, list[Callable[[Session], None]]] = {
    "Biscoe": [
        _set(Station, key_of("station", "Torgersen"), leader="K. Gorman"),  # Dream names another one
        _set(Penguin, _WEIGHED_TWICE, body_mass_g=3725),  # Torgersen weighed it again
        _set(Station, key_of("station", "Dream"), weather="snow"),  # Torgersen sets another column: both stay
        _delete(Note, _BOAT),  # Dream corrects the note in the meantime: the delete wins
    ],
    "Dream": [
        _set(Station, key_of("station", "Torgersen"), leader="W. Fraser"),
        _set(Note, _BOAT, text="Leaves Biscoe on Tuesday."),
    ],
    "Torgersen": [
        _set(Penguin, _WEIGHED_TWICE, body_mass_g=3775),
        _set(Station, key_of("station", "Dream"), nests_counted=80),
    ],
}
