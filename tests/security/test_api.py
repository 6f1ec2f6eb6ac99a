"""Schemathesis against a real gateway: requests made of our own OpenAPI documents, right ones and wrong ones.

Whatever is sent, nothing is answered that the document does not know, and nothing ends in a server error.
"""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from forebay.gateway.build import Gateway
from tests.gateway.conftest import KEY, StartGateway
from tests.gateway.fake_engine import FakeEngine
from tests.store.databases import made

ADMIN = "sk-admin"
CHECKS = "not_a_server_error,content_type_conformance,response_schema_conformance,ignored_auth"


async def attack(url: str, key: str, home: Path, examples: int, seed: int) -> str:
    """Run it; what it says where it found something. One worker: CPython 3.11's `ast.parse` fails in threads."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", "run", url, "--header", f"Authorization: Bearer {key}"),
        *(
            "--checks",
            CHECKS,
            "--max-examples",
            str(examples),
            "--seed",
            str(seed),
            "--workers",
            "1",
            "--request-timeout",
            "30",
        ),
        *("--phases", "examples,coverage,fuzzing", "--no-color", "--generation-database", "none"),
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    return "" if process.returncode == 0 else out.decode()[-8000:]


@pytest.mark.parametrize(("page", "key"), [("/openapi.json", KEY), ("/admin/v1/openapi.json", ADMIN)])
@pytest.mark.parametrize(
    ("examples", "seed"), [(2, 1), pytest.param(20, 2, marks=[pytest.mark.robustness, pytest.mark.timeout(600)])]
)
async def test_no_request_made_of_the_openapi_document_breaks_the_gateway(
    start_gateway: StartGateway, tmp_path: Path, page: str, key: str, examples: int, seed: int
) -> None:
    database = f"sqlite:///{tmp_path}/forebay.db"
    made(database).close()
    async with FakeEngine() as engine:
        settings = {"database_url": database, "admin_keys": (ADMIN,), "files_dir": tmp_path / "files"}
        async with start_gateway(engine.url, **settings) as running:
            assert isinstance(running.gateway, Gateway)
            assert not (told := await attack(running.url + page, key, tmp_path, examples, seed)), told
        lines = running.log_lines()
    assert not [line for line in lines if line["level"] == "error"]
