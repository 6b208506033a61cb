"""What an administrator does to a hub's accounts on the command line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("argon2", reason="needs the extra hub")

from typer.testing import CliRunner

from localstore.cli import app
from localstore.errors import Unauthorized
from localstore.hub.access import Access
from localstore.hub.accounts.options import AccountsOptions
from localstore.hub.accounts.passwords import Argon2
from localstore.hub.accounts.sql_accounts import SqlAccounts
from tests.unit.accounts_kit import ADDRESS, is_good, run
from tests.unit.accounts_kit import log_in as log_in_to

PASSWORD = "correct horse battery"


class Administrator:
    """Runs commands on one database, as in a shell."""

    def __init__(self, url: str) -> None:
        self.url = url

    def fails(self, *arguments: str, typed: str = "", store: bool = True) -> tuple[int, str]:
        where = ("--store", self.url) if store else ()
        result = CliRunner().invoke(app, ["hub", *arguments, *where], input=typed, terminal_width=200)
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result.exit_code, " ".join(result.output.split())

    def does(self, *arguments: str, typed: str = "", store: bool = True) -> str:
        code, said = self.fails(*arguments, typed=typed, store=store)
        assert code == 0, said
        return said

    def adds(self, email: str, password: str = PASSWORD) -> str:
        return self.does("user", "add", email, "--password-file", "-", typed=f"{password}\n")


@pytest.fixture
def admin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Administrator:
    for name in ("STORE", "ACCOUNTS", "SECRETS"):
        monkeypatch.delenv(f"LOCALSTORE_HUB_{name}", raising=False)
    return Administrator(f"sqlite:///{tmp_path}/hub.db")


@pytest.fixture
def accounts(admin: Administrator) -> Iterator[SqlAccounts]:
    accounts = SqlAccounts.open(admin.url, AccountsOptions())
    yield accounts
    run(accounts.close())


def test_a_user_who_was_added_logs_in_until_disabled_and_again_when_enabled(admin: Administrator) -> None:
    user_id = admin.adds("Emma@example.com")
    accounts = SqlAccounts.open(admin.url, AccountsOptions(), hasher=Argon2())

    async def logs_in() -> bool:
        try:
            return (await log_in_to(accounts)).user_id == user_id
        except Unauthorized:
            return False

    assert run(logs_in())
    admin.does("user", "disable", "emma@example.com")
    assert admin.does("user", "list") == f"{user_id} email_password disabled emma@example.com"
    assert not run(logs_in())
    admin.does("user", "enable", user_id)
    assert run(logs_in())
    admin.does("user", "password", "emma@example.com", "--password-file", "-", typed="another password\n")
    assert not run(logs_in())
    admin.does("user", "remove", "emma@example.com")
    assert admin.does("user", "list") == ""
    run(accounts.close())


def test_a_key_is_printed_once_and_is_good_until_revoked(admin: Administrator, accounts: SqlAccounts) -> None:
    from localstore.adapter import Credentials

    key = admin.does("key", "add", "scanner 7")
    prefix = key.split("_")[1]
    tokens = run(accounts.log_in(Credentials.api_key(key), ADDRESS))
    listed = admin.does("key", "list")
    assert listed == f"{prefix} {tokens.user_id} good scanner 7"
    assert f"{tokens.user_id} api_key enabled scanner 7" in admin.does("user", "list")
    admin.does("key", "revoke", prefix)
    assert "revoked" in admin.does("key", "list")
    assert not run(is_good(accounts, tokens.access_token))


def test_a_key_may_log_in_a_user_who_is_there(admin: Administrator) -> None:
    user_id = admin.adds("emma@example.com")
    admin.does("key", "add", "laptop", "--user", "emma@example.com")
    assert user_id in admin.does("key", "list")


def test_grants_are_given_listed_and_taken_back(admin: Administrator, accounts: SqlAccounts) -> None:
    from localstore.hub.access import Person

    user_id = admin.adds("emma@example.com")
    emma = Person(user_id=user_id, email="emma@example.com", expires_at=2e9)
    admin.does("grant", "emma@example.com", "team-7", "read")
    admin.does("grant", "*", "archive", "read")
    admin.does("grant", "*", "team-7", "write")
    assert admin.does("grants") == f"archive * read team-7 * write team-7 {user_id} read"
    assert run(accounts.access(emma, "team-7")) is Access.READ
    admin.does("grant", "emma@example.com", "team-7", "default")
    assert admin.does("grants") == "archive * read team-7 * write"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("user", "disable", "nobody@example.com"), "There is no user 'nobody@example.com'"),
        (("user", "add", "no email", "--password-file", "-"), "is no email"),
        (("user", "add", "kevin@example.com"), "There is nobody to ask for the password"),
        (("user", "add", "emma@example.com", "--password-file", "-"), "has an account already"),
        (("key", "revoke", "000000000000"), "There is no key"),
        (("key", "add", "a\nb"), "is no name"),
        (("grant", "emma@example.com", "team-7", "own"), "It is none, read, write or default"),
        (("grant", "nobody@example.com", "team-7", "read"), "There is no user"),
        (("grant", "emma@example.com", "user:1", "read"), "one user's own"),
        (("grant", "emma@example.com", "a\x1b[2Jb", "read"), "is no partition"),
    ],
)
def test_what_cannot_be_done_is_said_and_changes_nothing(admin: Administrator, arguments: tuple[str, ...], says: str) -> None:
    admin.adds("emma@example.com")
    before = admin.does("user", "list") + admin.does("key", "list") + admin.does("grants")
    code, said = admin.fails(*arguments, typed=f"{PASSWORD}\n")
    assert code == 1
    assert says in said
    assert said.isprintable()
    assert admin.does("user", "list") + admin.does("key", "list") + admin.does("grants") == before


@pytest.mark.parametrize("password", ["", "short", "x" * 1025])
def test_a_password_has_a_length(admin: Administrator, password: str) -> None:
    code, said = admin.fails("user", "add", "emma@example.com", "--password-file", "-", typed=f"{password}\n")
    assert code == 1
    assert "8 to 1024 characters" in said


def test_a_password_can_be_read_from_a_file(admin: Administrator, tmp_path: Path) -> None:
    (tmp_path / "password").write_text(f"{PASSWORD}\r\nanother line\n")
    admin.does("user", "add", "emma@example.com", "--password-file", str(tmp_path / "password"))
    accounts = SqlAccounts.open(admin.url, AccountsOptions(), hasher=Argon2())
    run(log_in_to(accounts))
    run(accounts.close())


def test_no_option_takes_a_password(admin: Administrator) -> None:
    for command in (("user", "add"), ("user", "password")):
        help_text = admin.does(*command, "--help", store=False)
        assert "--password-file" in help_text
        assert "--password " not in help_text


def test_the_database_is_said_by_environment_or_file_and_with_a_secret_only_so(
    admin: Administrator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, said = admin.fails("user", "list", store=False)
    assert code == 1
    assert "LOCALSTORE_HUB_STORE" in said
    code, said = admin.fails("user", "list", "--accounts", "postgresql://me:hunter2@host/db")
    assert code == 1
    assert "hunter2" not in said
    assert "everybody on this computer" in said
    user_id = admin.adds("emma@example.com")
    (tmp_path / "localstore_hub_accounts").write_text(admin.url + "\n")
    monkeypatch.setenv("LOCALSTORE_HUB_SECRETS", str(tmp_path))
    assert user_id in admin.does("user", "list", store=False)
    monkeypatch.setenv("LOCALSTORE_HUB_STORE", f"sqlite:///{tmp_path}/other.db")
    assert user_id in admin.does("user", "list", store=False), "accounts go before the store"
    monkeypatch.delenv("LOCALSTORE_HUB_SECRETS")
    assert admin.does("user", "list", store=False) == ""


def test_migrating_makes_what_is_missing_and_may_be_repeated(admin: Administrator) -> None:
    for _ in range(2):
        assert "Accounts are at accounts_0001" in admin.does("migrate")
    admin.adds("emma@example.com")


def test_a_database_of_a_newer_hub_is_left_alone(admin: Administrator) -> None:
    import sqlite3

    admin.does("migrate")
    with sqlite3.connect(admin.url.removeprefix("sqlite:///")) as plain:
        plain.execute("UPDATE localstore_accounts_version SET version_num = 'accounts_0999'")
    plain.close()
    for arguments in (("migrate",), ("user", "list")):
        code, said = admin.fails(*arguments)
        assert code == 1
        assert "accounts_0999" in said
