"""JSON Web Tokens of services that the hub trusts, and those of everybody else."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("jwt", reason="needs the extra hub")

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from localstore.adapter import Credentials, Tokens
from localstore.errors import Unauthorized
from localstore.hub.accounts.issuers import read_issuers, times_hold
from tests.unit.accounts_kit import ADDRESS, World, can_refresh, is_good, run

ISSUER, AUDIENCE = "https://login.example.com/", "todo"
SECRET = "0123456789abcdef0123456789abcdef"
KEYS: dict[str, Any] = {
    "RS256": rsa.generate_private_key(65537, 2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "ES384": ec.generate_private_key(ec.SECP384R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
    "HS256": SECRET,
}
OTHERS: dict[str, Any] = {"ES256": ec.generate_private_key(ec.SECP256R1()), "HS256": SECRET[::-1]}


def public_pem(key: Any) -> bytes:
    pem: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem


def jwk(key: Any, algorithm: str, **more: str) -> dict[str, Any]:
    kinds: dict[str, Any] = {
        "R": jwt.algorithms.RSAAlgorithm,
        "E": jwt.algorithms.ECAlgorithm,
        "H": jwt.algorithms.HMACAlgorithm,
    }
    public = key.encode() if isinstance(key, str) else key.public_key()
    written: dict[str, Any] = kinds[algorithm[0]].to_jwk(public, as_dict=True)
    return {**{name: value for name, value in written.items() if name != "key_ops"}, **more}


class Service:
    """An issuer, as the hub's settings name it, and its tokens."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world = world
        self.folder = folder
        self.path = folder / "issuers.toml"

    def trust(self, kind: str, content: bytes, name: str = "key") -> None:
        (self.folder / name).write_bytes(content)
        table = f'[[issuer]]\nissuer = "{ISSUER}"\naudience = "{AUDIENCE}"\n{kind} = "{name}"\n'
        self.path.write_text(table, encoding="utf-8")

    def trust_key_of(self, algorithm: str) -> None:
        key = KEYS[algorithm]
        self.trust("secret_file", f"{key}\n".encode()) if algorithm == "HS256" else self.trust("key_file", public_pem(key))

    def claims(self, **changes: Any) -> dict[str, Any]:
        now = self.world.clock.now_ms() // 1000
        claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "42", "iat": now, "exp": now + 300, **changes}
        return {name: value for name, value in claims.items() if value is not None}

    def token(self, algorithm: str = "ES256", key: Any = None, headers: dict[str, Any] | None = None, **changes: Any) -> str:
        return jwt.encode(self.claims(**changes), key or KEYS[algorithm], algorithm, headers=headers)

    async def log_in(self, token: str) -> Tokens:
        return await self.world.accounts(issuers=self.path).log_in(Credentials("jwt", secret=token), ADDRESS)

    def takes(self, token: str) -> bool:
        try:
            run(self.log_in(token))
        except Unauthorized:
            return False
        return True


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    world = World(f"sqlite:///{tmp_path}/hub.db")
    yield Service(world, tmp_path)
    world.close()


@pytest.mark.parametrize("algorithm", KEYS)
def test_a_token_of_a_trusted_issuer_logs_in(service: Service, algorithm: str) -> None:
    service.trust_key_of(algorithm)
    assert service.takes(service.token(algorithm))


def test_the_same_subject_is_the_same_user_and_another_is_not(service: Service) -> None:
    async def story() -> None:
        service.trust_key_of("ES256")
        one = await service.log_in(service.token())
        assert (await service.log_in(service.token())).user_id == one.user_id
        assert (await service.log_in(service.token(sub="43"))).user_id != one.user_id

    run(story())


def test_a_log_in_lives_on_by_its_refresh_token_when_the_json_web_token_has_expired(service: Service) -> None:
    async def story() -> None:
        service.trust_key_of("ES256")
        tokens = await service.log_in(service.token())
        accounts = service.world.opened[-1]
        assert await is_good(accounts, tokens.access_token)
        service.world.clock.advance(86_400)
        assert await can_refresh(accounts, tokens.refresh_token)

    run(story())


