"""What /metrics and /metrics/engines say, on the main port and on one of their own, and that it stays bounded."""

import asyncio
import json
import ssl
import time
from pathlib import Path
from typing import Any

import pytest
import trustme
from prometheus_client.parser import text_string_to_metric_families

from forebay.gateway.inner import InnerCall
from forebay.gateway.routes import find_route
from forebay.policy.auth import Principal
from tests.gateway.calls import AUTH, CHAT, chat, chat_body
from tests.gateway.conftest import Running, StartGateway
from tests.gateway.fake_engine import Behaviour, FakeEngine, Fault
from tests.gateway.raw_client import connect, fetch
from tests.waiting import all_ready, until

KEYS = 100_000


async def scraped(url: str, path: str, **headers: str) -> dict[str, list[Any]]:
    """The samples of a page, by the metric's name."""
    answer = await fetch(url, "GET", path, **headers)
    assert answer.status == 200
    families = text_string_to_metric_families(answer.body.decode())
    return {family.name: family.samples for family in families}


# The engines' own metrics


async def test_the_metrics_of_every_engine_are_on_one_page(start_gateway: StartGateway) -> None:
    async with FakeEngine() as one, FakeEngine() as two, start_gateway(one.url, two.url) as running:
        await all_ready(running)
        await chat(running.url, max_tokens=5)
        told = await scraped(running.url, "/metrics/engines", **AUTH)
        tokens = {sample.labels["replica"]: sample.value for sample in told["vllm:generation_tokens"]}
        assert sorted(tokens) == sorted((one.url, two.url))
        assert sum(tokens.values()) == one.generated + two.generated >= 5
        assert {sample.labels["model_name"] for sample in told["vllm:num_requests_running"]} == {"fake-model"}


async def test_an_engine_that_hangs_or_talks_nonsense_costs_nobody_elses_figures(start_gateway: StartGateway) -> None:
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    class Nonsense(FakeEngine):
        def metrics(self) -> str:
            return "vllm:num_requests_running oh\nvllm:\nvllm:kv_cache_usage_perc 0.5\n\x00"

    mute = await asyncio.start_server(hang, "127.0.0.1", 0)
    hanging = f"http://127.0.0.1:{mute.sockets[0].getsockname()[1]}"
    async with mute, FakeEngine() as engine, Nonsense() as other:
        gone = "http://127.0.0.1:1"
        upstreams = (hanging, gone, engine.url, other.url)
        async with start_gateway(*upstreams, health_timeout_s=1.0) as running:
            begun = time.monotonic()
            pages = await asyncio.gather(*(scraped(running.url, "/metrics/engines", **AUTH) for _ in range(8)))
            assert time.monotonic() - begun < 6
            for told in pages:
                assert {one.labels["replica"] for one in told["vllm:num_requests_running"]} == {engine.url}
                assert {one.labels["replica"] for one in told["vllm:kv_cache_usage_perc"]} == {engine.url, other.url}
            failures = running.figures()
            name = "forebay_replica_metrics_failures_total"
            counts = {url: failures[f'{name}{{replica="{url}"}}'] for url in upstreams}
            assert counts[engine.url] == counts[other.url] == 0
            assert counts[hanging] == counts[gone] >= 1


