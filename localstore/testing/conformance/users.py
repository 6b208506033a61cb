"""Rules for adapters whose remote has users; see ``localstore.adapter.SupportsUsers``. A mixin beside ``AdapterConformance``.

    class TestHub(AdapterConformance, UsersConformance): ...

The other rules need a token as well: override ``hello`` so that it brings one.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import AsyncGenerator
from typing import Protocol

import pytest

from localstore.adapter import Credentials, Limit, SupportsUsers, SyncAdapter, Tokens
from localstore.errors import Unauthorized
from localstore.testing.conformance.suite import Line, Suite, new_device

__all__ = ["RemoteWithUsers", "UsersConformance"]


class RemoteWithUsers(Protocol):
    """A remote that knows one user.

    Attributes:
        good, bad: credentials of the same kind that the remote takes, and that it does not.
    """

    good: Credentials
    bad: Credentials

    def make_adapter(self) -> SyncAdapter: ...

    def expire_access_tokens(self) -> None:
        """No access token that was given out so far is good any more; refresh tokens are."""
        ...


class UsersConformance(Suite):
    """Rules of logging in and of tokens. The fixture ``remote`` returns a ``RemoteWithUsers`` as well."""

    @contextlib.asynccontextmanager
    async def users(self, remote: RemoteWithUsers) -> AsyncGenerator[SupportsUsers]:
        """An adapter that is not connected."""
        adapter = remote.make_adapter()
        assert isinstance(adapter, SupportsUsers)
        try:
            yield adapter
        finally:
            await adapter.close()

    @contextlib.asynccontextmanager
    async def line_with(self, remote: RemoteWithUsers, token: str | None) -> AsyncGenerator[Line]:
        """A device that introduces itself with a token."""
        async with self.line(remote, new_device(), token=token) as line:
            yield line

    async def is_good(self, remote: RemoteWithUsers, token: str | None) -> bool:
        """Whether the remote takes an access token."""
        try:
            async with self.line_with(remote, token):
                return True
        except Unauthorized:
            return False

    def test_the_adapter_says_that_there_are_users(self, remote: RemoteWithUsers) -> None:
        assert isinstance(remote.make_adapter(), SupportsUsers)
        assert self.capabilities(remote).users

    def test_who_logs_in_gets_tokens_that_are_good(self, remote: RemoteWithUsers) -> None:
        async def rule() -> None:
            async with self.users(remote) as users:
                tokens = await users.log_in(remote.good)
            assert tokens.expires_in > 0
            async with self.line_with(remote, tokens.access_token) as line:
                await line.push(1, 1)
                await line.pull()

        self.run(rule())

    def test_a_user_has_one_id_and_each_login_tokens_of_its_own(self, remote: RemoteWithUsers) -> None:
        async def rule() -> None:
            async with self.users(remote) as users:
                one, other = await users.log_in(remote.good), await users.log_in(remote.good)
                assert one.user_id == other.user_id
                assert len({*_secrets(one), *_secrets(other)}) == 4
                await users.log_out(one.refresh_token)
                assert await self.is_good(remote, other.access_token)
                await users.refresh(other.refresh_token)

        self.run(rule())

    def test_wrong_credentials_are_unauthorized_and_not_quoted(self, remote: RemoteWithUsers) -> None:
        async def rule() -> None:
            async with self.users(remote) as users:
                with pytest.raises(Unauthorized) as caught:
                    await users.log_in(remote.bad)
                assert str(remote.bad.secret) not in str(caught.value)

        self.run(rule())

    @pytest.mark.parametrize("token", [None, "", "made-up", "null"])
    def test_without_a_good_token_nobody_connects(self, remote: RemoteWithUsers, token: str | None) -> None:
        assert not self.run(self.is_good(remote, token))

    def test_an_expired_token_is_refused_on_new_lines_and_on_those_that_are_connected(self, remote: RemoteWithUsers) -> None:
        async def rule() -> None:
            async with self.users(remote) as users:
                tokens = await users.log_in(remote.good)
                async with self.line_with(remote, tokens.access_token) as line:
                    await line.push(1, 1)
                    remote.expire_access_tokens()
                    with pytest.raises(Unauthorized):
                        await line.push(2, 2)
                    with pytest.raises(Unauthorized):
                        await line.adapter.pull(None, Limit())
                assert not await self.is_good(remote, tokens.access_token)
                new = await users.refresh(tokens.refresh_token)
                async with self.line(remote, line.device, token=new.access_token) as again:
                    assert again.welcome.last_number == 1, "what was refused was not stored"

        self.run(rule())

    def test_a_refresh_gives_two_new_tokens_of_the_same_user(self, remote: RemoteWithUsers) -> None:
        async def rule() -> None:
            async with self.users(remote) as users:
                old = await users.log_in(remote.good)
                new = await users.refresh(old.refresh_token)
            assert new.user_id == old.user_id
            assert not {*_secrets(new)} & {*_secrets(old)}
            assert await self.is_good(remote, new.access_token)

        self.run(rule())

    def test_a_connected_line_goes_on_with_a_newer_token(self, remote: RemoteWithUsers) -> None:
        async def rule() -> None:
            async with self.users(remote) as users:
                old = await users.log_in(remote.good)
                async with self.line_with(remote, old.access_token) as line:
                    await line.push(1, 1)
                    remote.expire_access_tokens()
                    new = await users.refresh(old.refresh_token)
                    line.hello = dataclasses.replace(line.hello, token=new.access_token)
                    await line.connect_again()
                    assert (await line.push(2, 2)).acknowledged == 2

        self.run(rule())

    def test_a_refresh_whose_answer_got_lost_can_be_repeated(self, remote: RemoteWithUsers) -> None:
        async def rule() -> None:
            async with self.users(remote) as users:
                old = await users.log_in(remote.good)
                lost = await users.refresh(old.refresh_token)
                new = await users.refresh(old.refresh_token)
                assert await self.is_good(remote, new.access_token)
                with pytest.raises(Unauthorized):
                    await users.refresh(lost.refresh_token)

        self.run(rule())

    @pytest.mark.parametrize("used", ["the refresh token", "the access token"])
    def test_a_refresh_token_is_refused_once_its_successor_was_used(self, remote: RemoteWithUsers, used: str) -> None:
        async def rule() -> None:
            async with self.users(remote) as users:
                old = await users.log_in(remote.good)
                new = await users.refresh(old.refresh_token)
                if used == "the refresh token":
                    await users.refresh(new.refresh_token)
                else:
                    assert await self.is_good(remote, new.access_token)
                with pytest.raises(Unauthorized):
                    await users.refresh(old.refresh_token)

        self.run(rule())

    @pytest.mark.parametrize("token", ["", "made-up"])
    def test_a_made_up_refresh_token_is_unauthorized(self, remote: RemoteWithUsers, token: str) -> None:
        async def rule() -> None:
            async with self.users(remote) as users:
                with pytest.raises(Unauthorized):
                    await users.refresh(token)

        self.run(rule())

    def test_after_logging_out_no_token_is_good(self, remote: RemoteWithUsers) -> None:
        async def rule() -> None:
            async with self.users(remote) as users:
                old = await users.log_in(remote.good)
                new = await users.refresh(old.refresh_token)
                await users.log_out(new.refresh_token)
                await users.log_out(new.refresh_token)
                for tokens in (old, new):
                    assert not await self.is_good(remote, tokens.access_token)
                    with pytest.raises(Unauthorized):
                        await users.refresh(tokens.refresh_token)

        self.run(rule())

    def test_an_access_token_is_no_refresh_token_nor_the_other_way_round(self, remote: RemoteWithUsers) -> None:
        async def rule() -> None:
            async with self.users(remote) as users:
                tokens = await users.log_in(remote.good)
                with pytest.raises(Unauthorized):
                    await users.refresh(tokens.access_token)
                assert not await self.is_good(remote, tokens.refresh_token)

        self.run(rule())


def _secrets(tokens: Tokens) -> tuple[str, str]:
    return tokens.access_token, tokens.refresh_token
