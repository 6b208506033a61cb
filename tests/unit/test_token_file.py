"""The file that remembers log-ins: who can read it, what a crash or damage leaves, several processes on it."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from localstore import SessionState, token_file
from localstore.directories import check_safe_name, data_directory, safe_name
from localstore.errors import NotWritable, StoreBusy, StoreUnusable
from localstore.token_file import KeptTokens, KeptUser, TokenFile
from tests.unit.failing_disk import FailingDisk, failing
from tests.unit.session_kit import PATIENCE, add, eventually, in_background
from tests.unit.test_interruptions import CtrlC
from tests.unit.users_kit import EMMA, KEVIN, Users

posix = pytest.mark.skipif(sys.platform == "win32", reason="modes mean nothing there")
TOKENS = KeptTokens(access_token="access-s3cret", refresh_token="refresh-s3cret", issued_ms=1, expires_ms=2)
EMMA_KEPT = KeptUser(provider="jwt", remote="here", used=1, tokens=TOKENS)


@pytest.fixture
def users(tmp_path: Path) -> Iterator[Users]:
    with Users(tmp_path / "data") as found:
        yield found


@pytest.fixture
def file(tmp_path: Path) -> TokenFile:
    return TokenFile(tmp_path / "data" / "todo", "here")


def keep(file: TokenFile, user_id: str, user: KeptUser = EMMA_KEPT) -> None:
    with file.changing() as table:
        table.users[user_id] = user


class TestKeeping:
    def test_what_is_kept_is_read_again(self, file: TokenFile) -> None:
        keep(file, "emma")
        assert TokenFile(file.directory, "here").load().users == {"emma": EMMA_KEPT}

    def test_nothing_is_made_before_there_is_something_to_keep(self, file: TokenFile) -> None:
        assert file.load().users == {}
        assert not file.directory.exists()

    def test_an_error_inside_the_block_changes_nothing(self, file: TokenFile) -> None:
        keep(file, "emma")
        before = file.path.read_bytes()
        with pytest.raises(ZeroDivisionError), file.changing() as table:
            table.users["kevin"] = KeptUser(provider="jwt", used=1 // (len(table.users) - 1))
        assert file.path.read_bytes() == before
        keep(file, "kevin")

    def test_tokens_are_shown_to_the_remote_that_gave_them_and_to_no_other(self, file: TokenFile) -> None:
        keep(file, "emma")
        other = TokenFile(file.directory, "elsewhere")
        assert other.load().users["emma"].tokens is None
        assert file.load().users["emma"].tokens == TOKENS

    def test_any_id_can_be_kept(self, file: TokenFile) -> None:
        for user_id in ("../../etc", "ä 💥", "a" * 500, "users.json"):
            keep(file, user_id)
        assert set(file.load().users) == {"../../etc", "ä 💥", "a" * 500, "users.json"}


@posix
class TestWhoCanReadIt:
    def test_it_and_its_directory_are_made_private_whatever_the_umask(self, file: TokenFile) -> None:
        before = os.umask(0)
        try:
            keep(file, "emma")
        finally:
            os.umask(before)
        assert {stat.S_IMODE(path.stat().st_mode) for path in file.directory.iterdir()} == {0o600}
        assert stat.S_IMODE(file.directory.stat().st_mode) == 0o700
        assert stat.S_IMODE(file.directory.parent.stat().st_mode) == 0o700

    def test_it_never_was_open_to_others(self, file: TokenFile) -> None:
        done = subprocess.run(
            [sys.executable, "-c", NEVER_CHMOD + WRITER, str(file.directory), "a", "2"],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr

    @pytest.mark.parametrize("mode", [0o644, 0o660, 0o777])
    def test_one_that_others_can_read_is_put_right(self, file: TokenFile, mode: int) -> None:
        keep(file, "emma")
        file.path.chmod(mode)
        file.directory.chmod(0o755)
        assert set(file.load().users) == {"emma"}
        assert not file.path.stat().st_mode & 0o077
        assert not file.directory.stat().st_mode & 0o077

    def test_a_directory_of_the_applications_that_is_above_is_left_alone(self, tmp_path: Path) -> None:
        (tmp_path / "data").mkdir(mode=0o755)
        keep(TokenFile(tmp_path / "data" / "todo", "here"), "emma")
        assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o755

    @pytest.mark.parametrize("what", ["file", "directory"])
    def test_a_link_is_refused(self, file: TokenFile, tmp_path: Path, what: str) -> None:
        keep(file, "emma")
        path = file.path if what == "file" else file.directory
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(StoreUnusable, match="is a link"):
            file.load()

    @pytest.mark.skipif(sys.platform != "win32" and os.geteuid() != 0, reason="only root can give files away")
    def test_one_of_somebody_else_is_refused(self, file: TokenFile) -> None:
        keep(file, "emma")
        os.chown(file.path, 12345, -1)
        with pytest.raises(StoreUnusable, match="belongs to another user of this computer"):
            file.load()

    def test_users_of_an_app_lie_in_such_a_file(self, users: Users) -> None:
        users.app().login(EMMA)
        assert stat.S_IMODE(users.kept.stat().st_mode) == 0o600
        assert stat.S_IMODE(users.kept.parent.stat().st_mode) == 0o700


class TestDamage:
    @pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b'{"users": {"emma": 7}}', b'{"format": "one"}'])
    def test_a_damaged_file_is_set_aside_and_everybody_logs_in_again(
        self, users: Users, content: bytes, caplog: pytest.LogCaptureFixture
    ) -> None:
        app = users.app()
        realm = users.open(app.login(EMMA))
        add(realm, "kept")
        app.close()
        realm.close()
        users.kept.write_bytes(content)
        again = users.app()
        assert again.all_users() == []
        assert users.kept.with_name("users.damaged").read_bytes() == content
        assert "Users have to log in again" in caplog.text
        reopened = users.open(again.login(EMMA))
        assert reopened.path == realm.path
        assert reopened.sync_session.upload_all_local_changes(timeout=PATIENCE)

    def test_a_damaged_file_under_a_running_app_logs_out_and_the_same_user_comes_back(self, users: Users) -> None:
        app = users.app()
        user = app.login(EMMA)
        realm = users.open(user)
        users.kept.write_bytes(b"nonsense")
        assert app.current_user is None
        assert realm.sync_session.state is SessionState.INACTIVE
        assert app.login(EMMA) is user
        assert realm.sync_session.state is SessionState.ACTIVE

    def test_one_of_a_newer_version_is_refused_and_left_alone(self, file: TokenFile) -> None:
        keep(file, "emma")
        newer = file.path.read_bytes().replace(b'"format":1', b'"format":2')
        file.path.write_bytes(newer)
        with pytest.raises(StoreUnusable, match="of format 2; this localstore knows 1"):
            file.load()
        with pytest.raises(StoreUnusable):
            keep(file, "kevin")
        assert file.path.read_bytes() == newer

    def test_one_of_a_newer_version_is_left_alone_also_where_it_looks_quite_different(self, file: TokenFile) -> None:
        keep(file, "emma")
        newer = b'{"format": 2, "users": [{"id": "emma", "tokens": "x"}]}'
        file.path.write_bytes(newer)
        with pytest.raises(StoreUnusable, match="of format 2; this localstore knows 1"):
            file.load()
        assert file.path.read_bytes() == newer

    @posix
    @pytest.mark.skipif(sys.platform != "win32" and os.geteuid() == 0, reason="root may read everything")
    def test_one_that_cannot_be_read_logs_nobody_out(self, file: TokenFile) -> None:
        keep(file, "emma")
        file.directory.chmod(0o000)
        try:
            with pytest.raises(StoreUnusable, match="Nobody was logged out"):
                file.load()
        finally:
            file.directory.chmod(0o700)

    def test_what_a_killed_process_left_is_written_over(self, file: TokenFile) -> None:
        keep(file, "emma")
        (file.directory / "users.new").write_bytes(b"half")
        keep(file, "kevin")
        assert set(file.load().users) == {"emma", "kevin"}
        assert not (file.directory / "users.new").exists()

    def test_a_disk_that_takes_nothing_is_an_error_and_the_file_stays(self, file: TokenFile) -> None:
        keep(file, "emma")
        (file.directory / "users.new").mkdir()  # cannot be written over
        with pytest.raises(NotWritable, match="It is as it was"):
            keep(file, "kevin")
        assert set(file.load().users) == {"emma"}

    def test_whichever_call_fails_an_error_says_that_it_is_as_it_was_and_only_then(self, file: TokenFile) -> None:
        keep(file, "emma")
        for at in range(100):
            disk, said = FailingDisk(file.directory, at=at, error=errno.EIO, only_once=True), False
            with failing(disk):
                try:
                    keep(file, f"kevin-{at}")
                except StoreUnusable:
                    said = True
            assert (f"kevin-{at}" in file.load().users) is not said, f"call {at} failed"
            if not disk.has_failed:
                break
        assert at > 3


NEVER_CHMOD = """
import sys
def refuse(event, arguments):
    if event == "os.chmod":
        raise RuntimeError("made private later")
