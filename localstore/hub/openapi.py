"""The OpenAPI document of ``/v1``, made from the messages themselves. It describes their JSON form."""

from __future__ import annotations

import functools
from typing import Any

import msgspec

from localstore import http_messages as messages
from localstore.version import VERSION

__all__ = ["document"]

_PLACE = [
    ("partition", {"type": "string", "minLength": 1, "maxLength": 255}),
    ("device", {"type": "string", "pattern": "^[0-9a-f]{32}$"}),
]
_CALLS: list[tuple[str, str, type[Any] | None, type[Any] | None]] = [
    ("login", "Tokens for credentials.", messages.LoginRequest, messages.TokensReply),
    ("refresh", "New tokens for a refresh token.", messages.RefreshRequest, messages.TokensReply),
    ("logout", "End a log-in.", messages.RefreshRequest, messages.DoneReply),
    ("connect", "Introduce a device.", messages.ConnectRequest, messages.ConnectReply),
    ("push", "Store changesets.", messages.PushRequest, messages.PushReply),
    ("pull", "What comes after a cursor.", messages.PullRequest, messages.PageReply),
    ("poll", "Come back when there is news.", messages.PollRequest, messages.PollReply),
    ("ping", "A sign of life.", None, messages.PingReply),
]
_OPEN = {"login", "refresh", "logout"}
_PROBLEMS = {
    "400": "Not understood, or not allowed by the protocol.",
    "401": "The access token is not good.",
    "403": "The user has no access to the partition.",
    "408": "The request did not arrive in time.",
    "409": "The histories of device and hub parted.",
    "413": "Too large.",
    "426": "One side has to be updated.",
    "429": "Too many requests.",
    "500": "Unexpected.",
    "503": "Not now.",
}


@functools.lru_cache(maxsize=4)
def document(path: str) -> bytes:
    """The document as JSON, for a hub that answers under a path."""
    kinds = {kind for _, _, *pair in _CALLS for kind in pair if kind} | {messages.Problem, messages.SnapshotReply}
    _, components = msgspec.json.schema_components(
        sorted(kinds, key=lambda kind: kind.__name__), ref_template="#/components/schemas/{name}"
    )
    paths = {f"{path}/v1/{name}": {"post": _call(name, told, asked, reply)} for name, told, asked, reply in _CALLS}
    paths |= {f"{path}/v1/{name}": value for name, value in _reading().items()}
    found = {
        "openapi": "3.1.0",
        "info": {"title": "localstore hub", "version": VERSION},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}],
    }
    return msgspec.json.encode(found)


def _call(name: str, told: str, asked: type[Any] | None, reply: type[Any] | None) -> dict[str, Any]:
    call: dict[str, Any] = {
        "summary": told,
        "operationId": name,
        "parameters": [_version()],
        "responses": _responses("200", "Done.", _content(reply)),
    }
    if asked is not None:
        call["requestBody"] = {"required": True, "content": _content(asked)}
    if name in _OPEN:
        call["security"] = []
    return call


def _reading() -> dict[str, Any]:
    """What is asked by GET."""
    place = [{"name": name, "in": "query", "required": True, "schema": schema} for name, schema in _PLACE]
    stream = {"text/event-stream": {"schema": {"type": "string"}}}
    whole = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    named = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
    parameters = [_version(), *place]
    latest = _responses("200", "The latest.", _content(messages.SnapshotReply))
    latest["204"] = {"description": "There is none."}
    part = _responses("200", "Its bytes.", whole)
    part |= {"206": {"description": "Its bytes from a place on.", "content": whole}}
    part |= {code: {"description": told, "content": _content(messages.Problem)} for code, told in _SNAPSHOT_PROBLEMS.items()}
    news = {"name": "news", "in": "query", "required": False, "schema": {"type": "string", "enum": ["yes", "no"]}}
    told = "A stream. With news=yes, what is little comes as the data of its event: a News as MessagePack, in base64."
    return {
        "events": {"get": _get("events", "News as server-sent events.", [*parameters, news], _responses("200", told, stream))},
        "snapshot": {"get": _get("snapshot", "The latest snapshot.", parameters, latest)},
        "snapshot/{name}": {"get": _get("read_snapshot", "A snapshot's bytes.", [*parameters, named], part)},
    }


_SNAPSHOT_PROBLEMS = {"410": "It is not the latest any more.", "416": "It has fewer bytes."}


def _get(name: str, told: str, parameters: list[Any], responses: dict[str, Any]) -> dict[str, Any]:
    return {"summary": told, "operationId": name, "parameters": parameters, "responses": responses}


def _version() -> dict[str, Any]:
    schema = {"type": "integer", "enum": [messages.VERSION]}
    return {"name": messages.VERSION_HEADER, "in": "header", "required": True, "schema": schema}


def _responses(status: str, told: str, content: dict[str, Any]) -> dict[str, Any]:
    problems = {code: {"description": why, "content": _content(messages.Problem)} for code, why in _PROBLEMS.items()}
    return {status: {"description": told, "content": content}, **problems}


def _content(kind: type[Any] | None) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{kind.__name__}"} if kind else {}
    return {messages.JSON: {"schema": schema}}
