"""The hub's accounts in an SQL database: what ``localstore.hub.access.Accounts`` asks for, put together.

Any number of processes share a database. Each keeps in memory whom tokens belong to and what these may do, and looks every few
seconds, if it is asked at all, whether anything has changed anywhere; and how often somebody failed to log in. So thousands of
devices that are there and do nothing cost one small read in that time.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import math

from localstore.adapter import Credentials, Tokens
from localstore.environment import Environment
from localstore.errors import Busy, LocalStoreError, Unauthorized
from localstore.hub.access import Access, Person, owner_of
from localstore.hub.accounts import changes, grants, layout, log_ins, people
from localstore.hub.accounts.cache import Cache
from localstore.hub.accounts.database import Database
from localstore.hub.accounts.issuers import NotTrustedError, read_issuers, verify
from localstore.hub.accounts.limits import LogInLimits
from localstore.hub.accounts.log_ins import Issuance
from localstore.hub.accounts.names import as_password, email_of, is_partition, shown
from localstore.hub.accounts.options import AccountsOptions
from localstore.hub.accounts.passwords import Argon2, Hasher, PasswordCheck
from localstore.hub.accounts.rule import ask, load_rule
from localstore.hub.accounts.tokens import RefreshToken, access_digest, digest, key_prefix

__all__ = ["SqlAccounts"]

NOTICE_SECONDS = 2.0
"""After how long a process notices what another has changed."""
_CACHE_SECONDS = 600.0
_RULE_SECONDS = 3.0
_CACHED_MAX = 20_000
_PRUNE_SECONDS = 3600.0
_DEVICE_BYTES = 16
_WORLD = Environment()
_log = logging.getLogger("localstore.hub.accounts")


class SqlAccounts:
    """Users, log-ins and rights of one hub.

    Args:
        database: where they are; ``close`` closes it.
        options: what was chosen.
        environment: where clock and randomness come from.
        hasher: how passwords are hashed.
    """

    def __init__(
        self,
        database: Database,
        options: AccountsOptions,
        *,
        environment: Environment = _WORLD,
        hasher: Hasher | None = None,
    ) -> None:
        self._database, self._options, self._world = database, options, environment
        self._passwords = PasswordCheck(hasher or Argon2(), environment)
        self._issuers = read_issuers(options.issuers) if options.issuers is not None else ()
        self._rule = load_rule(options.authorize) if options.authorize is not None else None
        self._limits = LogInLimits(options.tries_by_address, options.tries_by_email, environment.monotonic)
        self._people: Cache[str, Person] = Cache(_CACHE_SECONDS, _CACHED_MAX, environment.monotonic)
        rights_seconds = _CACHE_SECONDS if self._rule is None else _RULE_SECONDS
        self._access: Cache[tuple[str, str], Access] = Cache(rights_seconds, _CACHED_MAX, environment.monotonic)
        self._noticing = asyncio.Lock()
        self._noticed_at, self._change = -math.inf, -1
        self._claimed: Cache[tuple[str, bytes], str] = Cache(float("inf"), _CACHED_MAX, environment.monotonic)
        self._prune_at = environment.monotonic()

    @classmethod
    def open(
        cls,
        url: str,
        options: AccountsOptions,
        *,
        environment: Environment = _WORLD,
        hasher: Hasher | None = None,
    ) -> SqlAccounts:
        """The accounts in a database, which are made when it has none. Blocks.

        Raises:
            StoreUnusable: their layout is older or newer than this library's.
            Busy: the database does not answer.
            ValueError, ImportError: something in the options, or the URL, cannot be used.
        """
        database = Database(url, environment)
        try:
            with database.writing() as connection:
                layout.check(connection)
            return cls(database, options, environment=environment, hasher=hasher)
        except BaseException:
            database.close()
            raise

    async def log_in(self, credentials: Credentials, address: str) -> Tokens:
        email = email_of(credentials.email) if credentials.provider == "email_password" else None
        self._limits.take(address, email)
        try:
            user_id, key = await self._check(credentials, email)
            tokens = await self._database.write(log_ins.begin, self._issuance(), user_id, key)
        except Unauthorized as error:
            said = (
                shown(credentials.provider),
                shown(address),
                shown(email),
                error.message,
            )  # what is no email may be a password
            _log.warning("log-in refused: %s from %s as %s: %s", *said)
        except Busy:
            self._limits.give_back(address, email)
            raise
        else:
            if credentials.provider != "anonymous":  # which makes a user each time
                self._limits.give_back(address, email)
            _log.info("log-in of user %s by %s from %s", user_id, credentials.provider, shown(address))
            await self._prune()
            return tokens
        raise Unauthorized("The hub does not take these credentials.", hint="Check them, or ask for an account.")

    async def refresh(self, refresh_token: str) -> Tokens:
        shown_token = RefreshToken.read(refresh_token)
        tokens = None
        if shown_token is not None:
            tokens = await self._database.write(log_ins.refresh, self._issuance(), shown_token)
        if tokens is None:
            raise Unauthorized("The user is not logged in at the hub any more.", hint="Log in again.")
        return tokens

    async def log_out(self, refresh_token: str) -> None:
        shown_token = RefreshToken.read(refresh_token)
        if shown_token is not None and await self._database.write(log_ins.end, shown_token):
            self._people.clear()

    async def authenticate(self, access_token: str | None) -> Person:
        access = access_digest(access_token)
        person = None
        if access is not None:
            await self._notice()
            person = self._people.get(access) or await self._look_up(access)
        if person is None or person.expires_at * 1000 <= self._world.now_ms():
            raise Unauthorized("The access token is not good, or not any more.", hint="Get a new one, or log in again.")
        return person

    async def access(self, person: Person, partition: str) -> Access:
        if not is_partition(partition):
            return Access.NONE
        owner = owner_of(partition)
        if owner is not None:  # no rule and no grant has a say in it
            return Access.WRITE if owner == person.user_id else Access.NONE
        await self._notice()
        place = (person.user_id, partition)
        known = self._access.get(place)
        if known is None:
            moment = self._access.moment()
            known = await self._decide(person, partition)
            self._access.put(place, known, moment)
        return known

    async def claim_device(self, person: Person, partition: str, device: bytes) -> bool:
        if not is_partition(partition) or len(device) != _DEVICE_BYTES:
            return False
        place = (partition, device)
        owner = self._claimed.get(place)
        if owner is None:
            moment = self._claimed.moment()
            if not await self._database.write(grants.claim_device, person.user_id, partition, device):
                return False
            self._claimed.put(place, owner := person.user_id, moment)
        return owner == person.user_id

    async def ready(self) -> None:
        try:
            known = await self._database.read(layout.layout_of)
        except Busy:
            raise
        except LocalStoreError as error:  # migrated by a newer hub
            raise Busy(error.message) from error
        if known != layout.LAYOUT:
            raise Busy(f"The accounts have layout {known}.", hint="Run: localstore hub migrate")

    async def close(self) -> None:
        await self._world.run_blocking(self._database.close)

    async def _check(self, credentials: Credentials, email: str | None) -> tuple[str, str | None]:
        """The user whom credentials mean, and the prefix of an API key; an ``Unauthorized`` says why for the log alone."""
        if credentials.provider == "email_password":
            return await self._check_password(email, credentials.secret or ""), None
        if credentials.provider == "api_key":
            return await self._check_key(credentials.secret)
        if credentials.provider == "jwt":
            return await self._check_jwt(credentials.secret or ""), None
        if credentials.provider == "anonymous" and self._options.anonymous:
            return await self._database.write(people.add_anonymous, self._world.random_bytes, self._world.now_ms()), None
        raise Unauthorized("provider not allowed")

    async def _check_password(self, email: str | None, secret: str) -> str:
        password = as_password(secret)
        if password is None:
            raise Unauthorized("no password")
        known = None if email is None else await self._database.read(people.password_of, email)
        is_it, anew = await self._passwords.verify(known[1] if known else None, password)
        if known is None or not is_it:
            raise Unauthorized("wrong password" if known else "no such user")
        if anew is not None:
            await self._database.write(people.keep_password, *known, anew)
        return known[0]

    async def _check_key(self, secret: str | None) -> tuple[str, str]:
        prefix = key_prefix(secret)
        known = None if prefix is None else await self._database.read(people.key_of, prefix)
        if known is None or prefix is None or not hmac.compare_digest(digest(secret or ""), known[1]):
            raise Unauthorized("no such key")
        return known[0], prefix

    async def _check_jwt(self, token: str) -> str:
        try:
            verified = await self._world.run_blocking(verify, token, self._issuers, self._world.now_ms() / 1000)
        except NotTrustedError as error:
            raise Unauthorized(str(error)) from None
        return await self._database.write(people.of_issuer, self._world.random_bytes, self._world.now_ms(), verified)

    async def _notice(self) -> None:
        """Forget what was looked up when something has changed. Who comes while somebody looks waits for what they find."""
        if self._world.monotonic() < self._noticed_at + NOTICE_SECONDS:
            return
        async with self._noticing:
            now = self._world.monotonic()
            if now < self._noticed_at + NOTICE_SECONDS:
                return
            change = await self._database.read(changes.latest)
            if change != self._change:
                self._people.clear()
                self._access.clear()
            self._change, self._noticed_at = change, now

    async def _look_up(self, access: str) -> Person | None:
        moment = self._people.moment()
        found = await self._database.read(log_ins.find, access, self._world.now_ms())
        person = None if found is None else found.person
        if found is not None and found.is_first_sight:
            person = await self._database.write(log_ins.take, access, self._world.now_ms())
        if person is not None:
            self._people.put(access, person, moment)
        return person

    async def _decide(self, person: Person, partition: str) -> Access:
        if self._rule is not None:
            answer = await ask(self._rule, person, partition, self._world)
            if answer is not None:
                return answer
        said = await self._database.read(grants.granted, person.user_id, partition)
        if said is not None:
            return said
        return self._options.default_access if partition == self._options.default_partition else Access.NONE

    async def _prune(self) -> None:
        """Now and then, by whoever logs in."""
        if self._world.monotonic() >= self._prune_at:
            self._prune_at = self._world.monotonic() + _PRUNE_SECONDS
            await self._database.write(log_ins.prune_tokens, self._issuance())
            await self._database.write(log_ins.prune_log_ins, self._issuance())

    def _issuance(self) -> Issuance:
        return Issuance(
            random_bytes=self._world.random_bytes,
            now_ms=self._world.now_ms(),
            access_seconds=self._options.access_seconds,
            log_in_days=self._options.log_in_days,
        )
