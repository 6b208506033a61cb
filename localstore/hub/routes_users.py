"""The endpoints of logging in and out. They pass on what accounts say, and keep nothing."""

from __future__ import annotations

from starlette.responses import Response

from localstore.adapter import Credentials, Tokens
from localstore.http_messages import DoneReply, LoginRequest, RefreshRequest, TokensReply
from localstore.hub.asking import Asked, answer, check_version

__all__ = ["login", "logout", "refresh"]


async def login(asked: Asked) -> Response:
    check_version(asked)
    async with asked.body(LoginRequest) as said:
        credentials = Credentials(said.provider, said.email, said.secret)
    return _tokens(asked, await asked.of_accounts(asked.parts.accounts.log_in(credentials, asked.address)))


async def refresh(asked: Asked) -> Response:
    check_version(asked)
    async with asked.body(RefreshRequest) as said:
        token = said.refresh_token
    return _tokens(asked, await asked.of_accounts(asked.parts.accounts.refresh(token)))


async def logout(asked: Asked) -> Response:
    check_version(asked)
    async with asked.body(RefreshRequest) as said:
        token = said.refresh_token
    await asked.of_accounts(asked.parts.accounts.log_out(token))
    return answer(asked, DoneReply())


def _tokens(asked: Asked, tokens: Tokens) -> Response:
    return answer(
        asked,
        TokensReply(
            user_id=tokens.user_id,
            access_token=tokens.access_token,
            expires_in=tokens.expires_in,
            refresh_token=tokens.refresh_token,
        ),
    )