async def test_many_who_ask_at_once_have_the_engines_asked_once(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        before = len(engine.calls("/metrics"))
        page = running.gateway.engine_metrics
        pages = await asyncio.gather(*(page.text() for _ in range(20)))
        assert len(set(pages)) == 1
        assert len(engine.calls("/metrics")) == before + 1
        assert await page.text()
        assert len(engine.calls("/metrics")) == before + 2


async def test_one_who_leaves_while_the_page_is_made_does_not_take_it_from_the_others(
    start_gateway: StartGateway,
) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        page = running.gateway.engine_metrics
        leaves, stays = asyncio.create_task(page.text()), asyncio.create_task(page.text())
        await asyncio.sleep(0)
        leaves.cancel()
        assert "vllm:num_requests_running{" in await stays


async def test_the_engines_page_asks_for_the_same_key_as_metrics_do(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine:
        async with start_gateway(engine.url) as running:
            for path in ("/metrics", "/metrics/engines"):
                assert (await fetch(running.url, "GET", path)).status == 401
                assert (await fetch(running.url, "GET", path, **AUTH)).status == 200
        async with start_gateway(engine.url, metrics_public=True) as running:
            for path in ("/metrics", "/metrics/engines"):
                assert (await fetch(running.url, "GET", path)).status == 200


# The port of their own


async def test_the_metrics_port_serves_health_and_metrics_and_nothing_else(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, metrics_port=0) as running:
        url = running.metrics_url
        for path in ("/metrics", "/metrics/engines"):
            assert (await fetch(url, "GET", path)).status == 401
            assert await scraped(url, path, **AUTH)
        for path in ("/health", "/health/ready"):
            assert (await fetch(url, "GET", path)).status == 200
        for method, path in (("POST", CHAT), ("GET", CHAT), ("GET", "/v1/models"), ("GET", "/admin/v1/keys")):
            answer = await fetch(url, method, path, chat_body() if method == "POST" else None, **AUTH)
            assert answer.status == 404, path
        assert engine.calls(CHAT) == []


async def test_the_metrics_port_asks_for_no_key_where_the_settings_say_so(start_gateway: StartGateway) -> None:
    flags = {"metrics_port": 0, "metrics_port_public": True}
    async with FakeEngine() as engine, start_gateway(engine.url, **flags) as running:
        assert await scraped(running.metrics_url, "/metrics")
        assert await scraped(running.metrics_url, "/metrics/engines")
        assert (await fetch(running.url, "GET", "/metrics")).status == 401


async def test_the_metrics_port_answers_while_callers_hold_every_connection(start_gateway: StartGateway) -> None:
    flags = {"metrics_port": 0, "max_connections": 1, "metrics_port_public": True}
    async with FakeEngine() as engine, start_gateway(engine.url, **flags) as running, connect(running.url):
        await until(lambda: len(running.gateway.connections) == 1)
        assert (await fetch(running.url, "GET", "/v1/models", **AUTH)).status == 503
        await until(lambda: len(running.gateway.connections) == 1)  # the one that was refused has gone
        told = await scraped(running.metrics_url, "/metrics")
        assert told["forebay_connections"][0].value == 1


async def test_the_metrics_port_is_there_until_the_drain_is_over(start_gateway: StartGateway) -> None:
    flags = {"metrics_port": 0, "metrics_port_public": True}
    async with FakeEngine() as engine, start_gateway(engine.url, **flags) as running:
        held = asyncio.Event()
        engine.script(Behaviour(faults=[Fault("token", held, after=1)]))
        asking = asyncio.create_task(chat(running.url, max_tokens=3))
        await engine.wait_for(lambda e: e.running == 1)
        stopping = asyncio.create_task(running.stop())
        await until(lambda: running.gateway.pipeline.draining)
        told = await scraped(running.metrics_url, "/metrics")
        assert told["forebay_active_requests"][0].value == 1
        assert (await fetch(running.metrics_url, "GET", "/health/ready")).status == 503
        held.set()
        assert (await asking).status == 200
        await stopping
        with pytest.raises(OSError, match="Connect call failed"):
            await fetch(running.metrics_url, "GET", "/metrics")


async def test_a_slow_caller_is_cut_off_on_the_metrics_port_too(start_gateway: StartGateway) -> None:
    flags = {"metrics_port": 0, "header_timeout_s": 0.3}
    async with FakeEngine() as engine, start_gateway(engine.url, **flags) as running:
        port = int(running.metrics_url.rsplit(":", 1)[1])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n")
        async with asyncio.timeout(20):
            assert b" 408 " in await reader.read()
        writer.close()


async def test_the_metrics_port_speaks_tls_where_the_gateway_does_and_tells_when_the_certificate_expires(
    start_gateway: StartGateway, tmp_path: Path
) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    certificate.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    flags = {"tls_cert_file": tmp_path / "cert.pem", "tls_key_file": tmp_path / "key.pem", "metrics_port": 0}
    async with FakeEngine() as engine, start_gateway(engine.url, metrics_port_public=True, **flags) as running:
        port = int(running.metrics_url.rsplit(":", 1)[1])
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting)
        shown = ssl.cert_time_to_seconds(writer.get_extra_info("peercert")["notAfter"])
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = (await reader.read()).decode()
        writer.close()
        (line,) = [line for line in answer.splitlines() if line.startswith("forebay_tls_certificate_expiry")]
        assert float(line.split()[1]) == shown


# What is counted


async def test_a_limit_that_refuses_is_counted_by_which_it_was_and_whose(start_gateway: StartGateway) -> None:
    limits = {"key_limits": {"requests_per_minute": 1}, "global_limits": {"tokens_per_minute": 5000}}
    engine = FakeEngine(max_model_len=5000)
    async with engine, start_gateway(engine.url, api_keys=("sk-test", "sk-2"), **limits) as running:
        assert (await chat(running.url, max_tokens=5)).status == 200
        for _ in range(2):
            assert (await chat(running.url, max_tokens=5)).status == 429
        other = {"authorization": "Bearer sk-2"}
        assert (await fetch(running.url, "POST", CHAT, chat_body(max_tokens=4995), **other)).status == 429
        figures = running.figures()
        name = "forebay_limit_refusals_total"
        found = {line: value for line, value in figures.items() if line.startswith(name)}
        assert found == {f'{name}{{limit="requests",scope="key"}}': 2, f'{name}{{limit="tokens",scope="all"}}': 1}


async def test_a_stream_that_goes_on_elsewhere_is_a_resume_and_a_request_begun_anew_is_not(
    start_gateway: StartGateway,
) -> None:
    async with FakeEngine() as one, FakeEngine() as two, start_gateway(one.url, two.url) as running:
        await all_ready(running)
        faults: list[Fault] = []
        one.default = two.default = lambda record: Behaviour(faults=[faults.pop()] if faults else [])
        for stream, fault in ((True, Fault("token", "reset", after=3)), (False, Fault("head", "close"))):
            faults.append(fault)
            assert (await chat(running.url, stream=stream, max_tokens=8)).status == 200
        figures = running.figures()
        assert figures['forebay_takeovers_total{endpoint="chat_completions"}'] == 2
        assert figures['forebay_resumes_total{endpoint="chat_completions"}'] == 1


async def test_a_loop_that_is_held_up_shows_in_its_lag(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        await until(lambda: running.figures()["forebay_event_loop_lag_seconds_count"] > 0)
        time.sleep(0.4)  # this is what holds it up
        await until(lambda: running.figures()["forebay_event_loop_lag_seconds_sum"] >= 0.2)


async def test_tenants_are_told_apart_with_those_who_wait(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, engine_concurrency=1) as running:
        await call(running, "acme", max_tokens=3).answer()
        await call(running, "acme", model="none").answer()
        held = asyncio.Event()
        engine.script(Behaviour(faults=[Fault("token", held, after=1)]))
        asking = [asyncio.create_task(call(running, "acme", max_tokens=3).answer()) for _ in range(4)]
        await until(lambda: running.figures()['forebay_tenant_queue_requests{tenant="acme"}'] == 3)
        held.set()
        await asyncio.gather(*asking)
        figures = running.figures()
        assert figures['forebay_tenant_requests_total{tenant="acme"}'] == 6
        assert figures['forebay_tenant_refusals_total{tenant="acme"}'] == 1
        assert figures['forebay_tenant_tokens_total{direction="out",tenant="acme"}'] == 15
        assert figures['forebay_tenant_queue_requests{tenant="acme"}'] == 0


# That it stays bounded


def call(running: Running, tenant: str, key_id: str = "key", **fields: Any) -> InnerCall:
    route = find_route(b"POST", CHAT.encode())
    assert route is not None
    who = Principal(tenant=tenant, key_id=key_id)
    return InnerCall(running.gateway.pipeline, who, route, json.dumps(chat_body(**fields)).encode())


async def test_neither_keys_nor_tenants_nor_hostile_model_names_make_series(start_gateway: StartGateway) -> None:
    flags = {"max_tenant_series": 20, "access_log": False}
    async with FakeEngine() as engine, start_gateway(engine.url, **flags) as running:
        await call(running, "first").answer()
        for name in ('a"}\n', "\\", "x" * 5000, "forebay_requests_total 1", "\u2028\ud7ff\U0010ffff", "fake-model:no"):
            await call(running, name, model=name).answer()
            await fetch(running.url, "POST", CHAT, chat_body(model=name), **AUTH)
        before = len(running.figures())
        for number in range(KEYS):
            await call(running, f"tenant-{number}", f"k#{number}", model=f'm#"{number}\n').answer()
        figures = running.figures()
        assert figures['forebay_tenant_requests_total{tenant="other"}'] > KEYS * 0.9
        tenants = [line for line in figures if "tenant=" in line]
        assert len(tenants) == 21 * 5
        assert len(figures) - before <= 20 * 5
        label = 'endpoint="chat_completions",model="",status="404"'
        assert figures[f"forebay_requests_total{{{label}}}"] >= KEYS
        assert not any("k#" in line or "m#" in line for line in figures)


async def test_attempts_are_counted_by_group_those_that_callers_do_not_see_too(start_gateway: StartGateway) -> None:
    async with FakeEngine() as stable, FakeEngine() as canary:
        canary.default = Behaviour(status=500)
        async with start_gateway(stable.url, f"{canary.url}#canary") as running:
            answers = [await chat(running.url, stream=True, user=str(number)) for number in range(12)]
            assert {answer.status for answer in answers} == {200}
            figures = running.figures()

    def attempts(group: str, outcome: str) -> float:
        labels = f'group="{group}",model="fake-model",outcome="{outcome}"'
        return figures[f"forebay_group_attempts_total{{{labels}}}"]

    assert attempts("canary", "failed") == len(canary.calls(CHAT)) > 0
    assert (attempts("canary", "answered"), attempts("default", "answered")) == (0, 12)
    assert figures['forebay_group_time_to_first_token_seconds_count{group="default",model="fake-model"}'] == 12
