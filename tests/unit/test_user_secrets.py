"""Passwords and tokens are told nowhere: not in a repr, a log, an error, what led to it, nor the name of a thread."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import traceback
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest

from localstore import Credentials
from localstore.adapter import Hello, Tokens
from localstore.errors import LocalStoreError, Offline, Unauthorized
from localstore.sync.letting_go import let_go
from localstore.sync.loop import BackgroundLoop
from localstore.sync.redaction import redacted_error
from localstore.testing.faulty import Raise
from localstore.testing.memory import MemoryAdapter, MemoryRemote
from localstore.token_file import KeptTokens, KeptUser
from tests.unit.session_kit import add, eventually
from tests.unit.users_kit import EMMA, Users, is_connected

SECRET = "s3cret-of-emma"
ALL = [
    Credentials.email_password("emma@example.com", SECRET),
    Credentials.api_key(SECRET),
    Credentials.jwt(f"{SECRET}.claims.signature"),
]


@pytest.fixture
def users(tmp_path: Path) -> Iterator[Users]:
    with Users(tmp_path / "data") as found:
        yield found


def everything_of(error: BaseException) -> str:
    """All that could ever be printed of an error."""
    links: list[BaseException] = []
    left: list[BaseException | None] = [error]
    while left:
        link = left.pop()
        if link is not None and link not in links:
            links.append(link)
            left += [link.__cause__, link.__context__]
    return "".join(traceback.format_exception(error)) + "".join(f"{link!r} {link} {link.args} {vars(link)}" for link in links)


class TestCredentials:
    @pytest.mark.parametrize("credentials", ALL, ids=lambda credentials: credentials.provider)
    def test_no_repr_tells_the_secret(self, credentials: Credentials) -> None:
        for shown in (repr(credentials), str(credentials), f"{credentials}", repr([credentials]), "%s" % credentials):  # noqa: UP031
            assert SECRET not in shown
        assert credentials.provider in repr(credentials)

    def test_no_repr_tells_a_token(self) -> None:
        tokens = Tokens(user_id="emma", access_token=SECRET, expires_in=60, refresh_token=SECRET)
        kept = KeptTokens(access_token=SECRET, refresh_token=SECRET, issued_ms=0, expires_ms=1)
        hello = Hello(app="todo", partition="default", device=bytes(16), token=SECRET)
        assert SECRET not in repr([tokens, kept, hello, KeptUser(provider="jwt", tokens=kept)])

    @pytest.mark.parametrize(
        "make",
        [
            lambda: Credentials.email_password("", SECRET),
            lambda: Credentials.email_password(f" {SECRET}", "x"),
            lambda: Credentials.email_password("emma", ""),
            lambda: Credentials.email_password("emma", SECRET.encode()),  # type: ignore[arg-type]
            lambda: Credentials.email_password(None, SECRET),  # type: ignore[arg-type]
            lambda: Credentials.api_key(f"{SECRET}\n"),
            lambda: Credentials.api_key(""),
            lambda: Credentials.api_key(7),  # type: ignore[arg-type]
            lambda: Credentials.jwt(SECRET),
            lambda: Credentials.jwt(f"{SECRET}..x"),
            lambda: Credentials.jwt(f"a.{SECRET}.b "),
            lambda: Credentials.anonymous(reuse_existing=SECRET and 1),  # type: ignore[arg-type]
        ],
    )
    def test_wrong_arguments_are_refused_and_not_quoted(self, make: object) -> None:
        assert callable(make)
        with pytest.raises((TypeError, ValueError)) as caught:
            make()
        assert SECRET not in everything_of(caught.value)

    def test_a_password_instead_of_credentials_is_not_quoted(self, users: Users) -> None:
        with pytest.raises(TypeError, match="not of type str") as caught:
            users.app().login(SECRET)  # type: ignore[arg-type]
        assert SECRET not in everything_of(caught.value)


class TestErrors:
    @pytest.mark.parametrize("kind", [Unauthorized, Offline, RuntimeError, OSError])
    @pytest.mark.parametrize("credentials", ALL, ids=lambda credentials: credentials.provider)
    def test_an_adapter_that_quotes_the_secret_is_not_believed(
        self, users: Users, credentials: Credentials, kind: type[Exception]
    ) -> None:
        error = kind(f"refused {SECRET}")
        error.__cause__ = ValueError(f"body: password={SECRET}")
        error.__context__ = KeyError(SECRET)
        error.add_note(f"sent {SECRET}")
        users.line.break_down(log_in=Raise(error))
        with pytest.raises(LocalStoreError) as caught:
            users.app().login(credentials)
        assert SECRET not in everything_of(caught.value).replace(f"{SECRET}.claims", "") or credentials.provider == "jwt"
        assert str(credentials.secret) not in everything_of(caught.value)

    def test_secrets_are_taken_out_of_all_that_led_to_an_error(self) -> None:
        error = Offline(f"a {SECRET}", hint=SECRET)
        error.__cause__ = RuntimeError(SECRET)
        assert SECRET not in everything_of(redacted_error(error, [SECRET]))

    @pytest.mark.parametrize(
        "quoted",
        [quote, quote_plus, json.dumps, repr, lambda text: repr(text.encode()), lambda text: b64encode(text.encode()).decode()],
    )
    def test_secrets_are_found_in_the_forms_that_messages_have(self, quoted: Callable[[str], object]) -> None:
        secret = 'p@ss "wörd"\\1'
        said = str(redacted_error(Offline(f"sent {quoted(secret)}"), [secret]))
        assert "***" in said
        assert "w" not in said, "nothing of it is left"

    def test_a_header_with_email_and_password_is_hidden(self) -> None:
        header = b64encode(b"emma@example.com:pass-of-emma").decode()
        assert header not in str(redacted_error(Offline(f"sent {header}"), EMMA.secrets))

    def test_an_adapter_that_cannot_be_closed_tells_no_token(self, caplog: pytest.LogCaptureFixture) -> None:
        class Clinging(MemoryAdapter):
            async def close(self) -> None:
                raise OSError(f"could not close the line of {SECRET}")

        asyncio.run(let_go(Clinging(MemoryRemote()), BackgroundLoop("test"), [SECRET]))
        assert "could not be closed" in caplog.text
        assert SECRET not in caplog.text

    @pytest.mark.parametrize("call", ["connect", "push", "pull", "refresh"])
    def test_a_session_tells_no_token(self, users: Users, call: str, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        user = users.app().login(EMMA)
        secrets = user.tokens.secrets
        assert len(secrets) == 2
        quoting = RuntimeError(f"sent {' '.join(secrets)}")
        users.line.break_down(**{call: Raise(quoting)})
        if call == "refresh":
            users.line.break_next("connect", Raise(Unauthorized(f"expired: {secrets[0]}")))
        realm = users.open(user, error_handler=None if call == "pull" else users.hear)
        add(realm, "a")
        eventually(lambda: realm.sync_session.last_error is not None)
        eventually(lambda: realm.sync_session.state.name == "INACTIVE")
        error = realm.sync_session.last_error
        assert error is not None
        told = everything_of(error) + "".join(map(everything_of, users.told)) + caplog.text + str(realm.sync_session.status)
        for secret in secrets:
            assert secret not in told


class TestTheRest:
    def test_nothing_that_is_logged_or_named_tells_a_secret(self, users: Users, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        app = users.app()
        user = app.login(EMMA)
        realm = users.open(user)
        assert is_connected(realm)
        seen = set(user.tokens.secrets)
        users.remote.expire_access_tokens()
        realm.sync_session.reconnect()
        eventually(lambda: users.line.count("refresh") == 1)
        assert is_connected(realm)
        seen |= {str(EMMA.secret), *user.tokens.secrets}
        assert len(seen) == 5
        names = [thread.name for thread in threading.enumerate()]
        shown = repr([user, app, realm, realm.configuration, user.tokens, app.users, realm.sync_session.status, names])
        users.remote.shut_out("emma")
        realm.sync_session.reconnect()
        eventually(lambda: users.told)
        shown += everything_of(users.told[0]) + caplog.text + repr([user, realm.configuration])
        assert [secret for secret in seen if secret in shown] == []

    def test_after_a_logout_the_device_keeps_no_token(self, users: Users) -> None:
        user = users.app().login(EMMA)
        secrets = user.tokens.secrets
        assert all(secret in users.kept.read_text() for secret in secrets)
        user.log_out()
        for path in users.directory.rglob("*"):
            assert not path.is_file() or not any(
                secret.encode() in path.read_bytes() for secret in (*secrets, str(EMMA.secret))
            )
