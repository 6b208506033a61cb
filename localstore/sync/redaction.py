"""Errors of adapters as they may be shown: an application logs them with all that led to them, and a cause that another
library raised may quote the remote's URL with its password, or a user's token. It knows nothing of sessions.
"""

from __future__ import annotations

import base64
import json
import traceback
from collections.abc import Callable, Collection
from urllib.parse import quote, quote_plus

from localstore.errors import LocalStoreError
from localstore.urls import HIDDEN, redacted_text

__all__ = ["redacted_error"]

_Hide = Callable[[str], str]


def redacted_error(error: BaseException, secrets: Collection[str] = ()) -> BaseException:
    """An error with no secret of a URL, and none of ``secrets``, in its own text, nor in that of any error that led to it.

    One of ours is changed in place, so that a caller who holds it need not look at the result. Another library's that tells
    a secret is replaced by one that says the same without; all others stay what they are.
    """

    spellings = sorted({spelling for secret in secrets for spelling in _spellings(secret)}, key=len, reverse=True)

    def hide(text: str) -> str:
        for spelling in spellings:
            text = text.replace(spelling, HIDDEN)
        return redacted_text(text)

    links = _links(error)
    shown = {id(link): _shown(link, hide) for link in links}
    for link in links:
        new, cause, context, is_suppressed = shown[id(link)], link.__cause__, link.__context__, link.__suppress_context__
        new.__cause__ = None if cause is None else shown[id(cause)]
        new.__context__ = None if context is None else shown[id(context)]
        new.__suppress_context__ = is_suppressed
    return shown[id(error)]


def _spellings(secret: str) -> set[str]:
    """A secret as messages may quote it: as it is, in a URL, a form, JSON, a ``repr``, or a header of HTTP."""
    raw = secret.encode("utf-8", "surrogatepass")
    spellings = {secret, quote(raw), quote(raw, safe=""), quote_plus(raw), json.dumps(secret)[1:-1], repr(secret)[1:-1]}
    spellings |= {json.dumps(secret, ensure_ascii=False)[1:-1], repr(raw)[2:-1], base64.b64encode(raw).decode()}
    return spellings - {""}


def _links(error: BaseException) -> list[BaseException]:
    """The error and all that led to it, each once."""
    found: dict[int, BaseException] = {}
    left: list[BaseException | None] = [error]
    while left:
        link = left.pop()
        if link is not None and id(link) not in found:
            found[id(link)] = link
            left += [link.__cause__, link.__context__]
    return list(found.values())


def _shown(error: BaseException, hide: _Hide) -> BaseException:
    """The error by itself, without a secret."""
    if isinstance(error, LocalStoreError):
        error.args = tuple(_text(value, hide) for value in error.args)
        vars(error).update({name: _text(value, hide) for name, value in vars(error).items()})
        return error
    said = _said(error)
    if hide(said) == said:
        return error
    new = LocalStoreError(hide(f"{type(error).__name__}: {error}"), hint="Secrets in it were hidden.")
    return new.with_traceback(error.__traceback__)


def _said(error: BaseException) -> str:
    """All that is ever printed of an error by itself; of a group, with its members and what led to them."""
    if isinstance(error, BaseExceptionGroup):
        return "".join(traceback.format_exception(error))
    return "\n".join([*traceback.format_exception_only(error), repr(error), repr(error.args)])


def _text(value: object, hide: _Hide) -> object:
    if isinstance(value, list):  # notes
        return [_text(item, hide) for item in value]
    return hide(value) if isinstance(value, str) else value
