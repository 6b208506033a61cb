"""A hub against requests that are made up from its own OpenAPI document, good and bad ones: it answers as the document says."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("httpx2", reason="needs the extra http")
pytest.importorskip("starlette", reason="needs the extra hub")

import httpx2
import msgspec

from tests.unit.hub_kit import running_hub

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


def test_the_document_names_every_call_and_is_served_to_all() -> None:
    with running_hub(path="/sync") as hub:
        response = httpx2.get(f"{hub.address}/v1/openapi.json")
    document = msgspec.json.decode(response.content)
    names = {path.removeprefix("/sync/v1/") for path in document["paths"]}
    assert names == {
        *("login", "refresh", "logout", "connect", "push", "pull", "ping", "poll"),
        *("events", "snapshot", "snapshot/{name}"),
    }


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("schemathesis") is None and not os.environ.get("CI"), reason="needs schemathesis")
def test_made_up_requests_are_answered_as_the_document_says(tmp_path: Path) -> None:
    with running_hub() as hub:
        url = f"{hub.address}/v1/openapi.json"
        given = [
            "-H",
            "Accept: application/json",
            "--checks",
            CHECKS,
            "--phases",
            "examples,coverage,fuzzing",
            "--max-examples",
            "100",
        ]
        command = [
            sys.executable,
            "-m",
            "schemathesis.cli",
            "run",
            url,
            "--exclude-path-regex",
            "events",
            "--seed",
            "7",
            *given,
        ]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
