"""``localstore hub user``, ``key``, ``grant``, ``grants`` and ``migrate``: what an administrator does to a hub's accounts.

They work on the database itself, also while hubs are running on it, which notice within seconds. No secret is ever taken from
the command line, which everybody on the computer can see.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, NoReturn

import sqlalchemy as sa
import typer

from localstore import registry
from localstore.environment import Environment
from localstore.errors import LocalStoreError
from localstore.hub.access import Access
from localstore.hub.accounts import grants as granting
from localstore.hub.accounts import layout, people
from localstore.hub.accounts.database import Database
from localstore.hub.accounts.names import PASSWORD_MAX, PASSWORD_MIN, as_password
from localstore.hub.accounts.passwords import Argon2
from localstore.urls import redacted

__all__ = ["add_to", "database_url"]

_ACCESS = ("none", "read", "write")

user_app = typer.Typer(name="user", no_args_is_help=True, help="Who may log in.")
key_app = typer.Typer(name="key", no_args_is_help=True, help="API keys, for devices without a person.")

Store = Annotated[
    str | None, typer.Option(help="URL of the hub's log, and of its accounts. With a password only by LOCALSTORE_HUB_STORE.")
]
Accounts = Annotated[
    str | None, typer.Option(help="URL of the accounts, where they are elsewhere. Likewise by LOCALSTORE_HUB_ACCOUNTS.")
]
Who = Annotated[str, typer.Argument(metavar="USER", help="A user's email or id.")]
PasswordFile = Annotated[
    typer.FileText | None,
    typer.Option(
        "--password-file", help="Where the password is in the first line; - for standard input. Else it is asked for."
    ),
]


def add_to(app: typer.Typer) -> None:
    """Make these commands part of another app."""
    app.add_typer(user_app)
    app.add_typer(key_app)
    app.command()(grant)
    app.command()(grants)
    app.command()(migrate)


def database_url(store: str | None, accounts: str | None, *, names: tuple[str, ...] = ("accounts", "store")) -> str:
    """Where accounts are: by arguments, else by the environment, or a file in the directory of secrets.

    Raises:
        ValueError: an argument has a secret in it, or nothing is said.
    """
    for url in (accounts, store):
        if url is not None and redacted(url) != url:
            raise ValueError(
                "The URL holds a secret, which everybody on this computer could see. Set LOCALSTORE_HUB_STORE or"
                " LOCALSTORE_HUB_ACCOUNTS instead."
            )
    given = {"accounts": accounts, "store": store}
    for name in names:
        if said := given[name] or _set(f"LOCALSTORE_HUB_{name.upper()}"):
            return said
    raise ValueError("It is not said where the accounts are. Add --store sqlite:///hub.db, or set LOCALSTORE_HUB_STORE.")


def _set(variable: str) -> str | None:
    """A variable of the environment, or the file of its name in the directory of secrets."""
    folder = os.environ.get("LOCALSTORE_HUB_SECRETS")
    file = Path(folder) / variable.lower() if folder else None
    return os.environ.get(variable) or (file.read_text().strip() if file is not None and file.is_file() else None)


@user_app.command("add")
def add_user(email: str, password_file: PasswordFile = None, store: Store = None, accounts: Accounts = None) -> None:
    """Add a user with an email and a password. Prints the user's id."""
    with _database(store, accounts) as transaction:
        kept = _hashed(password_file)
        with transaction() as write:
            typer.echo(people.add_person(write, os.urandom, _now_ms(), email=email, password=kept))


@user_app.command("password")
def change_password(who: Who, password_file: PasswordFile = None, store: Store = None, accounts: Accounts = None) -> None:
    """Give a user another password, which logs them out everywhere."""
    with _database(store, accounts) as transaction:
        kept = _hashed(password_file)
        with transaction() as write:
            people.change_password(write, people.user_named(write, who).id, kept)


@user_app.command("list")
def list_users(store: Store = None, accounts: Accounts = None) -> None:
    """Print all users, one a line: id, provider, state, name."""
    with _database(store, accounts) as transaction, transaction() as read:
        for user in people.users(read):
            typer.echo("\t".join((user.id, user.provider, "disabled" if user.disabled else "enabled", user.name)))


@user_app.command()
def disable(who: Who, store: Store = None, accounts: Accounts = None) -> None:
    """Shut a user out, within seconds also where they are logged in."""
    with _database(store, accounts) as transaction, transaction() as write:
        people.set_disabled(write, people.user_named(write, who).id, True)


