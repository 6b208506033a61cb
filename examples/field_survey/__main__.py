"""Three devices that were offline converge through a shared folder: ``python -m examples.field_survey``."""

import argparse
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console

from examples.field_survey import outcome
from examples.field_survey.survey import Survey, SurveyError
from examples.field_survey.view import watching

MARKER = "made-by-field-survey"


def main() -> int:
    """Run the survey and say what came out of it."""
    parser = argparse.ArgumentParser(prog="python -m examples.field_survey", description=__doc__)
    parser.add_argument("--dir", type=Path, default=Path("demo-run"), help="where all files go; emptied first")
    parser.add_argument("--pace", type=float, default=0.1, help="seconds to rest after each day's data, for the eye")
    arguments = parser.parse_args()
    directory = arguments.dir.resolve()
    empty(directory)
    console = Console(highlight=False, soft_wrap=True)
    try:
        with watching(console) as view, Survey(directory, view, pace=arguments.pace) as survey:
            results = survey.run()
            disk = survey.disk
    except SurveyError as failure:
        console.print(f"The survey failed. {failure}")
        return 1
    except KeyboardInterrupt:
        console.print("Stopped.")
        return 130
    is_agreed = outcome.do_agree(results)
    say(console, "All devices agree:" if is_agreed else "The devices do NOT agree:", outcome.agreement(results))
    if not is_agreed:
        say(console, "What differs:", outcome.differences(results))
    say(console, "What conflicted, and which value won:", outcome.conflicts(results))
    say(console, "The stations (Dream kept both Biscoe's weather and Torgersen's count):", outcome.stations(results))
    say(console, "Where the files lie:", [*(result.path for result in results.values()), f"{disk} (the shared folder)"])
    return 0 if is_agreed else 1


def empty(directory: Path) -> None:
    """Make a fresh directory, in place of that of an earlier run but of nothing else."""
    if directory.exists() and any(directory.iterdir()):
        if not (directory / MARKER).exists():
            sys.exit(f"{directory} is not empty and not from an earlier run. Choose another --dir.")
        shutil.rmtree(directory)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / MARKER).touch()


def say(console: Console, title: str, lines: Iterable[str]) -> None:
    """Print a title and indented lines."""
    console.print(f"\n{title}", style="bold")
    for line in lines:
        console.print(f"  {line}", markup=False)


if __name__ == "__main__":
    sys.exit(main())
