#!/usr/bin/env python3
"""Every command a developer needs, on a machine that has Python 3.11 or newer and nothing else.

    python3 dev.py demo [options]         three devices that were offline converge through a folder
    python3 dev.py test [pytest options]  all tests but those marked slow; one process a core when no options are given
    python3 dev.py check                  linter, formatter, types, layers
    python3 dev.py bench [options]        benchmarks against baselines measured in the same run

The first call makes ``.venv`` beside this file, with uv where it is installed, else with venv and pip; later calls
install again only when ``pyproject.toml`` changed. Standard library only.
"""

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
STAMP = VENV / "dev-stamp"  # what is installed; absent while anything is being installed, so that half a venv is not believed
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = BIN / ("python.exe" if os.name == "nt" else "python")
OWNER = f"{sys.version} {ROOT}".replace("\n", " ")  # the Python and the place that a venv was made for


def too_old(version: "tuple[int, ...]") -> "str | None":  # quoted, so that every Python 3 gets as far as the answer
    """What to install when the running Python is too old, in words for a person; None when it is not."""
    if version >= (3, 11):
        return None
    return (
        f"localstore needs Python 3.11 or newer; this is Python {version[0]}.{version[1]}.\n"
        "Install one and start this script with it, for example on Debian 12 or Ubuntu 24.04:\n"
        "    sudo apt install python3 python3-venv\n"
        "or take it from https://www.python.org/downloads/"
    )


if __name__ == "__main__" and too_old(sys.version_info[:2]):
    sys.exit(too_old(sys.version_info[:2]))


def no_venv(find_module: Callable[[str], object], uv: str | None) -> str | None:
    """What to install when virtual environments cannot be made; None when they can."""
    if uv or (find_module("venv") and find_module("ensurepip")):
        return None
    this = f"{sys.version_info.major}.{sys.version_info.minor}"
    return (
        f"This Python {this} cannot make virtual environments: its venv or ensurepip module is missing.\n"
        "Install it and run the same command again. On Debian and Ubuntu:\n"
        f"    sudo apt install python{this}-venv\n"
        "Or install uv, which does without: https://docs.astral.sh/uv/getting-started/installation/"
    )


def requirements(extras: str) -> list[str]:
    """What the installer is given: the project itself, editable, with what the demo or all development needs."""
    if extras == "demo":
        return ["--editable=.[demo]"]
    import tomllib  # new in 3.11

    group = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]["dev"]
    return [re.sub(r"^localstore-sync(?=\[)", "--editable=.", entry) for entry in group]  # old pips would ask the index for it


def stamp(extras: str) -> str:
    """What ``STAMP`` holds when ``extras`` are installed as ``pyproject.toml`` has them now."""
    return f"{OWNER}\n{hashlib.sha256((ROOT / 'pyproject.toml').read_bytes()).hexdigest()}\n{extras}"


def install(extras: str, uv: str | None) -> None:
    """Bring the venv up to date if it is not, from nothing if its last installation was broken off."""
    known = STAMP.read_text(encoding="utf-8") if STAMP.exists() and PYTHON.exists() else ""
    if known in {stamp(extras), stamp("dev")}:  # development's packages include the demo's
        return
    if known.endswith("\ndev"):
        extras = "dev"  # an update takes nothing away
    STAMP.unlink(missing_ok=True)
    if not known.startswith(f"{OWNER}\n"):
        print(f"dev.py: making {VENV}", flush=True)
        shutil.rmtree(VENV, ignore_errors=True)
        make = [uv, "venv", "--quiet", "--python", sys.executable] if uv else [sys.executable, "-m", "venv"]
        step([*make, VENV])
    print(f"dev.py: installing for {extras}; this takes a minute or two, once", flush=True)
    pip = [uv, "pip", "install", "--python", str(PYTHON)] if uv else [str(PYTHON), "-m", "pip", "install"]
    step([*pip, "--quiet", *requirements(extras)])
    STAMP.write_text(stamp(extras), encoding="utf-8")


def step(command: Sequence[str | Path]) -> None:
    """Run a part of the set-up and end if it fails."""
    code = call(command)
    if code:
        sys.exit(code)


def call(command: Sequence[str | Path]) -> int:
    """Run a command in the project's folder, with the venv's programs first, and return its exit code."""
    path = os.pathsep.join([str(BIN), os.environ.get("PATH", os.defpath)])
    environment = {**os.environ, "VIRTUAL_ENV": str(VENV), "PATH": path}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # else each process of each run compiles all tests again, for ten seconds
    code = subprocess.call([str(part) for part in command], cwd=ROOT, env=environment)
    return code if code >= 0 else 128 - code  # ended by a signal: said as a shell does


def check() -> int:
    """Run every check, also after one failed, and name those that did."""
    checks: dict[str, list[str | Path]] = {
        "ruff check": [PYTHON, "-m", "ruff", "check", "."],
        "ruff format": [PYTHON, "-m", "ruff", "format", "--check", "."],
        "mypy": [PYTHON, "-m", "mypy"],
        "pyright": [PYTHON, "-m", "pyright", "--pythonpath", PYTHON],
        "lint-imports": [BIN / "lint-imports"],
    }
    failed = []
    for name, command in checks.items():
        print(f"dev.py: {name}", flush=True)
        if call(command):
            failed.append(name)
    print(f"dev.py: failed: {', '.join(failed)}" if failed else "dev.py: all checks passed")
    return 1 if failed else 0


def main(arguments: Sequence[str]) -> int:
    """Do what the command line says and return the exit code."""
    command, options = (arguments[0] if arguments else ""), list(arguments[1:])
    modules = {"demo": ["examples.field_survey"], "test": ["pytest"], "check": [], "bench": ["benchmarks"]}
    if command not in modules:
        print((__doc__ or "").strip())
        return 0 if command in {"help", "-h", "--help"} else 2
    uv = shutil.which("uv")
    problem = no_venv(importlib.util.find_spec, uv)
    if problem:
        sys.exit(problem)
    install("demo" if command == "demo" else "dev", uv)
    if command == "test":
        options = options or ["-n", "auto"]
    return check() if command == "check" else call([PYTHON, "-m", *modules[command], *options])


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