@user_app.command()
def enable(who: Who, store: Store = None, accounts: Accounts = None) -> None:
    """Let a user in again, who has to log in anew."""
    with _database(store, accounts) as transaction, transaction() as write:
        people.set_disabled(write, people.user_named(write, who).id, False)


@user_app.command()
def remove(who: Who, store: Store = None, accounts: Accounts = None) -> None:
    """Forget a user, with keys and grants. What the user wrote stays in the partitions."""
    with _database(store, accounts) as transaction, transaction() as write:
        people.remove(write, people.user_named(write, who).id)


@key_app.command("add")
def add_key(
    name: Annotated[str, typer.Argument(help="What the key is for, such as the device's name.")],
    user: Annotated[str | None, typer.Option(help="Whom it logs in; a user of its own unless somebody is named.")] = None,
    store: Store = None,
    accounts: Accounts = None,
) -> None:
    """Make an API key. Prints it, this once; only a digest is kept."""
    with _database(store, accounts) as transaction, transaction() as write:
        user_id = None if user is None else people.user_named(write, user).id
        typer.echo(people.add_key(write, os.urandom, _now_ms(), name=name, user_id=user_id))


@key_app.command("list")
def list_keys(store: Store = None, accounts: Accounts = None) -> None:
    """Print all keys, one a line: what it begins with, user id, state, name."""
    with _database(store, accounts) as transaction, transaction() as read:
        for key in people.keys(read):
            typer.echo("\t".join((key.prefix, key.user_id, "good" if key.revoked_ms is None else "revoked", key.name)))


@key_app.command()
def revoke(
    key: Annotated[str, typer.Argument(help="What the key begins with, as key list prints it.")],
    store: Store = None,
    accounts: Accounts = None,
) -> None:
    """A key is not good any more, nor within seconds what it logged in."""
    with _database(store, accounts) as transaction, transaction() as write:
        people.revoke_key(write, key, _now_ms())


def grant(
    who: Annotated[str, typer.Argument(metavar="USER", help="A user's email or id, or * for everyone without a grant.")],
    partition: str,
    access: Annotated[str, typer.Argument(help="none, read or write; or default, to take back what was said.")],
    store: Store = None,
    accounts: Accounts = None,
) -> None:
    """Say what a user may do with a partition."""
    if access not in (*_ACCESS, "default"):
        _fail(f"{access!r} is no access. It is none, read, write or default.")
    with _database(store, accounts) as transaction, transaction() as write:
        user_id = who if who == "*" else people.user_named(write, who).id
        granting.grant(write, user_id, partition, None if access == "default" else Access[access.upper()])


def grants(store: Store = None, accounts: Accounts = None) -> None:
    """Print all grants, one a line: partition, user id or *, access."""
    with _database(store, accounts) as transaction, transaction() as read:
        for found in granting.grants(read):
            typer.echo("\t".join((found.partition, found.user_id, found.access.name.lower())))


def migrate(store: Store = None, accounts: Accounts = None) -> None:
    """Bring the tables of the log and the accounts to this version, or make them. Make a backup first."""
    with _database(store, accounts, check=False) as transaction:
        with transaction() as write:
            layout.upgrade(write)
        typer.echo(f"Accounts are at {layout.LAYOUT}.")
        try:
            log = database_url(store, None, names=("store",))
        except ValueError:  # it may be anywhere
            return
        if registry.migrate(log):
            typer.echo("The log is up to date.")


@contextlib.contextmanager
def _database(
    store: str | None, accounts: str | None, *, check: bool = True
) -> Iterator[Callable[[], AbstractContextManager[sa.Connection]]]:
    """What opens a transaction on the accounts, which are made where there are none. Errors are told, and end the command."""
    try:
        database = Database(database_url(store, accounts), Environment())
        try:
            if check:
                with database.writing() as connection:
                    layout.check(connection)
            yield database.writing
        finally:
            database.close()
    except (LocalStoreError, ValueError, OSError, ImportError) as error:
        _fail(str(error))


def _hashed(file: typer.FileText | None) -> str:
    """A password that was asked for, or read, as it is kept."""
    if file is not None:
        text = file.readline().rstrip("\r\n")
    elif sys.stdin.isatty():
        text = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
    else:
        raise ValueError("There is nobody to ask for the password. Add --password-file, with - for standard input.")
    password = as_password(text)
    if password is None or len(text) < PASSWORD_MIN:
        raise ValueError(f"A password has {PASSWORD_MIN} to {PASSWORD_MAX} characters. Nothing was changed.")
    return Argon2().hash(password)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _fail(message: str) -> NoReturn:
    typer.echo(f"localstore hub: {message}", err=True)
    raise typer.Exit(1)