def test_an_email_counts_only_when_the_issuer_has_verified_it_and_claims_no_other_account(service: Service) -> None:
    async def story() -> None:
        service.trust_key_of("ES256")
        owner = service.world.add_user("emma@example.com")
        for verified, expected in ((None, None), (False, None), ("true", None), (True, "emma@example.com")):
            tokens = await service.log_in(service.token(email="Emma@example.com", email_verified=verified))
            person = await service.world.opened[-1].authenticate(tokens.access_token)
            assert person.email == expected
            assert person.user_id != owner

    run(story())


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def by_hand(header: dict[str, Any], claims: dict[str, Any], secret: bytes | None) -> str:
    """A token that no library would make."""
    signed = f"{base64url(json.dumps(header).encode())}.{base64url(json.dumps(claims).encode())}"
    return f"{signed}.{base64url(hmac.digest(secret, signed.encode(), hashlib.sha256)) if secret is not None else ''}"


@pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE", "", None])
@pytest.mark.parametrize("trusted", ["HS256", "RS256", "ES256"])
def test_a_token_without_a_signature_is_refused_whatever_it_calls_that(
    service: Service, trusted: str, name: str | None
) -> None:
    service.trust_key_of(trusted)
    for secret in (None, b""):
        assert not service.takes(by_hand({"alg": name, "typ": "JWT"}, service.claims(), secret))


@pytest.mark.parametrize("trusted", ["RS256", "ES256", "EdDSA"])
def test_a_public_key_is_no_secret_to_sign_with(service: Service, trusted: str) -> None:
    service.trust_key_of(trusted)
    pem = public_pem(KEYS[trusted])
    for secret in (pem, pem.strip(), pem.replace(b"\n", b"\r\n")):
        for algorithm in ("HS256", "HS384", "HS512"):
            assert not service.takes(by_hand({"alg": algorithm, "typ": "JWT"}, service.claims(), secret))


def test_a_key_in_a_set_is_for_its_own_algorithms_alone(service: Service) -> None:
    keys = [jwk(KEYS["RS256"], "RS256", kid="r", alg="RS256"), jwk(KEYS["ES256"], "ES256", kid="e")]
    service.trust("jwks_file", json.dumps({"keys": keys}).encode())
    assert service.takes(service.token("RS256", headers={"kid": "r"}))
    assert service.takes(service.token("ES256", headers={"kid": "e"}))
    assert not service.takes(service.token("PS256", KEYS["RS256"], headers={"kid": "r"}))
    assert not service.takes(service.token("ES256", headers={"kid": "r"}))
    assert not service.takes(service.token("ES256", headers={"kid": "other"}))
    assert not service.takes(service.token("ES256")), "which key is not said"
    assert not service.takes(by_hand({"alg": "HS256", "kid": "r"}, service.claims(), public_pem(KEYS["RS256"])))


def test_a_key_that_a_token_brings_along_or_points_to_is_not_looked_at(service: Service) -> None:
    service.trust_key_of("ES256")
    other = OTHERS["ES256"]
    for headers in (
        {"jwk": jwk(other, "ES256")},
        {"jku": "https://evil.example/keys"},
        {"kid": "../../../../dev/null"},
        {"kid": "' UNION SELECT 'key"},
        {"x5u": "https://evil.example/cert"},
    ):
        assert not service.takes(service.token("ES256", other, headers=headers))
    assert not service.takes(by_hand({"alg": "HS256", "kid": "../../../../dev/null"}, service.claims(), b""))


@pytest.mark.parametrize("algorithm", OTHERS)
def test_a_token_that_somebody_else_signed_is_refused(service: Service, algorithm: str) -> None:
    service.trust_key_of(algorithm)
    assert not service.takes(service.token(algorithm, OTHERS[algorithm]))


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": 1},
        {"exp": None},
        {"exp": "never"},
        {"exp": True},
        {"exp": [9_999_999_999]},
        {"exp": float("inf")},
        {"exp": float("nan")},
        {"nbf": 9_999_999_999},
        {"iat": 9_999_999_999},
        {"aud": "another"},
        {"aud": ["another"]},
        {"aud": None},
        {"aud": {"todo": 1}},
        {"iss": "https://login.example.com"},
        {"iss": None},
        {"iss": [ISSUER]},
        {"iss": {"a": 1}},
        {"sub": None},
        {"sub": ""},
        {"sub": 42},
        {"sub": "a\nb"},
        {"sub": "x" * 256},
        {"sub": "a\x00"},
    ],
)
def test_a_token_whose_claims_do_not_hold_is_refused(service: Service, changes: dict[str, Any]) -> None:
    service.trust_key_of("HS256")
    header = {"alg": "HS256", "typ": "JWT"}
    assert service.takes(by_hand(header, service.claims(aud=["another", AUDIENCE]), SECRET.encode()))
    assert not service.takes(by_hand(header, service.claims(**changes), SECRET.encode()))


