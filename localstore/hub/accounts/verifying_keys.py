"""Keys that signatures of other services are checked with, as files have them, each with the algorithms that it is for.

No error here quotes a key.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

__all__ = ["VerifyingKey", "keys_of_jwks", "keys_of_pem", "keys_of_secret"]

_SECRET_BYTES_MIN = 32
_RSA_BITS_MIN = 2048
_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_HMAC = ("HS256", "HS384", "HS512")
_KINDS = ("RSA", "EC", "OKP", "oct")
_CURVES = {"secp256r1": ("ES256",), "secp384r1": ("ES384",), "secp521r1": ("ES512",)}


@dataclass(frozen=True, kw_only=True)
class VerifyingKey:
    """A key and what it is for.

    Attributes:
        kid: what tokens call it, None when nobody said.
        algorithms: those that a signature by it may have.
        key: for PyJWT.
    """

    kid: str | None
    algorithms: tuple[str, ...]
    key: Any = field(repr=False)


def keys_of_secret(data: bytes) -> tuple[VerifyingKey, ...]:
    """A shared secret, as text; white space around it is the editor's.

    Raises:
        ValueError: it is too short, or a public key.
    """
    secret = data.strip()
    if secret.startswith(b"-----BEGIN"):
        raise ValueError("it is a PEM file. Name it as key_file")
    if len(secret) < _SECRET_BYTES_MIN:
        raise ValueError(f"a secret has at least {_SECRET_BYTES_MIN} bytes, as by: openssl rand -hex 32")
    return (VerifyingKey(kid=None, algorithms=_HMAC, key=secret),)


def keys_of_pem(data: bytes) -> tuple[VerifyingKey, ...]:
    """A public key or certificate.

    Raises:
        ValueError: it is neither, or too weak.
    """
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    if b"PRIVATE KEY" in data:
        raise ValueError("it is a private key, which belongs to the issuer alone. Give the hub the public one")
    try:
        is_certificate = b"BEGIN CERTIFICATE" in data
        key = x509.load_pem_x509_certificate(data).public_key() if is_certificate else load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    return (VerifyingKey(kid=None, algorithms=_algorithms(key), key=key),)


def keys_of_jwks(data: bytes) -> tuple[VerifyingKey, ...]:
    """The keys of a JSON Web Key Set that are for signatures; kinds that are not known are passed over.

    Raises:
        ValueError: it is none, or has no such key.
    """
    try:
        listed = json.loads(data)["keys"]
        keys = [_key_of(jwk) for jwk in listed if jwk.get("use", "sig") == "sig" and jwk.get("kty") in _KINDS]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        keys = []
    found = tuple(key for key in keys if key.algorithms)
    if not found:
        raise ValueError("it is no JSON Web Key Set with a key for signatures")
    return found


def _key_of(jwk: dict[str, Any]) -> VerifyingKey:
    from jwt.algorithms import ECAlgorithm, HMACAlgorithm, OKPAlgorithm, RSAAlgorithm
    from jwt.exceptions import InvalidKeyError

    kinds: dict[str, Any] = {"RSA": RSAAlgorithm, "EC": ECAlgorithm, "OKP": OKPAlgorithm, "oct": HMACAlgorithm}
    try:
        key: Any = kinds[jwk["kty"]].from_jwk(jwk)
        key = key.public_key() if hasattr(key, "public_key") else key
        algorithms = _HMAC if isinstance(key, bytes) and len(key) >= _SECRET_BYTES_MIN else _algorithms(key)
    except (InvalidKeyError, ValueError):
        key, algorithms = None, ()
    named = jwk.get("alg")
    return VerifyingKey(
        kid=jwk.get("kid"), algorithms=algorithms if named is None else tuple(set(algorithms) & {named}), key=key
    )


def _algorithms(key: object) -> tuple[str, ...]:
    """What a public key is for, by its kind.

    Raises:
        ValueError: it is no public key, or too weak.
    """
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    if isinstance(key, RSAPublicKey) and key.key_size >= _RSA_BITS_MIN:
        return _RSA
    if isinstance(key, EllipticCurvePublicKey) and key.curve.name in _CURVES:
        return _CURVES[key.curve.name]
    if isinstance(key, Ed25519PublicKey):
        return ("EdDSA",)
    raise ValueError(f"it is no public RSA key of {_RSA_BITS_MIN} bits, nor one on the curves P-256, P-384, P-521 or Ed25519")
