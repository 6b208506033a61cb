"""The Palmer penguins data as it was written down in the field, island by island and day by day.

Data: Gorman, Williams and Fraser (2014), from the package palmerpenguins. Only its CSV file is read: importing the package
would import pandas.
"""

import csv
import itertools
from datetime import date
from importlib.util import find_spec
from pathlib import Path

from examples.field_survey.models import Penguin, key_of

__all__ = ["ISLANDS", "PENGUIN_COUNT", "field_days"]

ISLANDS = ("Biscoe", "Dream", "Torgersen")
PENGUIN_COUNT = 344


def field_days(island: str) -> list[list[Penguin]]:
    """What was recorded on one island: a list for each day, oldest first."""
    with _raw_file().open(encoding="utf-8", newline="") as lines:
        penguins = [_penguin(record) for record in csv.DictReader(lines) if record["Island"] == island]
    penguins.sort(key=lambda penguin: (penguin.date_egg, penguin.species, penguin.sample))
    return [list(day) for _, day in itertools.groupby(penguins, key=lambda penguin: penguin.date_egg)]


def _raw_file() -> Path:
    spec = find_spec("palmerpenguins")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("The survey needs the penguins: pip install 'localstore-sync[demo]'")
    return Path(spec.submodule_search_locations[0]) / "data" / "penguins-raw.csv"


def _penguin(record: dict[str, str]) -> Penguin:
    known = {name: value for name, value in record.items() if value != "NA"}

    def real(name: str) -> float | None:
        return float(known[name]) if name in known else None

    def whole(name: str) -> int | None:
        return int(known[name]) if name in known else None

    return Penguin(
        id=key_of("penguin", record["Species"], record["Sample Number"]),
        study=record["studyName"],
        sample=int(record["Sample Number"]),
        species=record["Species"],
        island=record["Island"],
        individual=record["Individual ID"],
        date_egg=date.fromisoformat(record["Date Egg"]),
        clutch_complete=record["Clutch Completion"] == "Yes",
        bill_length_mm=real("Culmen Length (mm)"),
        bill_depth_mm=real("Culmen Depth (mm)"),
        flipper_length_mm=whole("Flipper Length (mm)"),
        body_mass_g=whole("Body Mass (g)"),
        sex=known["Sex"].lower() if "Sex" in known else None,
        delta_15_n=real("Delta 15 N (o/oo)"),
        delta_13_c=real("Delta 13 C (o/oo)"),
        comments=known.get("Comments"),
    )
