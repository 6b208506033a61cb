"""Settings: where they are read from, which place wins, what is refused, and how an app finds its remote in them."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from pprint import pformat
from typing import Any

import pytest

from localstore import App, Credentials, LocalConfiguration, Realm, Settings, SyncConfiguration
from localstore.errors import Offline, StoreBusy
from localstore.sync.retry import Backoff, BackoffPolicy
from localstore.testing.memory import MemoryRemote
from tests.unit.session_kit import PATIENCE, Note, add, in_background
from tests.unit.test_urls import told as all_told


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and nothing in the environment."""
    for name in os.environ:
        if name.upper().startswith("LOCALSTORE_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_toml(directory: Path, /, **values: object) -> None:
    (directory / "localstore.toml").write_text(lines(values), encoding="utf-8")


def write_pyproject(directory: Path, /, **values: object) -> None:
    text = '[project]\nname = "todo"\n\n[tool.other]\npoll = 99\n\n[tool.localstore]\n' + lines(values)
    (directory / "pyproject.toml").write_text(text, encoding="utf-8")


def lines(values: dict[str, object]) -> str:
    toml = {name: str(value).lower() if isinstance(value, bool) else repr(value) for name, value in values.items()}
    return "".join(f"{name} = {value}\n" for name, value in toml.items())


UPPER_BOUNDS: dict[str, Any] = {
    "busy_timeout": 86_400,
    "max_changeset_bytes": 64 * 1024 * 1024,
    "max_changeset_rows": 64 * 1024 * 1024,
    "max_clock_drift": 366 * 86_400,
    "conflicts_max_age": 100 * 366 * 86_400,
    "conflicts_max_count": 1_000_000,
    "client_maximum_offline_time": 366 * 86_400,
    "connect_timeout": 86_400,
    "request_timeout": 86_400,
    "ping_period": 86_400,
    "pong_timeout": 86_400,
    "urgent_pong_timeout": 86_400,
    "fast_reconnect_limit": 86_400,
    "linger": 86_400,
    "poll": 86_400,
    "backoff_initial": 86_400,
    "backoff_factor": 100,
    "backoff_max": 86_400,
    "backoff_jitter": 0.999,
    "page_bytes": 1024**3,
    "page_count": 1_000_000,
    "snapshot_every": 1_000_000,
}
UPPER_BOUNDS_AND_MORE = {name: value + 1 for name, value in UPPER_BOUNDS.items()}
VALUES: dict[str, Any] = {
    **UPPER_BOUNDS,
    "remote": "memory://x",
    "directory": "/srv/todo",
    "synchronous": "FULL",
    "watch_network": False,
}
"""A value of each setting that is not its default."""


class TestOrder:
    def test_without_anything_the_defaults_count(self) -> None:
        settings = Settings()
        assert settings.remote is None
        assert settings.busy_timeout == 10
        assert settings.synchronous == "NORMAL"
        assert settings.connect_timeout == settings.request_timeout == settings.pong_timeout == 120
        assert settings.ping_period == settings.fast_reconnect_limit == 60
        assert settings.max_clock_drift == 300
        assert settings.client_maximum_offline_time == 30 * 86_400
        assert settings.linger == 0
        assert settings.poll is None
        assert (settings.conflicts_max_age, settings.conflicts_max_count) == (30 * 86_400, 10_000)
        assert settings.max_changeset_bytes == 64 * 1024 * 1024
        assert settings.max_changeset_rows == 1_000_000
        assert (settings.backoff_initial, settings.backoff_factor, settings.backoff_max) == (1, 2, 300)
        assert settings.backoff_jitter == 0.25
        assert settings.watch_network is True

    def test_each_place_beats_those_below_it(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write_pyproject(directory, poll=1.0)
        assert Settings().poll == 1
        write_toml(directory, poll=2.0)
        assert Settings().poll == 2
        monkeypatch.setenv("LOCALSTORE_POLL", "3")
        assert Settings().poll == 3
        assert Settings(poll=4).poll == 4

    def test_the_places_are_mixed_setting_by_setting(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write_pyproject(directory, poll=1.0, busy_timeout=1.0, page_count=1, remote="memory://pyproject")
        write_toml(directory, poll=2.0, busy_timeout=2.0, page_count=2)
        monkeypatch.setenv("LOCALSTORE_POLL", "3")
        monkeypatch.setenv("LOCALSTORE_BUSY_TIMEOUT", "3")
        settings = Settings(poll=4)
        assert (settings.poll, settings.busy_timeout, settings.page_count, settings.remote) == (4, 3, 2, "memory://pyproject")

    def test_the_case_of_an_environment_variable_does_not_matter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("localstore_poll", "3")
        assert Settings().poll == 3

    def test_a_pyproject_without_our_table_is_fine(self, directory: Path) -> None:
        (directory / "pyproject.toml").write_text('[project]\nname = "todo"\n', encoding="utf-8")
        assert Settings().poll is None

    def test_files_of_other_directories_do_not_count(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write_toml(directory, poll=2.0)
        write_pyproject(directory, page_count=3)
        (directory / "below").mkdir()
        monkeypatch.chdir(directory / "below")
        assert Settings().poll is None
        assert Settings().page_count == 5000

    def test_a_dotenv_file_is_not_read(self, directory: Path) -> None:
        (directory / ".env").write_text("LOCALSTORE_POLL=3\n", encoding="utf-8")
        assert Settings().poll is None

    def test_settings_are_read_anew_each_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        before = Settings()
        monkeypatch.setenv("LOCALSTORE_POLL", "3")
        assert (before.poll, Settings().poll) == (None, 3)


class TestValues:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("busy_timeout", 0),
            ("busy_timeout", -1),
            ("busy_timeout", "soon"),
            ("busy_timeout", None),
            ("synchronous", "OFF"),
            ("synchronous", "normal"),
            ("max_changeset_bytes", 0),
            ("max_changeset_bytes", 64 * 1024 * 1024 + 1),
            ("max_changeset_bytes", 1.5),
            ("max_changeset_rows", 0),
            ("max_changeset_rows", 64 * 1024 * 1024 + 1),
            ("max_clock_drift", -1),
            ("conflicts_max_age", 0),
            ("conflicts_max_count", 0),
            ("conflicts_max_count", 1.5),
            ("connect_timeout", 0.5),
            ("request_timeout", 0),
            ("ping_period", 5),
            ("pong_timeout", 5),
            ("urgent_pong_timeout", 0.9),
            ("fast_reconnect_limit", 1),
            ("linger", -1),
            ("poll", 0),
            ("poll", -5),
            ("backoff_initial", 0),
            ("backoff_factor", 0.9),
            ("backoff_max", 0),
            ("backoff_jitter", 1),
            ("backoff_jitter", -0.1),
            ("page_bytes", 0),
            ("page_count", 0),
            ("remote", 7),
            *((name, math.nan) for name in ("busy_timeout", "poll", "backoff_factor", "max_clock_drift")),
            *((name, math.inf) for name in ("busy_timeout", "poll", "backoff_max", "request_timeout")),
            *((name, value) for name, value in UPPER_BOUNDS_AND_MORE.items()),
            ("remote", ""),
            *((name, True) for name in VALUES if name != "watch_network"),
        ],
    )
    def test_a_bad_value_is_refused_and_named(self, name: str, value: Any) -> None:
        with pytest.raises(ValueError, match=name):
            Settings(**{name: value})

    @pytest.mark.parametrize("value", ["", "soon", "0", "-1", "1,5"])
    def test_also_in_the_environment(self, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
        monkeypatch.setenv("LOCALSTORE_POLL", value)
        with pytest.raises(ValueError, match=r"^LOCALSTORE_POLL in the environment cannot be used: it should be .* Correct it"):
            Settings()

    def test_also_in_the_files(self, directory: Path) -> None:
        write_toml(directory, synchronous="SOMETIMES")
        with pytest.raises(ValueError, match=r"^synchronous in localstore\.toml cannot be used: it should be 'NORMAL'"):
            Settings()
        (directory / "localstore.toml").write_text("busy_timeout = true\n", encoding="utf-8")
        with pytest.raises(ValueError, match=r"^busy_timeout in localstore\.toml cannot be used: it should be a number"):
            Settings()
        write_toml(directory)
        write_pyproject(directory, page_count=-1)
        with pytest.raises(ValueError, match=r"^page_count in \[tool\.localstore\] of pyproject\.toml cannot be .*.*, 5000\.$"):
            Settings()

    def test_the_place_that_is_named_is_the_one_that_counts(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write_pyproject(directory, poll=-1.0)
        write_toml(directory, poll=3.0)
        assert Settings().poll == 3
        monkeypatch.setenv("LocalStore_Poll", "-1")
        with pytest.raises(ValueError, match=r"^LocalStore_Poll in the environment"):
            Settings()
        with pytest.raises(ValueError, match=r"^poll in the arguments of Settings"):
            Settings(poll=-1)

    def test_all_that_is_wrong_is_said_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LOCALSTORE_PAGE_COUNT", "many")
        with pytest.raises(ValueError, match=r"poll in the arguments.*LOCALSTORE_PAGE_COUNT"):
            Settings(poll=0)

    @pytest.mark.parametrize("name", ["localstore.toml", "pyproject.toml"])
    @pytest.mark.parametrize(
        ("content", "problem"),
        [
            (b"\npoll: 3\n", "line 2"),
            (b"poll = 'caf\xe9'\n", "not UTF-8"),
            (b"poll = " + b"[" * 100_000, "nested too deeply"),
        ],
        ids=["no TOML", "no UTF-8", "too deep"],
    )
    def test_a_file_that_cannot_be_read_is_refused_and_named(
        self, directory: Path, name: str, content: bytes, problem: str
    ) -> None:
        (directory / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"^{name} cannot be read: .*{problem}.*Correct it"):
            Settings()

    @pytest.mark.parametrize("name", ["localstore.toml", "pyproject.toml"])
    def test_a_folder_of_its_name_is_refused_as_well(self, directory: Path, name: str) -> None:
        (directory / name).mkdir()
        with pytest.raises(ValueError, match=rf"^{name} cannot be read: .*Correct it"):
            Settings()

    def test_a_byte_order_mark_does_no_harm(self, directory: Path) -> None:
        (directory / "localstore.toml").write_bytes(b"\xef\xbb\xbfpoll = 3\n")
        assert Settings().poll == 3

    @pytest.mark.parametrize("content", ["[tool]\nlocalstore = 3\n", "[[tool.localstore]]\npoll = 3\n"])
    def test_a_table_that_is_none_is_refused(self, directory: Path, content: str) -> None:
        (directory / "pyproject.toml").write_text(content, encoding="utf-8")
        with pytest.raises(ValueError, match=r"Write \[tool\.localstore\]"):
            Settings()

    @pytest.mark.parametrize("content", ["tool = 3\n", "[tool]\n", "[tool.localstore]\n", ""])
    def test_a_project_that_says_nothing_is_fine(self, directory: Path, content: str) -> None:
        (directory / "pyproject.toml").write_text(content, encoding="utf-8")
        assert Settings().poll is None

    def test_numbers_in_the_environment_are_read_as_numbers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LOCALSTORE_BUSY_TIMEOUT", "2.5")
        monkeypatch.setenv("LOCALSTORE_PAGE_COUNT", "7")
        monkeypatch.setenv("LOCALSTORE_SYNCHRONOUS", "FULL")
        settings = Settings()
        assert (settings.busy_timeout, settings.page_count, settings.synchronous) == (2.5, 7, "FULL")

    def test_a_directory_may_be_a_path(self, tmp_path: Path) -> None:
        assert Settings(directory=tmp_path).directory == str(tmp_path)  # type: ignore[arg-type]

    def test_settings_cannot_be_changed(self) -> None:
        settings = Settings(poll=2)
        with pytest.raises(ValueError, match=r"frozen: poll was not changed.*Settings\(poll="):
            settings.poll = 3  # type: ignore[misc]
        assert settings.poll == 2

    def test_every_setting_is_described(self) -> None:
        described = (Settings.__doc__ or "").replace(",", " ").replace(":", " ").split()
        assert set(Settings.model_fields) <= set(described)


class TestEverySetting:
    """Each can be set in each place, and is refused in each place when it makes no sense."""

    def test_all_are_tried_here(self) -> None:
        assert VALUES.keys() == Settings.model_fields.keys()

    @pytest.mark.parametrize("name", VALUES)
    def test_it_can_be_an_argument(self, name: str) -> None:
        assert getattr(Settings(**{name: VALUES[name]}), name) == VALUES[name]

    def test_a_directory_can_be_a_path(self) -> None:
        assert Settings(directory=Path("/somewhere")).directory == "/somewhere"  # type: ignore[arg-type]

    @pytest.mark.parametrize("name", VALUES)
    def test_it_can_be_set_in_the_environment(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(f"LOCALSTORE_{name.upper()}", str(VALUES[name]))
        assert getattr(Settings(), name) == VALUES[name]

    @pytest.mark.parametrize("write", [write_toml, write_pyproject])
    @pytest.mark.parametrize("name", VALUES)
    def test_it_can_be_set_in_a_file(self, directory: Path, name: str, write: Callable[..., None]) -> None:
        write(directory, **{name: VALUES[name]})
        assert getattr(Settings(), name) == VALUES[name]

    @pytest.mark.parametrize("name", VALUES)
    def test_a_value_of_another_kind_is_refused_everywhere(
        self, directory: Path, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(ValueError, match=rf"^{name} in the arguments of Settings cannot be used: it should be"):
            Settings(**{name: []})
        write_toml(directory, **{name: []})
        with pytest.raises(ValueError, match=rf"^{name} in localstore\.toml cannot be used: it should be"):
            Settings()
        if name not in ("remote", "directory"):  # there is no text that could not be one
            monkeypatch.setenv(f"LOCALSTORE_{name.upper()}", "sometimes")
            with pytest.raises(
                ValueError, match=rf"^LOCALSTORE_{name.upper()} in the environment cannot be used: it should be"
            ):
                Settings()

    def test_the_largest_values_overflow_nowhere(self, directory: Path) -> None:
        settings = Settings(remote="memory://largest", **UPPER_BOUNDS)
        with App.create("todo", settings=settings) as app:
            configuration = SyncConfiguration(app.login(Credentials.anonymous()), {Note}, "notes.db")
            with Realm.open(configuration) as realm, Realm.open(configuration) as other:
                add(realm, "a")
                writing = in_background(lambda: add(other, "b"))
                assert realm.sync_session.upload_all_local_changes(timeout=PATIENCE)
                assert realm.sync_session.download_all_server_changes(timeout=PATIENCE)
                writing.result(PATIENCE)
        policy = BackoffPolicy(
            initial=settings.backoff_initial, factor=settings.backoff_factor, max=settings.backoff_max, jitter=0
        )
        backoff = Backoff(policy, lambda: 0.0)
        assert {backoff.failed(Offline("gone")) for _ in range(2000)} == {settings.backoff_max}


class TestMisspellings:
    def test_a_variable_that_is_no_setting_is_refused_with_the_nearest(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LOCALSTORE_BUSY_TIMEUOT", "s3cret")
        expected = r"^LOCALSTORE_BUSY_TIMEUOT in the environment is no setting\. Did you mean LOCALSTORE_BUSY_TIMEOUT\?"
        for arguments in ({}, {"busy_timeout": 3}):
            with pytest.raises(ValueError, match=expected) as caught:
                Settings(**arguments)
            assert "s3cret" not in str(caught.value)

    @pytest.mark.parametrize("variable", ["localstore_busytimeout", "LOCALSTORE__BUSY_TIMEOUT", "LOCALSTORE_BUSY-TIMEOUT"])
    def test_also_one_in_small_letters_or_other_signs(self, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
        monkeypatch.setenv(variable, "3")
        with pytest.raises(ValueError, match=rf"^{variable} .* mean LOCALSTORE_BUSY_TIMEOUT"):
            Settings()

    @pytest.mark.parametrize("variable", ["LOCALSTORE_FROBNICATE", "LOCALSTORE_"])
    def test_one_that_is_like_none_is_refused_with_all_that_there_are(
        self, monkeypatch: pytest.MonkeyPatch, variable: str
    ) -> None:
        monkeypatch.setenv(variable, "3")
        with pytest.raises(ValueError, match=rf"^{variable} in the environment is no setting. Correct.*busy_timeout, .*poll"):
            Settings()

    def test_one_variable_in_two_spellings_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        if os.name == "nt":
            pytest.skip("this system's variables have no case")
        monkeypatch.setenv("LOCALSTORE_POLL", "3")
        monkeypatch.setenv("localstore_poll", "4")
        with pytest.raises(ValueError, match=r"LOCALSTORE_POLL and localstore_poll|localstore_poll and LOCALSTORE_POLL"):
            Settings()

    @pytest.mark.parametrize(
        "variable",
        [
            "LOCALSTORE_SERVICE_HOST",
            "LOCALSTORE_SERVICE_PORT",
            "LOCALSTORE_SERVICE_PORT_HTTP",
            "LOCALSTORE_PORT",
            "LOCALSTORE_PORT_8080_TCP",
            "LOCALSTORE_PORT_8080_TCP_ADDR",
            "LOCALSTORE_HUB_SERVICE_HOST",
            "LOCALSTORE_HUB_PORT_8080_TCP_PROTO",
        ],
    )
    def test_what_kubernetes_sets_for_a_service_of_that_name_is_none_of_ours(
        self, monkeypatch: pytest.MonkeyPatch, variable: str
    ) -> None:
        monkeypatch.setenv(variable, "10.0.0.1")
        assert Settings().poll is None

    @pytest.mark.parametrize("variable", ["LOCALSTOREPOLL", "MY_LOCALSTORE_POLL", "LOCAL_STORE_POLL"])
    def test_other_peoples_variables_are_none_of_ours(self, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
        monkeypatch.setenv(variable, "3")
        assert Settings().poll is None

    def test_an_argument_that_is_no_setting_is_refused_with_the_nearest(self) -> None:
        with pytest.raises(ValueError, match=r"^busy_timeuot in the arguments of Settings is no setting\. Did you mean busy_t"):
            Settings(busy_timeuot=3)  # type: ignore[call-arg]

    @pytest.mark.parametrize(
        ("write", "place"),
        [(write_toml, r"localstore\.toml"), (write_pyproject, r"\[tool\.localstore\] of pyproject\.toml")],
    )
    def test_so_is_a_key_in_a_file(self, directory: Path, write: Callable[..., None], place: str) -> None:
        write(directory, busy_timeuot=3, POLL=3)
        expected = rf"busy_timeuot in {place} is no setting\. Did you mean busy_timeout\? POLL in {place} is .*mean poll\?"
        with pytest.raises(ValueError, match=expected):
            Settings()


class TestSecrets:
    """A password in the URL of a remote is shown nowhere."""

    URL = "https://emma:s3cret@hub.example/todo"

    def test_not_by_the_settings_themselves(self) -> None:
        settings = Settings(remote=self.URL)
        assert settings.remote == self.URL
        for shown in (repr(settings), str(settings), f"{settings}", repr([settings]), pformat(settings)):
            assert "s3cret" not in shown
            assert "https://***@hub.example/todo" in shown

    def test_nor_by_a_configuration_that_holds_them(self) -> None:
        configuration = LocalConfiguration(path="a.db", settings=Settings(remote=self.URL))
        assert "s3cret" not in repr(configuration)

    def test_nor_when_they_are_refused(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(ValueError, match="poll") as caught:
            Settings(remote=self.URL, poll=0)
        refused = [caught.value]
        with pytest.raises(ValueError, match="remote") as caught:
            Settings(remote=[self.URL])  # type: ignore[arg-type]
        refused.append(caught.value)
        with pytest.raises(ValueError, match="remote") as caught:
            Settings().remote = self.URL  # type: ignore[misc]
        refused.append(caught.value)
        write_toml(directory, remote=[self.URL])
        with pytest.raises(ValueError, match="remote") as caught:
            Settings()
        refused.append(caught.value)
        (directory / "localstore.toml").write_text(f"remote = '{self.URL}", encoding="utf-8")
        with pytest.raises(ValueError, match="localstore") as caught:
            Settings()
        refused.append(caught.value)
        (directory / "localstore.toml").unlink()
        monkeypatch.setenv("LOCALSTORE_REMOTE", self.URL)
        monkeypatch.setenv("LOCALSTORE_POLL", "s3cret")
        with pytest.raises(ValueError, match="POLL") as caught:
            Settings()
        refused.append(caught.value)
        assert [error for error in refused if "s3cret" in all_told(error)] == []

    def test_nor_when_an_app_cannot_use_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LOCALSTORE_REMOTE", "pigeon://emma:s3cret@loft")
        with pytest.raises(ValueError, match="'pigeon'") as caught:
            App.create("todo")
        assert "s3cret" not in all_told(caught.value)


class TestThePage:
    """``docs/settings.md`` says what is so."""

    def rows(self) -> dict[str, str]:
        page = (Path(__file__).parents[2] / "docs" / "settings.md").read_text(encoding="utf-8")
        return {row[1]: row[0] for row in re.finditer(r"^\| `(\w+)` \|.*$", page, re.MULTILINE)}

    def test_it_has_every_setting_and_no_other(self) -> None:
        assert list(self.rows()) == list(Settings.model_fields)

    @pytest.mark.parametrize("name", UPPER_BOUNDS)
    def test_it_says_the_bounds(self, name: str) -> None:
        bounds = {"64 MiB": 64 * 1024**2, "1 GiB": 1024**3, "0.999": 0.999}
        bounds |= {"1 day": 86_400, "366 days": 366 * 86_400, "36600 days": 36_600 * 86_400}
        said = self.rows()[name].split("|")[4].strip().removeprefix("below ").replace(",", "")
        assert bounds.get(said) == UPPER_BOUNDS[name] or said in ("1", str(UPPER_BOUNDS[name]))


class TestTheRemoteOfAnApp:
    def test_it_is_taken_from_the_settings(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write_pyproject(directory, remote="nowhere://pyproject")
        with pytest.raises(ValueError, match="nowhere"):
            App.create("todo")
        write_toml(directory, remote="memory://toml")
        App.create("todo").close()
        monkeypatch.setenv("LOCALSTORE_REMOTE", "elsewhere://environment")
        with pytest.raises(ValueError, match="elsewhere"):
            App.create("todo")
        App.create("todo", remote="memory://argument").close()
        App.create("todo", settings=Settings(remote="memory://settings")).close()

    @pytest.mark.parametrize("remote", ["folder://relative/path", "folder:///shared#1", "folder:///"])
    def test_a_url_that_makes_no_sense_is_refused_at_once(self, remote: str) -> None:
        with pytest.raises(ValueError, match="folder"):
            App.create("todo", remote=remote)

    def test_a_path_is_no_remote(self, directory: Path) -> None:
        with pytest.raises(TypeError, match="URL"):
            App.create("todo", remote=directory)  # type: ignore[arg-type]

    def test_an_argument_beats_the_settings(self) -> None:
        with pytest.raises(ValueError, match="nowhere"):
            App.create("todo", remote="nowhere://x", settings=Settings(remote="memory://settings"))

    def test_it_really_is_the_one_that_was_named(self, directory: Path) -> None:
        write_toml(directory, remote="memory://settings-test")
        with App.create("todo") as app:
            configuration = SyncConfiguration(app.login(Credentials.anonymous()), {Note}, "notes.db")
            with Realm.open(configuration) as realm:
                add(realm, "a")
                assert realm.sync_session.upload_all_local_changes(timeout=PATIENCE)
        assert len(MemoryRemote.named("settings-test").changesets()) == 1

    def test_no_remote_at_all_is_refused_with_all_the_ways_to_name_one(self) -> None:
        with pytest.raises(ValueError, match=r"remote=.*LOCALSTORE_REMOTE.*localstore\.toml"):
            App.create("todo")

    def test_an_unknown_kind_is_refused_with_those_that_are_installed(self) -> None:
        with pytest.raises(ValueError, match=r"'carrier-pigeon'.*folder, .*memory"):
            App.create("todo", remote="carrier-pigeon://loft")

    @pytest.mark.parametrize("remote", ["todo", "/mnt/share/todo", "C"])
    def test_what_is_no_url_is_refused(self, remote: str) -> None:
        with pytest.raises(ValueError, match="is not the URL of a remote"):
            App.create("todo", remote=remote)

    @pytest.mark.parametrize("app_id", ["", "   "])
    def test_an_app_needs_a_name(self, app_id: str) -> None:
        with pytest.raises(ValueError, match="app_id"):
            App.create(app_id, remote="memory://x")

    def test_a_callable_that_makes_adapters_will_do(self) -> None:
        App.create("todo", remote=MemoryRemote().adapter).close()


class TestUsers:
    def test_the_anonymous_user_is_the_same_every_time(self) -> None:
        with App.create("todo", remote="memory://x") as app:
            assert app.current_user is None
            assert app.all_users() == []
            user = app.login(Credentials.anonymous())
            assert app.login(Credentials.anonymous()) is user
            assert app.current_user is user
            assert app.all_users() == [user]
            assert user.app is app
            assert user.id == "local"

    @pytest.mark.parametrize("credentials", [None, "emma", Credentials])
    def test_what_are_no_credentials_is_refused(self, credentials: Any) -> None:
        with App.create("todo", remote="memory://x") as app, pytest.raises(TypeError, match="Credentials"):
            app.login(credentials)


class TestWhatSettingsDo:
    def test_a_local_realm_reads_them_too(self, directory: Path) -> None:
        write_toml(directory, busy_timeout=0.05)
        with Realm.open(LocalConfiguration(path="a.db", schema={Note})) as realm, realm.write():
            error = in_background(lambda: add(realm, "a")).exception(PATIENCE)
        assert isinstance(error, StoreBusy)

    def test_a_configurations_own_settings_count(self, directory: Path) -> None:
        write_toml(directory, busy_timeout=60.0)
        configuration = LocalConfiguration(path="a.db", schema={Note}, settings=Settings(busy_timeout=0.05))
        with Realm.open(configuration) as realm, realm.write():
            error = in_background(lambda: add(realm, "a")).exception(PATIENCE)
        assert isinstance(error, StoreBusy)
