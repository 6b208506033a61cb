"""The version of the library, where every part of it can read it."""

from __future__ import annotations

__all__ = ["VERSION"]

VERSION = "0.1.0"
