"""``localstore hub``: what is done on the computer that a hub runs on."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import sys
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from localstore.errors import LocalStoreError
from localstore.hub.access import Access, Accounts
from localstore.hub.accounts_commands import add_to
from localstore.hub.settings import HubSettings
from localstore.registry import AdapterFactory, adapter_factory
from localstore.urls import redacted, split_url

if TYPE_CHECKING:
    from localstore.hub.accounts.options import AccountsOptions

__all__ = ["app"]

_log = logging.getLogger("localstore.hub")
app = typer.Typer(name="hub", no_args_is_help=True, add_completion=False, help="A sync server of your own.")
_NEEDS = "This needs more than the core of localstore. Install it: pip install 'localstore-sync[hub]'"


@app.callback()
def _hub() -> None:
    """A sync server of your own."""


add_to(app)


@app.command()
def serve(
    app_id: Annotated[str | None, typer.Option("--app", help="The application whose data it serves.")] = None,
    store: Annotated[str | None, typer.Option(help="URL of the log. One with a password only by LOCALSTORE_HUB_STORE.")] = None,
    host: Annotated[str | None, typer.Option(help="Where it listens.")] = None,
    port: Annotated[int | None, typer.Option(help="And on which port; 0 for a free one.")] = None,
    path: Annotated[str | None, typer.Option(help="What comes before /v1 in the path of every call.")] = None,
    open_to_all: Annotated[
        bool, typer.Option("--open", help="Without users: whoever reaches it may read and write everything.")
    ] = False,
) -> None:
    """Serve devices until it is told to end. All else is set by LOCALSTORE_HUB_... in the environment."""
    given: dict[str, Any] = {"app": app_id, "store": store, "host": host, "port": port, "path": path}
    if store is not None and redacted(store) != store:
        _fail("The URL holds a secret, which everybody on this computer could see. Set LOCALSTORE_HUB_STORE instead.")
    try:
        settings = HubSettings(**{name: value for name, value in given.items() if value is not None})
        if settings.store is None:
            _fail("It is not said where the log is. Add --store sqlite:///hub.db, or set LOCALSTORE_HUB_STORE.")
        make_log = adapter_factory(settings.store.get_secret_value())
    except (ValueError, ImportError) as error:
        _fail(str(error))
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s %(message)s")
    for name in ("localstore", "uvicorn"):
        logging.getLogger(name).setLevel(logging.INFO)
    asyncio.run(_serve(settings, make_log, open_to_all))


async def _serve(settings: HubSettings, make_log: AdapterFactory, open_to_all: bool) -> None:
    try:
        from localstore.hub.application import create_hub  # what it needs is an extra
        from localstore.hub.open_accounts import OpenAccounts
        from localstore.hub.serving import HubServer, listen

        if (settings.authorize or settings.models) and "" not in sys.path:
            sys.path.insert(0, "")  # they may lie where the hub is started, as with uvicorn
        accounts = OpenAccounts() if open_to_all else _accounts(settings)
        settings = _with_snapshots(settings, open_to_all)
        hub = create_hub(settings, make_log=make_log, accounts=accounts)
    except ImportError as error:
        _fail(f"{_NEEDS} ({error.name} is missing)")
    except (ValueError, LocalStoreError) as error:
        _fail(str(error))
    try:
        listener = listen(settings.host, settings.port)
    except OSError as error:
        _fail(f"It cannot listen on {settings.host}, port {settings.port}: {error.strerror}.")
    scheme = "https" if settings.certificate else "http"
    host, port = listener.getsockname()[:2]
    typer.echo(f"Serving {settings.app!r} on {scheme}://{host}:{port}{settings.path}")
    await HubServer(hub, settings).serve(sockets=[listener])


def _with_snapshots(settings: HubSettings, open_to_all: bool) -> HubSettings:
    """Who makes snapshots, where that is not said: without users nobody is trusted less than another."""
    if settings.models is not None or "devices_write_snapshots" in settings.model_fields_set:
        return settings
    if open_to_all:
        return settings.model_copy(update={"devices_write_snapshots": True})
    _log.warning(
        "No snapshots are made, so that the log grows for ever. Set LOCALSTORE_HUB_MODELS to the module of the models."
    )
    return settings


def _accounts(settings: HubSettings) -> Accounts:
    """Users and grants, where the settings say."""
    from localstore.hub.accounts.sql_accounts import SqlAccounts

    url = settings.accounts or settings.store
    assert url is not None
    if split_url(url.get_secret_value()).scheme.partition("+")[0] not in ("sqlite", "postgresql"):
        raise ValueError(
            "Users are kept in a database, and the log is in none. Set LOCALSTORE_HUB_ACCOUNTS to one, such as sqlite:///users.db,"
            " or add --open on a network that can be trusted."
        )
    return SqlAccounts.open(url.get_secret_value(), _options(settings))


def _options(settings: HubSettings) -> AccountsOptions:
    from localstore.hub.accounts.options import AccountsOptions

    usual = AccountsOptions()
    return AccountsOptions(
        anonymous=settings.anonymous,
        access_seconds=settings.access_seconds,
        log_in_days=settings.log_in_days,
        default_partition=settings.default_partition,
        default_access=Access[settings.default_access.upper()],
        authorize=settings.authorize,
        issuers=settings.issuers,
        tries_by_address=dataclasses.replace(usual.tries_by_address, burst=settings.tries_by_address),
        tries_by_email=dataclasses.replace(usual.tries_by_email, burst=settings.tries_by_email),
    )


def _fail(message: str) -> NoReturn:
    typer.echo(f"localstore hub: {message}", err=True)
    raise typer.Exit(1)
