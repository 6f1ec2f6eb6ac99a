"""What the service says of itself: to all, and to administrators."""

import html
import json
import os
from typing import Any

from forebay import __version__
from forebay.engines.spec import EngineSpec
from forebay.engines.supervisor import Supervisor
from tests.gateway.calls import AUTH, chat
from tests.gateway.conftest import Running, StartGateway
from tests.gateway.fake_engine import FakeEngine
from tests.gateway.raw_client import fetch

ADMIN = {"authorization": "Bearer sk-admin"}


COMMAND = ("python", "-m", "vllm", "--model", "m", "--api-key", "sk-engine")


async def runtime(running: Running) -> dict[str, Any]:
    answer = await fetch(running.url, "GET", "/debug/runtime", **ADMIN)
    assert answer.status == 200, answer.body
    told: dict[str, Any] = answer.json()
    return told


async def test_the_version_and_the_endpoints_are_open_and_administrators_are_left_out(
    start_gateway: StartGateway,
) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        assert (await fetch(running.url, "GET", "/version")).json() == {"version": __version__}
        described = (await fetch(running.url, "GET", "/openapi.json")).json()
        assert {"/generate", "/generate/batch", "/model_info", "/v1/models"} <= described["paths"].keys()
        assert "temperature" in described["components"]["schemas"]["Generate"]["properties"]
        page = await fetch(running.url, "GET", "/docs")
        assert (page.status, (page.header("content-type") or "").partition(";")[0]) == (200, "text/html")
        text = page.body.decode()
        for path in ("/generate/stream", "/v1/chat/completions", "temperature", "http://test/generate"):
            assert path in text
        for said in (json.dumps(described), text):
            assert "/admin" not in said
            assert "/debug" not in said
            assert "fake-model" not in said


async def test_the_description_has_examples_keys_errors_and_no_status_that_is_never_sent(
    start_gateway: StartGateway,
) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        told = (await fetch(running.url, "GET", "/openapi.json")).json()
        page = (await fetch(running.url, "GET", "/docs")).body.decode()
        for path in ("/generate", "/generate/batch", "/generate/cached"):
            takes = told["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"]
            [example] = told["components"]["schemas"][takes.rpartition("/")[2]]["examples"]
            answer = await fetch(running.url, "POST", path, example, **AUTH)
            assert answer.status == 200, "an example works as it is"
            assert html.escape(json.dumps(example)) in page
        said = json.dumps(told)
        assert '"422"' not in said
        assert "ValidationError" not in said
        refused = await fetch(running.url, "POST", "/generate", {}, **AUTH)
        error = told["components"]["schemas"]["Error"]["properties"]["error"]
        assert refused.json()["error"].keys() == error["properties"].keys()
        assert told["security"] == [{"bearer": []}, {"x-api-key": []}]
        assert told["paths"]["/version"]["get"]["security"] == []
        assert "security" not in told["paths"]["/generate"]["post"]
        assert "conversation_id" in page.partition("/v1/conversations/{conversation_id}")[2]


async def test_the_page_loads_nothing(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        page = await fetch(running.url, "GET", "/docs")
        text = page.body.decode()
        assert "default-src 'none'" in (page.header("content-security-policy") or "")
        assert not [word for word in ("<script", "<link", "<img", "src=", "@import", "url(") if word in text]


async def test_a_host_header_cannot_put_anything_on_the_page(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        page = await fetch(running.url, "GET", "/docs", host="a<script>b")
        assert b"<script" not in page.body


async def test_administrators_see_what_the_process_is_and_does(start_gateway: StartGateway) -> None:
    settings = {"admin_keys": ("sk-admin",), "upstream_api_key": "sk-up"}
    async with FakeEngine() as engine, start_gateway(engine.url, **settings) as running:
        spec = EngineSpec("engine-0", "m", None, COMMAND, {"HF_TOKEN": "sk-hub"})
        pool = next(iter(running.gateway.replicas)).upstream
        running.gateway.engines.append(Supervisor(spec, running.gateway.settings, pool, lambda change: None))
        await chat(running.url)
        told = await runtime(running)
        assert told["versions"]["forebay"] == __version__
        assert told["versions"]["libraries"]["uvloop"]
        assert list(told["versions"]["engines"].values()) == ["0.32.0"]
        assert told["process"]["pid"] == os.getpid()
        assert told["uptime_s"] > 0
        assert told["memory"]["resident_bytes"] > 10_000_000
        assert told["memory"]["most_resident_bytes"] >= told["memory"]["resident_bytes"]
        assert told["connections"]["clients"] >= 1
        assert next(iter(told["connections"]["engines"].values()))["open"] >= 1
        assert told["engine_commands"] == {"engine-0": [*COMMAND[:-1], "***"]}
        assert told["tasks"]["count"] == len(told["tasks"]["some"])
        assert any(task["name"] == "time" and ":" in task["where"] for task in told["tasks"]["some"])
        assert told["settings"]["max_batch_prompts"] == 32
        assert told["settings"]["api_keys"] == ["set"]
        assert told["status"]["queues"]
        assert "entries" in told["caches"]["answers"]
        text = json.dumps(told)
        for secret in ("sk-test", "sk-admin", "sk-up", "sk-engine", "sk-hub"):
            assert secret not in text


async def test_an_engine_that_does_not_tell_its_version_holds_nothing_up(start_gateway: StartGateway) -> None:
    async with start_gateway("http://127.0.0.1:9", ready=False, admin_keys=("sk-admin",)) as running:
        assert list((await runtime(running))["versions"]["engines"].values()) == [None]


async def test_nobody_else_sees_the_runtime(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, admin_keys=("sk-admin",)) as running:
        assert (await fetch(running.url, "GET", "/debug/runtime")).status == 401
        assert (await fetch(running.url, "GET", "/debug/runtime", **AUTH)).status == 403