sys.addaudithook(refuse)
"""
WRITER = """
import sys
from pathlib import Path
from localstore.token_file import KeptUser, TokenFile
file = TokenFile(Path(sys.argv[1]), "here")
for number in range(int(sys.argv[3])):
    with file.changing() as table:
        table.users[f"{sys.argv[2]}-{number}"] = KeptUser(provider="jwt", used=table.next_used())
    print(number, flush=True)
"""


def writer(file: TokenFile, name: str, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(file.directory), name, str(count)], stdout=subprocess.PIPE, text=True
    )


class TestSeveralProcesses:
    def test_none_loses_what_another_wrote(self, file: TokenFile) -> None:
        processes = [writer(file, name, 30) for name in "ab"]
        for process in processes:
            process.communicate(timeout=60)
            assert process.returncode == 0
        kept = file.load().users
        assert len(kept) == 60
        assert sorted(user.used for user in kept.values()) == list(range(1, 61))

    def test_one_that_is_killed_leaves_a_whole_file_and_no_lock(self, file: TokenFile) -> None:
        process = writer(file, "a", 1_000_000)
        assert process.stdout is not None
        told = [process.stdout.readline() for _ in range(20)]
        process.kill()
        process.communicate(timeout=60)
        assert len(file.load().users) >= len(told)
        keep(file, "emma")
        assert "emma" in file.load().users

    def test_a_lock_that_is_not_let_go_is_not_waited_for_for_ever(self, file: TokenFile) -> None:
        impatient = TokenFile(file.directory, "here", attempts=3)
        with file.changing(), pytest.raises(StoreBusy, match="does not let go"):
            keep(impatient, "emma")

    def test_the_lock_on_a_renewal_is_one_for_each_user(self, file: TokenFile) -> None:
        emma, kevin = file.try_lock_user("emma"), file.try_lock_user("kevin")
        assert emma is not None
        assert kevin is not None
        assert file.try_lock_user("emma") is None
        emma.let_go()
        again = file.try_lock_user("emma")
        assert again is not None
        for lock in (again, kevin):
            lock.let_go()

    @posix
    def test_a_forked_child_does_not_keep_the_lock(self, file: TokenFile) -> None:
        lock = file.try_lock_user("emma")
        assert lock is not None
        child = subprocess.Popen(["sleep", "60"], pass_fds=[lock.fileno()])  # has the same open file, as a forked child does
        try:
            lock.let_go()
            again = file.try_lock_user("emma")
            assert again is not None
            again.let_go()
        finally:
            child.kill()
            child.wait()

    def test_apps_in_threads_log_in_at_once(self, users: Users) -> None:
        app = users.app()
        waiting = [in_background(lambda: app.login(EMMA)) for _ in range(5)] + [in_background(lambda: app.login(KEVIN))]
        for one in waiting:
            one.result(PATIENCE)
        assert {user.id for user in app.all_users()} == {"emma", "kevin"}
        eventually(lambda: sorted(users.remote.logged_in()) == ["emma", "kevin"])


class TestLocks:
    def test_the_lock_on_renewing_a_user_called_users_is_not_that_of_the_file(self, file: TokenFile) -> None:
        lock = file.try_lock_user("users")
        assert lock is not None
        keep(TokenFile(file.directory, "here", attempts=1), "users")
        lock.let_go()

    @pytest.mark.skipif(sys.gettrace() is not None, reason="a debugger or a coverage tool traces already")
    def test_ctrl_c_at_any_line_keeps_no_lock(self, file: TokenFile) -> None:
        file = TokenFile(file.directory, "here", attempts=1)
        for line in range(1, 1000):
            with suppress(KeyboardInterrupt), CtrlC(line, (token_file.__file__,)) as ctrl_c, file.changing():
                pass
            keep(file, "emma")
            if not ctrl_c.came:
                break
        assert 20 < line < 999

    @posix
    def test_a_lock_that_cannot_be_opened_is_told_as_such(self, file: TokenFile) -> None:
        (file.directory / "users.lock").mkdir(parents=True)
        with pytest.raises(NotWritable, match="cannot be opened for writing"):
            keep(file, "emma")


class TestNames:
    @pytest.mark.parametrize("text", ["emma", "user_7", "a-b", "0" * 48])
    def test_a_plain_text_is_its_own_name(self, text: str) -> None:
        assert safe_name(text) == text

    def test_different_texts_have_different_names_on_every_file_system(self) -> None:
        hashed = safe_name("Emma")
        texts = ["emma", "Emma", "EMMA", "é", "e\u0301", "a/b", "a_b", "a b", "", ".", "..", "con", "CON", "nul.db", hashed]
        texts += ["x" * 48, "x" * 49, "x" * 1000, "../../etc/passwd", "a\0b", "\ud800", "emma ", "emma."]
        names = [safe_name(text) for text in texts]
        assert len({name.lower() for name in names}) == len(texts)
        for name in names:
            check_safe_name(name)
            assert "." not in name
            assert len(name) <= 64

    @pytest.mark.parametrize(
        ("platform", "variables", "expected"),
        [
            ("linux", {"XDG_DATA_HOME": "/xdg"}, "/xdg/localstore"),
            ("linux", {"XDG_DATA_HOME": "relative"}, "~/.local/share/localstore"),
            ("linux", {}, "~/.local/share/localstore"),
            ("darwin", {"XDG_DATA_HOME": "/xdg"}, "~/Library/Application Support/localstore"),
            ("win32", {"LOCALAPPDATA": "/local"}, "/local/localstore"),
        ],
    )
    def test_each_system_has_its_place(self, platform: str, variables: dict[str, str], expected: str) -> None:
        assert data_directory(None, variables, platform) == Path(expected).expanduser().resolve()

    @posix
    def test_a_home_that_is_reached_by_a_link_is_the_place_that_it_leads_to(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir()
        (tmp_path / "home").symlink_to(tmp_path / "real")
        found = data_directory(None, {"XDG_DATA_HOME": str(tmp_path / "home")}, "linux")
        assert found == (tmp_path / "real" / "localstore").resolve()

    def test_the_setting_counts_more(self, tmp_path: Path) -> None:
        assert data_directory(str(tmp_path), {"XDG_DATA_HOME": "/xdg"}) == tmp_path.resolve()
