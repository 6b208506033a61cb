"""Settings: where they are read from, which place wins, what is refused, and how an app finds its remote in them."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pytest

from localstore import App, Credentials, LocalConfiguration, Realm, Settings, SyncConfiguration
from localstore.errors import StoreBusy
from localstore.testing.memory import MemoryRemote
from tests.unit.session_kit import PATIENCE, Note, add, in_background


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and nothing in the environment."""
    for name in os.environ:
        if name.upper().startswith("LOCALSTORE_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_toml(directory: Path, **values: object) -> None:
    (directory / "localstore.toml").write_text(lines(values), encoding="utf-8")


def write_pyproject(directory: Path, **values: object) -> None:
    text = '[project]\nname = "todo"\n\n[tool.other]\npoll = 99\n\n[tool.localstore]\n' + lines(values)
    (directory / "pyproject.toml").write_text(text, encoding="utf-8")


def lines(values: dict[str, object]) -> str:
    return "".join(f"{name} = {value!r}\n" for name, value in values.items())


class TestOrder:
    def test_without_anything_the_defaults_count(self) -> None:
        settings = Settings()
        assert settings.remote is None
        assert settings.busy_timeout == 10
        assert settings.synchronous == "NORMAL"
        assert settings.connect_timeout == settings.request_timeout == 120
        assert settings.max_clock_drift == 300
        assert settings.poll is None
        assert settings.max_changeset_bytes == 64 * 1024 * 1024
        assert (settings.backoff_initial, settings.backoff_factor, settings.backoff_max) == (1, 2, 300)
        assert settings.backoff_jitter == 0.25

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
            ("max_clock_drift", -1),
            ("connect_timeout", 0.5),
            ("request_timeout", 0),
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
        ],
    )
    def test_a_bad_value_is_refused_and_named(self, name: str, value: Any) -> None:
        with pytest.raises(ValueError, match=name):
            Settings(**{name: value})

    @pytest.mark.parametrize("value", ["", "soon", "0", "-1", "1,5"])
    def test_also_in_the_environment(self, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
        monkeypatch.setenv("LOCALSTORE_POLL", value)
        with pytest.raises(ValueError, match="poll"):
            Settings()

    def test_also_in_the_files(self, directory: Path) -> None:
        write_toml(directory, synchronous="SOMETIMES")
        with pytest.raises(ValueError, match="synchronous"):
            Settings()
        write_toml(directory)
        write_pyproject(directory, page_count=-1)
        with pytest.raises(ValueError, match="page_count"):
            Settings()

    def test_a_setting_that_does_not_exist_is_refused_and_named(self, directory: Path) -> None:
        with pytest.raises(ValueError, match="busy_timeuot"):
            Settings(busy_timeuot=3)  # type: ignore[call-arg]
        write_toml(directory, busy_timeuot=3)
        with pytest.raises(ValueError, match="busy_timeuot"):
            Settings()
        write_toml(directory)
        write_pyproject(directory, busy_timeuot=3)
        with pytest.raises(ValueError, match="busy_timeuot"):
            Settings()

    def test_a_file_that_is_no_toml_is_refused(self, directory: Path) -> None:
        (directory / "localstore.toml").write_text("poll: 3\n", encoding="utf-8")
        with pytest.raises(ValueError, match="line 1"):
            Settings()

    def test_numbers_in_the_environment_are_read_as_numbers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LOCALSTORE_BUSY_TIMEOUT", "2.5")
        monkeypatch.setenv("LOCALSTORE_PAGE_COUNT", "7")
        monkeypatch.setenv("LOCALSTORE_SYNCHRONOUS", "FULL")
        settings = Settings()
        assert (settings.busy_timeout, settings.page_count, settings.synchronous) == (2.5, 7, "FULL")

    def test_settings_cannot_be_changed(self) -> None:
        with pytest.raises(ValueError, match="frozen"):
            Settings().poll = 3  # type: ignore[misc]

    def test_every_setting_is_described(self) -> None:
        described = (Settings.__doc__ or "").replace(",", " ").replace(":", " ").split()
        assert set(Settings.model_fields) <= set(described)


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
        with pytest.raises(ValueError, match=r"'carrier-pigeon'.*folder, memory"):
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
