"""No secret is shown by a process: not by its arguments, its log, its metrics, its errors or its settings (D10)."""

import asyncio
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.gateway.calls import CHAT, chat_body
from tests.gateway.command import FOREBAY, gateway_process
from tests.gateway.fake_engine import FakeEngine
from tests.gateway.raw_client import fetch
from tests.store.databases import made

CANARY = re.compile("canary-[a-z]+")
SECRETS = {
    "API_KEYS": "canary-caller,canary-other",
    "API_KEY_LIMITS": "canary-caller:100000",
    "ADMIN_KEYS": "canary-admin",
    "SECRET_KEY": "canary-signer-0123456789-0123456789",
    "VLLM_API_KEY": "canary-engine",
    "REDIS_URL": "redis://:canary-redis@127.0.0.1:1/0",
}


def run(home: Path, words: list[str], env: dict[str, str]) -> tuple[int, str]:
    """Run a command to its end; return its status and all it said."""
    environment = {**os.environ, "FOREBAY_HOME": str(home), **env}
    done = subprocess.run([FOREBAY, *words], env=environment, capture_output=True, text=True, cwd=home, timeout=60)
    return done.returncode, done.stdout + done.stderr


async def what_it_shows(process: asyncio.subprocess.Process, url: str, engine: FakeEngine) -> str:
    """All that a gateway says of itself and to its callers, until it is ended."""
    assert process.stdout is not None
    shown = ""
    for key in ("canary-caller", "canary-wrong"):
        headers = {"authorization": f"Bearer {key}"}
        for body in (chat_body(max_tokens=2), b"{canary-body", chat_body(model="no-model")):
            shown += (await fetch(url, "POST", CHAT, body, **headers)).body.decode()
        answer = await fetch(url, "GET", "/metrics", **headers)
        assert answer.status == (200 if key == "canary-caller" else 401)
        shown += answer.body.decode()
    for path in ("/admin/v1/openapi.json", "/admin/v1/audit", "/admin/v1/usage", "/admin/v1/keys", "/debug/runtime"):
        answer = await fetch(url, "GET", path, authorization="Bearer canary-admin")
        assert answer.status == 200, path
        shown += answer.body.decode()
    assert engine.calls(CHAT)[-1].headers["authorization"] == "Bearer canary-engine"
    process.terminate()
    await process.wait()
    return shown + (await process.stdout.read()).decode()


async def test_a_gateway_with_every_secret_there_is_shows_none(tmp_path: Path) -> None:
    home, log = tmp_path / "home", tmp_path / "log"
    url = f"sqlite:///{tmp_path}/keys.db"
    made(url).close()
    env = {"FOREBAY_HOME": str(home), "FOREBAY_LOG_LEVEL": "debug", "DATABASE_URL": url, **SECRETS}
    async with FakeEngine() as engine:
        async with gateway_process(engine.url, "--log-file", str(log), **env) as (process, where):
            arguments = await asyncio.to_thread(Path(f"/proc/{process.pid}/cmdline").read_text)
            shown = arguments + await what_it_shows(process, where, engine)
    kept = await asyncio.to_thread(lambda: b"".join(one.read_bytes() for one in tmp_path.rglob("*") if one.is_file()))
    assert "shared limits" in log.read_text()  # Redis is away, and that is told too
    assert CANARY.findall(shown + kept.decode("latin-1")) == []


@pytest.mark.parametrize(
    ("words", "env"),
    [
        (["keys", "list"], {"DATABASE_URL": "postgresql://u:canary-database@127.0.0.1:1/d"}),
        (["keys", "list"], {"DATABASE_URL": "postgresql://u:canary-database@[/d"}),
        (["keys", "list"], {"DATABASE_URL": "mysql://u:canary-database@h/d"}),
        (["keys", "list"], {"DATABASE_URL": "canary-database"}),
        (["db", "upgrade"], {"DATABASE_URL": "postgresql://u:canary-database@127.0.0.1:1/d"}),
        (["gateway", "--upstream", "http://127.0.0.1:9"], {"REDIS_URL": "ftp://:canary-redis@h"}),
        (["gateway", "--upstream", "http://127.0.0.1:9"], {"REDIS_URL": "redis://:canary-redis@[/x"}),
        (["gateway", "--upstream", "http://127.0.0.1:9"], {"REDIS_URL": "redis://:canary-redis@h:port/x"}),
        (["gateway", "--upstream", "http://127.0.0.1:9"], {"SECRET_KEY": "canary-short"}),
        (["gateway", "--upstream", "http://127.0.0.1:9"], {"API_KEYS": "canary-a", "API_KEY_LIMITS": "canary-b:5"}),
        (["gateway", "--upstream", "http://127.0.0.1:9"], {"API_KEYS": "canary-a", "API_KEY_LIMITS": "canary-a:x"}),
        (["gateway", "--upstream", "http://u:canary-password@127.0.0.1:9"], {}),
        (["gateway", "--upstream", "http://127.0.0.1:9"], {"FOREBAY_JWKS": "https://u:canary-password@h/keys"}),
    ],
    ids=repr,
)
def test_no_mistake_in_a_setting_shows_a_secret(words: list[str], env: dict[str, str], tmp_path: Path) -> None:
    status, told = run(tmp_path, words, env)
    assert status in (1, 2), told
    assert told.count("\n") <= 2, told
    assert CANARY.findall(told) == []
