"""What the survey records: penguins, the stations on the islands, and notes that everybody may edit.

Keys are made from what identifies a thing in the field, so that all devices mean the same row by the same key.
"""

from datetime import date
from uuid import NAMESPACE_URL, UUID, uuid5

from sqlmodel import Field, SQLModel

__all__ = ["SCHEMA", "Note", "Penguin", "Station", "key_of"]

_SURVEY = uuid5(NAMESPACE_URL, "https://doi.org/10.5281/zenodo.3960218")


def key_of(kind: str, *identity: str) -> UUID:
    """The key of the thing of a kind that these words identify."""
    return uuid5(_SURVEY, "/".join((kind, *identity)))


class Penguin(SQLModel, table=True):
    """One sampled adult and its nest."""

    id: UUID = Field(primary_key=True)
    study: str
    sample: int
    species: str
    island: str
    individual: str
    date_egg: date
    clutch_complete: bool
    bill_length_mm: float | None = None
    bill_depth_mm: float | None = None
    flipper_length_mm: int | None = None
    body_mass_g: int | None = None
    sex: str | None = None
    delta_15_n: float | None = None
    delta_13_c: float | None = None
    comments: str | None = None


class Station(SQLModel, table=True):
    """A hut on an island. Each device may change any station."""

    id: UUID = Field(primary_key=True)
    island: str
    leader: str | None = None
    weather: str | None = None
    nests_counted: int = 0


class Note(SQLModel, table=True):
    """A line in the survey's shared notebook."""

    id: UUID = Field(primary_key=True)
    title: str
    text: str


SCHEMA: set[type[SQLModel]] = {Penguin, Station, Note}
