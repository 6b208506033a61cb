"""dev.py on machines where something is missing, and after installations that were broken off.

Each test runs a copy of the script in a directory of its own, so that the project's venv is never touched.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WITHOUT_ENSUREPIP = "import runpy, sys; sys.modules['ensurepip'] = None; runpy.run_path(sys.argv.pop(1), run_name='__main__')"

# Stands in for uv: writes down what it is asked, makes something that looks like a venv, and fails where it is told to.
UV = """#!/bin/sh
PATH=/bin:/usr/bin
echo "$@" >> uv-calls.txt
if [ "$1" = venv ]; then
    for last; do :; done
    mkdir -p "$last/bin"
    printf '#!/bin/sh\\nexit 7\\n' > "$last/bin/python"
    chmod +x "$last/bin/python"
else
    test ! -e fail-install
fi
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A directory with dev.py, pyproject.toml and an empty directory for programs."""
    for name in ("dev.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "programs").mkdir()
    return tmp_path


@pytest.fixture
def project_with_uv(project: Path) -> Path:
    """The same, with a stand-in for uv on the path."""
    if os.name == "nt":
        pytest.skip("the stand-in for uv is a shell script")
    uv = project / "programs" / "uv"
    uv.write_text(UV)
    uv.chmod(0o755)
    return project


def run(project: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run this Python from another directory, with nothing but the project's programs on the path."""
    elsewhere = project / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, *command],
        cwd=elsewhere,
        env={**os.environ, "PATH": str(project / "programs")},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
    )


def calls(project: Path) -> list[str]:
    """What the stand-in for uv was asked, by first words."""
    record = project / "uv-calls.txt"
    return [" ".join(line.split()[:2]) for line in record.read_text().splitlines()] if record.exists() else []


def test_a_missing_venv_module_is_answered_with_the_package_to_install(project: Path) -> None:
    done = run(project, "-c", WITHOUT_ENSUREPIP, str(project / "dev.py"), "demo")
    assert done.returncode == 1
    assert f"sudo apt install python{sys.version_info.major}.{sys.version_info.minor}-venv" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (project / ".venv").exists()


def test_an_old_python_is_answered_with_what_to_install(project: Path) -> None:
    old = "import runpy, sys; sys.version_info = (3, 9, 2, 'final', 0); runpy.run_path(sys.argv.pop(1), run_name='__main__')"
    done = run(project, "-c", old, str(project / "dev.py"), "test")
    assert done.returncode == 1
    assert "needs Python 3.11 or newer; this is Python 3.9" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("arguments", "code"), [([], 2), (["nonsense"], 2), (["--help"], 0)])
def test_without_a_command_it_says_which_there_are(project: Path, arguments: list[str], code: int) -> None:
    done = run(project, str(project / "dev.py"), *arguments)
    assert done.returncode == code
    assert "dev.py demo" in done.stdout
    assert not (project / ".venv").exists()


def test_exit_codes_are_passed_on_and_the_second_run_installs_nothing(project_with_uv: Path) -> None:
    script = str(project_with_uv / "dev.py")
    assert run(project_with_uv, script, "demo").returncode == 7
    assert calls(project_with_uv) == ["venv --quiet", "pip install"]
    assert run(project_with_uv, script, "demo").returncode == 7
    assert calls(project_with_uv) == ["venv --quiet", "pip install"]


def test_an_installation_that_failed_is_begun_from_nothing(project_with_uv: Path) -> None:
    script = str(project_with_uv / "dev.py")
    (project_with_uv / "fail-install").touch()
    assert run(project_with_uv, script, "demo").returncode == 1
    (project_with_uv / ".venv" / "half-installed").touch()
    (project_with_uv / "fail-install").unlink()
    assert run(project_with_uv, script, "demo").returncode == 7
    assert calls(project_with_uv) == ["venv --quiet", "pip install"] * 2
    assert not (project_with_uv / ".venv" / "half-installed").exists()


def test_a_changed_pyproject_is_installed_into_the_same_venv(project_with_uv: Path) -> None:
    script = str(project_with_uv / "dev.py")
    run(project_with_uv, script, "test")
    with (project_with_uv / "pyproject.toml").open("a") as pyproject:
        pyproject.write("\n# changed\n")
    run(project_with_uv, script, "demo")
    assert calls(project_with_uv) == ["venv --quiet", "pip install", "pip install"]
    run(project_with_uv, script, "test")  # what the demo updated was the development venv
    assert len(calls(project_with_uv)) == 3


def test_development_asks_for_its_group_and_for_the_project_itself_from_here(project_with_uv: Path) -> None:
    run(project_with_uv, str(project_with_uv / "dev.py"), "test")
    asked = (project_with_uv / "uv-calls.txt").read_text().splitlines()[-1]
    assert "--editable=.[all]" in asked
    assert "localstore-sync" not in asked
    assert "import-linter" in asked