@pytest.mark.parametrize(
    "token",
    [
        "a.b.c",
        "..",
        "",
        "a",
        "x" * 100_000,
        "é.é.é",
        "e30.e30.",
        "\x00.\x00.\x00",
        f"{'W' * 20_000}.e30.AA",
        "bnVsbA.bnVsbA.AA",
    ],
)
def test_what_is_no_token_is_refused(service: Service, token: str) -> None:
    service.trust_key_of("ES256")
    assert not service.takes(token)


def test_deeply_nested_claims_are_refused_and_do_no_harm(service: Service) -> None:
    service.trust_key_of("HS256")
    nested = base64url(b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}")
    header = base64url(b'{"alg": "HS256"}')
    assert not service.takes(f"{header}.{nested}.AA")


@pytest.mark.parametrize(
    ("seconds", "problem"),
    [(-61, None), (59, None), (60, "expired"), (-62, "not yet valid"), (-3600, "not yet valid"), (3600, "expired")],
)
def test_a_minute_of_difference_between_clocks_is_forgiven(seconds: int, problem: str | None) -> None:
    now = 1_800_000_000
    assert times_hold({"exp": now, "nbf": now - 1, "iat": now - 1}, now + seconds) == problem


def test_without_issuers_no_token_is_taken(service: Service) -> None:
    service.path.write_text("issuer = []\n", encoding="utf-8")
    assert not service.takes(service.token())
    with pytest.raises(Unauthorized):
        run(service.world.accounts().log_in(Credentials("jwt", secret=service.token()), ADDRESS))


def test_keys_are_read_again_when_their_file_has_changed_and_kept_while_it_is_broken(service: Service) -> None:
    async def story() -> None:
        service.trust_key_of("ES256")
        accounts = service.world.accounts(issuers=service.path)
        old, new = service.token(), service.token("ES256", OTHERS["ES256"])
        steps = ((b"half a fi", old, new), (public_pem(OTHERS["ES256"]), new, old))
        for number, (content, good, bad) in enumerate(steps):
            (service.folder / "key").write_bytes(content)
            os.utime(service.folder / "key", ns=(number, number))
            await accounts.log_in(Credentials.jwt(good), ADDRESS)
            with pytest.raises(Unauthorized):
                await accounts.log_in(Credentials.jwt(bad), ADDRESS)

    run(story())


def private_pem() -> bytes:
    pem: bytes = KEYS["ES256"].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem


@pytest.mark.parametrize(
    ("kind", "content", "says"),
    [
        ("key_file", b"", "no public RSA key"),
        ("key_file", b"hunter2-hunter2", "no public RSA key"),
        ("key_file", private_pem(), "private key"),
        ("key_file", public_pem(rsa.generate_private_key(65537, 1024)), "2048 bits"),
        ("key_file", public_pem(ec.generate_private_key(ec.SECP256K1())), "P-256"),
        ("secret_file", b"hunter2-hunter2", "at least 32 bytes"),
        ("secret_file", public_pem(KEYS["RS256"]), "Name it as key_file"),
        ("jwks_file", b"hunter2-hunter2", "no JSON Web Key Set"),
        ("jwks_file", b"[" * 100_000, "no JSON Web Key Set"),
        ("jwks_file", b'{"keys": [{"kty": "RSA", "n": "hunter2-hunter2"}]}', "no JSON Web Key Set"),
        ("jwks_file", b'{"keys": [{"kty": "oct", "k": "aHVudGVyMg"}]}', "no JSON Web Key Set"),
    ],
)
def test_a_key_that_cannot_be_used_is_noticed_at_the_start_and_not_quoted(
    service: Service, kind: str, content: bytes, says: str
) -> None:
    service.trust(kind, content)
    with pytest.raises(ValueError, match=says) as caught:
        read_issuers(service.path)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "text",
    [
        "[[issuer",
        "",
        "other = 1\n",
        '[[issuer]]\nissuer = "a"\naudience = "b"\n',
        '[[issuer]]\nissuer = "a"\naudience = "b"\nkey_file = "k"\nsecret_file = "s"\n',
        '[[issuer]]\nissuer = 1\naudience = "b"\nkey_file = "k"\n',
        '[[issuer]]\nissuer = "a"\naudience = "b"\nkey_file = "no such file"\n',
        '[[issuer]]\nissuer = "a"\naudience = "b"\nsecret = "hunter2"\n',
    ],
)
def test_a_file_of_issuers_that_cannot_be_used_is_noticed_at_the_start(service: Service, text: str) -> None:
    service.path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"issuers\.toml|key of") as caught:
        read_issuers(service.path)
    assert "hunter2" not in str(caught.value)
