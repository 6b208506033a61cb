"""Parts of a hub by themselves: how often one may ask, what its settings say, and its command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

pytest.importorskip("starlette", reason="needs the extra hub")

from localstore import Settings
from localstore.cli import app
from localstore.hub.rates import Rates
from localstore.hub.settings import HubSettings
from localstore.testing.clock import ManualClock


def test_a_bucket_holds_a_burst_and_fills_up_again() -> None:
    clock = ManualClock()
    rates = Rates(2.0, 3.0, clock.monotonic)
    assert [rates.take("a") for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    assert rates.take("b") == 0.0
    clock.advance(0.25)
    assert rates.take("a") == 0.25
    clock.advance(0.25)
    assert rates.take("a") == 0.0
    clock.advance(3600)
    assert [rates.take("a") for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]


def test_without_a_rate_there_is_no_limit() -> None:
    rates = Rates(0.0, 1.0, ManualClock().monotonic)
    assert not any(rates.take("a") for _ in range(100))


def test_buckets_do_not_grow_for_ever() -> None:
    rates = Rates(1.0, 1.0, ManualClock().monotonic, max_keys=2)
    rates.take("a")
    for name in ("b", "c"):
        rates.take(name)
    assert rates.take("a") == 0.0, "the longest unused was forgotten"
    assert rates.take("c") > 0


def test_settings_come_from_the_environment_and_are_not_a_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCALSTORE_HUB_APP", "todo")
    monkeypatch.setenv("LOCALSTORE_HUB_STORE", "postgresql://hub:hunter2@db/hub")
    monkeypatch.setenv("LOCALSTORE_HUB_PATH", "/sync/")
    settings = HubSettings()
    assert (settings.app, settings.path) == ("todo", "/sync")
    assert "hunter2" not in repr(settings)
    assert Settings().remote is None


def test_a_secret_comes_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "localstore_hub_metrics_token").write_text("hunter2\n")
    monkeypatch.setenv("LOCALSTORE_HUB_SECRETS", str(tmp_path))
    token = HubSettings(app="todo").metrics_token
    assert token is not None
    assert token.get_secret_value() == "hunter2"


def test_a_setting_that_cannot_be_used_is_named_without_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="port") as caught:
        HubSettings(app="todo", port=700_000)
    assert "700000" not in str(caught.value)
    monkeypatch.setenv("LOCALSTORE_HUB_PROT", "1")
    with pytest.raises(ValueError, match=r"LOCALSTORE_HUB_PROT .*Did you mean LOCALSTORE_HUB_PORT\?"):
        HubSettings(app="todo")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--store", "memory://x"], "setting app"),
        (["--app", "todo"], "where the log is"),
        (["--app", "todo", "--store", "nothing"], "not the URL of a remote"),
        (["--app", "todo", "--store", "postgresql://hub:hunter2@db/hub"], "LOCALSTORE_HUB_STORE"),
        (["--app", "todo", "--store", "memory://x"], "--open"),
    ],
)
def test_serve_says_what_is_missing(arguments: list[str], told: str) -> None:
    done = CliRunner().invoke(app, ["hub", "serve", *arguments])
    assert done.exit_code == 1
    assert told in done.output
    assert "hunter2" not in done.output


@pytest.mark.parametrize(
    "missing",
    ["starlette", *(pytest.param(name, marks=pytest.mark.slow) for name in ("uvicorn", "prometheus_client"))],  # a process each
)
def test_serve_names_the_extra_that_it_needs(missing: str) -> None:
    script = f"import sys; sys.modules[{missing!r}] = None; from localstore.cli import main; main()"
    command = [sys.executable, "-c", script, "hub", "serve", "--app", "todo", "--store", "memory://x", "--open"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "pip install 'localstore-sync[hub]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_program_that_never_serves_loads_nothing_of_it() -> None:
    script = (
        "import sys, localstore, localstore.cli; "
        "print([name for name in ('starlette', 'uvicorn', 'httpx2', 'prometheus_client') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr
