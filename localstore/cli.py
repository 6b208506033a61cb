"""The command ``localstore``: what a developer does once, around an application. An application itself never needs it.

``localstore init`` writes an Alembic environment that suits synced files; nothing is ever overwritten.
"""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from localstore import __version__
from localstore.hub.commands import app as hub

__all__ = ["app", "main"]

VARIABLE = "ALEMBIC_URL"
"""The environment variable by which the written ``env.py`` can be pointed at another file."""

_MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")

_MISREAD = "%?"
"""Characters in a folder's name that stand for something else in alembic.ini or in a URL."""

app = typer.Typer(name="localstore", no_args_is_help=True, add_completion=False, help="Local-first data for Python.")

app.add_typer(hub)


def main() -> None:
    """The console script."""
    app()


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"localstore {__version__}")
        raise typer.Exit


@app.callback()
def _localstore(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Local-first data for Python."""


@app.command()
def init(
    directory: Annotated[Path, typer.Argument(help="The application's folder, where alembic is run.")] = Path(),
    models: Annotated[
        list[str] | None, typer.Option(help="Module with the table classes; more than once for several. [default: models]")
    ] = None,
    database: Annotated[str, typer.Option(help="The file that alembic works on during development.")] = "app.db",
) -> None:
    """Write alembic.ini and alembic/ into an application. Nothing is overwritten."""
    modules = models or ["models"]
    for module in modules:
        if not _MODULE.fullmatch(module):
            raise _failure(
                f"{module!r} is not the name of a module. Nothing was written. Write it as for import: my_app.models."
            )
    if not directory.is_dir():
        raise _failure(f"{directory} is not a folder. Nothing was written.")
    if not (directory / database).parent.is_dir():
        raise _failure(
            f"The folder of the file {database} does not exist in {directory.resolve()}. Nothing was written. Make it first."
        )
    existing = [name for name in ("alembic.ini", "alembic") if (directory / name).exists()]
    if existing:
        raise _failure(
            f"{' and '.join(existing)} exist{'s' if len(existing) == 1 else ''} in {directory.resolve()} already."
            " Nothing was written. Move what is there away, or run init in another folder and compare."
        )
    for name, text in _environment(directory.resolve(), modules, database).items():
        try:
            _write(directory / name, text)
        except OSError as error:
            raise _failure(
                f"{directory.resolve() / name} cannot be written: {error.strerror}. Nothing that was there has changed."
                " See to it, remove what init has written, and run it again."
            ) from error
    typer.echo(_what_next(directory, modules, database))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("x", encoding="utf-8", newline="\n") as file:
        file.write(text)


def _environment(directory: Path, modules: list[str], database: str) -> dict[str, str]:
    """The files to write, by their path in the application."""
    here = "%(here)s"
    if any(character in str(directory) for character in _MISREAD):  # which would be put in for it as it is
        here = _in_ini(directory.as_posix())
    place = Path(database)
    url = _in_ini(_in_url(place.as_posix()))
    if not place.is_absolute():
        url = f"{here if here == '%(here)s' else _in_ini(_in_url(directory.as_posix()))}/{url}"
    values = {
        "imports": "\n".join(f"import {module}  # noqa: F401" for module in sorted(modules)),
        "variable": VARIABLE,
        "here": here,
        "url": f"sqlite:///{url}",
    }
    written = {"alembic.ini": "alembic.ini", "alembic/env.py": "env.py.txt", "alembic/script.py.mako": "script.py.mako"}
    found = {path: _filled(template, values) for path, template in written.items()}
    return {**found, "alembic/versions/.gitkeep": ""}


def _in_ini(text: str) -> str:
    return text.replace("%", "%%")


def _in_url(path: str) -> str:
    """A path as SQLAlchemy reads it back: its own quoting would spoil more readable names."""
    return path.replace("%", "%25").replace("?", "%3F")


def _filled(template: str, values: dict[str, str]) -> str:
    text = files("localstore").joinpath("templates", template).read_text(encoding="utf-8")
    for name, value in values.items():
        text = text.replace("{{" + name + "}}", value)
    return text


def _what_next(directory: Path, modules: list[str], database: str) -> str:
    where = "" if directory.resolve() == Path.cwd() else f"  cd {directory}\n"
    return (
        f"Wrote alembic.ini and alembic/ for {', '.join(modules)} and the file {database}.\n\n"
        f"Next, now and after each change of the models:\n\n{where}"
        '  alembic revision --autogenerate -m "what changed"\n'
        "  alembic upgrade head\n\n"
        "Read what the first one wrote before you run the second: it cannot tell a rename from a drop and an add.\n"
        "Nothing to do is what a first revision should find, when a realm has made the file from the same models."
    )


def _failure(message: str) -> typer.Exit:
    typer.echo(f"localstore init: {message}", err=True)
    return typer.Exit(1)


if __name__ == "__main__":
    main()
