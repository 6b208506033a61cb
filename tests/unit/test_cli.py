"""The command ``localstore``."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from typer.testing import CliRunner

import localstore
from localstore.cli import app

ROOT = Path(__file__).parents[2]
WRITTEN = [
    "alembic",
    "alembic.ini",
    "alembic/env.py",
    "alembic/script.py.mako",
    "alembic/versions",
    "alembic/versions/.gitkeep",
]


def run(*arguments: str) -> tuple[int, str]:
    """The exit code, and what was printed on both streams, on one line."""
    result = CliRunner().invoke(app, arguments, terminal_width=200)
    return result.exit_code, " ".join(result.output.split())


def written(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def without_comments(text: str) -> list[str]:
    return [line.removesuffix("  # noqa: F401") for line in text.splitlines() if not line.startswith("#")]


def test_the_version_is_printed() -> None:
    assert run("--version") == (0, f"localstore {localstore.__version__}")


def test_help_names_the_commands() -> None:
    code, said = run("--help")
    assert code == 0
    assert "init" in said
    assert "--version" in said


def test_help_of_init_names_its_options() -> None:
    code, said = run("init", "--help")
    assert code == 0
    for name in ("directory", "--models", "--database", "nothing is overwritten"):
        assert name in said.lower()


def test_it_is_installed_as_a_command() -> None:
    (script,) = [found for found in entry_points(group="console_scripts") if found.name == "localstore"]
    assert script.value == "localstore.cli:main"
    done = subprocess.run([sys.executable, "-m", "localstore.cli", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"localstore {localstore.__version__}\n"


def test_init_writes_an_environment_and_says_what_to_run_next(tmp_path: Path) -> None:
    code, said = run("init", str(tmp_path), "--models", "shop.models", "--database", "shop.db")
    assert code == 0
    assert written(tmp_path) == WRITTEN
    assert "alembic revision --autogenerate" in said
    assert "alembic upgrade head" in said
    assert "shop.models" in said
    assert "\nimport shop.models  # noqa: F401\n" in (tmp_path / "alembic/env.py").read_text(encoding="utf-8")
    assert "sqlalchemy.url = sqlite:///%(here)s/shop.db" in (tmp_path / "alembic.ini").read_text(encoding="utf-8")


def test_nothing_is_left_to_be_filled_in(tmp_path: Path) -> None:
    run("init", str(tmp_path))
    for name in ("alembic.ini", "alembic/env.py"):
        assert "{{" not in (tmp_path / name).read_text(encoding="utf-8")


def test_a_file_elsewhere_can_be_named(tmp_path: Path) -> None:
    database = tmp_path / "100%.db"
    run("init", str(tmp_path), "--database", str(database))
    quoted = database.as_posix().replace("%", "%%25")
    assert f"sqlalchemy.url = sqlite:///{quoted}\n" in (tmp_path / "alembic.ini").read_text(encoding="utf-8")


@pytest.mark.parametrize("existing", ["alembic.ini", "alembic"])
def test_init_overwrites_nothing(tmp_path: Path, existing: str) -> None:
    (tmp_path / existing).mkdir() if existing == "alembic" else (tmp_path / existing).write_text("mine")
    code, said = run("init", str(tmp_path))
    assert code == 1
    assert f"{existing} exists in {tmp_path}" in said
    assert "Nothing was written" in said
    assert written(tmp_path) == [existing]


def test_init_a_second_time_names_all_that_is_there(tmp_path: Path) -> None:
    run("init", str(tmp_path))
    code, said = run("init", str(tmp_path), "--models", "other")
    assert code == 1
    assert "alembic.ini and alembic exist" in said
    assert "import other" not in (tmp_path / "alembic/env.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("models", ["my-app", "a..b", "1a", "a; import os", ""])
def test_what_cannot_be_imported_is_refused(tmp_path: Path, models: str) -> None:
    code, said = run("init", str(tmp_path), "--models", models)
    assert code == 1
    assert "is not the name of a module" in said
    assert written(tmp_path) == []


def test_a_missing_folder_is_not_made(tmp_path: Path) -> None:
    code, said = run("init", str(tmp_path / "typo"))
    assert code == 1
    assert "is not a folder" in said
    assert written(tmp_path) == []


def test_a_database_in_a_missing_folder_is_refused(tmp_path: Path) -> None:
    code, said = run("init", str(tmp_path), "--database", "data/app.db")
    assert code == 1
    assert "The folder of the file data/app.db does not exist" in said
    assert written(tmp_path) == []
    (tmp_path / "data").mkdir()
    assert run("init", str(tmp_path), "--database", "data/app.db")[0] == 0


@pytest.mark.skipif(sys.platform == "win32", reason="a link there takes rights")
def test_what_cannot_be_written_is_a_message(tmp_path: Path) -> None:
    (tmp_path / "alembic").symlink_to(tmp_path / "nowhere")  # in the way, though nothing is there
    code, said = run("init", str(tmp_path))
    assert code == 1
    assert f"{tmp_path / 'alembic' / 'env.py'} cannot be written" in said


def test_the_repositorys_own_environment_is_the_one_that_init_writes(tmp_path: Path) -> None:
    """They differ in what they are for: the models, the file, and the variable that names another."""
    run("init", str(tmp_path), "--models", "examples.field_survey.models", "--models", "examples.todo.models")
    for name in WRITTEN[1:4]:
        ours = (ROOT / name).read_text(encoding="utf-8")
        theirs = (tmp_path / name).read_text(encoding="utf-8")
        theirs = theirs.replace("ALEMBIC_URL", "EXAMPLES_URL").replace("%(here)s/app.db", "examples.db")
        assert without_comments(theirs) == without_comments(ours)
