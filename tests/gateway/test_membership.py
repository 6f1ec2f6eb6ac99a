"""Replicas that come and go while a gateway serves: nobody who asks notices."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trustme

from forebay.replicas.discovery.dns import DnsSource
from forebay.replicas.discovery.kubernetes import KubernetesSource
from tests.gateway.calls import AUTH, CHAT, chat, chat_body, error_of
from tests.gateway.conftest import Running, StartGateway
from tests.gateway.fake_engine import Behaviour, FakeEngine, Fault
from tests.gateway.fake_kubernetes import FakeKubernetes, endpoint
from tests.gateway.raw_client import connect, fetch, text_of, token_numbers
from tests.waiting import until


def names(running: Running) -> set[str]:
    return {replica.name for replica in running.gateway.replicas}


def rotation(running: Running) -> set[str]:
    return {replica.name for replica in running.gateway.replicas if replica.ready and not replica.draining}


async def some_time(engine: FakeEngine) -> None:
    """Several sweeps and checks, as an engine in rotation sees them."""
    checked = len(engine.calls("/health"))
    await engine.wait_for(lambda e: len(e.calls("/health")) >= checked + 4)


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[FakeKubernetes]:
    async with FakeKubernetes(tmp_path) as api:
        yield api


def pods(api: FakeKubernetes, *engines: FakeEngine) -> None:
    """The Service has these engines from now on, a slice each."""
    wanted = {f"vllm-{engine.port}": engine for engine in engines}
    for name in [name for name in api.slices if name not in wanted]:
        api.delete(name)
    for name, engine in wanted.items():
        api.put(name, "vllm", [endpoint(engine.host)], port=engine.port)


def source_of(api: FakeKubernetes) -> KubernetesSource:
    return KubernetesSource("kubernetes://prod/vllm:http", account=api.account, env=api.env)


@asynccontextmanager
async def load(url: str, clients: int = 12) -> AsyncIterator[list[bool]]:
    """Clients that ask all the time, every other one for streams; each answer must be whole. Yields those so far."""
    answers: list[bool] = []
    going = True

    async def client(stream: bool) -> None:
        async with connect(url) as raw:
            while going:
                await raw.request("POST", CHAT, chat_body(stream=stream, max_tokens=6), AUTH)
                answer = await raw.read_response("POST")
                assert (answer.status, answer.ended) == (200, "complete"), answer
                text = text_of(answer.events) if stream else answer.json()["choices"][0]["message"]["content"]
                assert token_numbers(text) == list(range(6)), answer
                answers.append(stream)

    async with asyncio.TaskGroup() as group:
        for number in range(clients):
            group.create_task(client(bool(number % 2)))
        try:
            yield answers
        finally:
            going = False


async def more(answers: list[bool], count: int) -> None:
    seen = len(answers)
    await until(lambda: len(answers) >= seen + count)


async def test_engines_join_and_leave_under_load_and_no_request_is_lost(
    api: FakeKubernetes, start_gateway: StartGateway
) -> None:
    async with AsyncExitStack() as stack:
        one, two, three = [await stack.enter_async_context(FakeEngine(token_delay_s=0.003)) for _ in range(3)]
        pods(api, one)
        running = await stack.enter_async_context(start_gateway(sources=[source_of(api)]))
        async with load(running.url) as answers:
            for now in ([one, two], [two, three], [three], [three, one], [one, two, three], [two]):
                pods(api, *now)
                wanted = {engine.url for engine in now}
                await until(lambda wanted=wanted: names(running) == rotation(running) == wanted)
                for engine in (one, two, three):
                    if engine not in now:
                        await engine.wait_for(lambda e: not e.connections)
                await more(answers, 60)
        assert sum(answers) > 150 < len(answers) - sum(answers)
        for engine in (one, two, three):
            assert len(engine.calls(CHAT)) > 20
            assert {record.outcome for record in engine.calls(CHAT)} == {"finished"}
            assert engine.violations == []
        assert sum(replica.in_flight for replica in running.gateway.replicas) == 0
        assert not any(name.startswith("forebay_errors_total") for name in running.figures())


async def test_a_leaving_replica_finishes_its_streams_gets_no_new_request_and_is_then_gone(
    api: FakeKubernetes, start_gateway: StartGateway
) -> None:
    gate = asyncio.Event()
    async with FakeEngine() as old, FakeEngine() as new:
        pods(api, old)
        async with start_gateway(sources=[source_of(api)]) as running:
            old.script(*[Behaviour(tokens=6, faults=[Fault("token", gate, after=2)]) for _ in range(2)])
            stream = asyncio.create_task(chat(running.url, stream=True))
            whole = asyncio.create_task(chat(running.url))
            await old.wait_for(lambda e: e.running == 2)
            pods(api, new)
            await until(lambda: rotation(running) == {new.url})
            seen = len(old.calls(CHAT))
            assert {(await chat(running.url)).status for _ in range(10)} == {200}
            assert len(old.calls(CHAT)) == seen
            status = (await fetch(running.url, "GET", "/healthz", **AUTH)).json()
            assert {one["name"]: (one["draining"], one["in_flight"]) for one in status["replicas"]} == {
                old.url: (True, 2),
                new.url: (False, 0),
            }
            await some_time(new)
            assert running.figures()[f'forebay_replica_in_flight{{replica="{old.url}"}}'] == 2
            gate.set()
            assert token_numbers(text_of((await stream).events)) == list(range(6))
            assert (await whole).status == 200
            await until(lambda: names(running) == {new.url})
            await old.wait_for(lambda e: not e.connections)
            assert old.url not in str(running.figures())
            assert old.url not in (await fetch(running.url, "GET", "/healthz", **AUTH)).body.decode()
            health = len(old.calls("/health"))
            await some_time(new)
            assert len(old.calls("/health")) == health, "nobody watches it"
        told = [line["message"] for line in running.log_lines() if line.get("replica") == old.url]
        changes = [message for message in told if message.startswith("replica")]
        assert changes == ["replica found", "replica joined", "replica leaves", "replica gone"]


async def test_a_replica_that_comes_back_while_it_drains_is_taken_back(
    api: FakeKubernetes, start_gateway: StartGateway
) -> None:
    gate = asyncio.Event()
    async with FakeEngine() as engine:
        pods(api, engine)
        async with start_gateway(sources=[source_of(api)]) as running:
            replica = next(iter(running.gateway.replicas))
            engine.script(Behaviour(tokens=4, faults=[Fault("token", gate, after=2)]))
            stream = asyncio.create_task(chat(running.url, stream=True))
            await engine.wait_for(lambda e: e.running == 1)
            pods(api)
            await until(lambda: replica.draining)
            assert error_of(await chat(running.url))["code"] == "engine_unavailable"
            assert (
                (await fetch(running.url, "GET", "/health/ready", **AUTH))
                .json()["reason"]
                .startswith(f"no engine is ready ({engine.url}: leaving")
            )
            pods(api, engine)
            await until(lambda: not replica.draining)
            assert (await chat(running.url)).status == 200
            gate.set()
            assert token_numbers(text_of((await stream).events)) == list(range(4))
            assert list(running.gateway.replicas) == [replica]


async def test_what_follows_a_response_that_a_leaving_replica_holds_is_refused(
    api: FakeKubernetes, start_gateway: StartGateway
) -> None:
    gate = asyncio.Event()
    async with FakeEngine() as engine:
        pods(api, engine)
        async with start_gateway(sources=[source_of(api)]) as running:
            made = await fetch(running.url, "POST", "/v1/responses", {"model": "fake-model", "input": "x"}, **AUTH)
            engine.script(Behaviour(faults=[Fault("head", gate)]))
            last = asyncio.create_task(chat(running.url))
            await engine.wait_for(lambda e: e.running == 1)
            pods(api)
            await until(lambda: not rotation(running))
            next_body = {"model": "fake-model", "input": "y", "previous_response_id": made.json()["id"]}
            answer = await fetch(running.url, "POST", "/v1/responses", next_body, **AUTH)
            assert (answer.status, error_of(answer)["code"]) == (503, "engine_unavailable")
            gate.set()
            assert (await last).status == 200


async def test_a_replica_that_returns_after_it_was_gone_is_a_new_one(
    api: FakeKubernetes, start_gateway: StartGateway
) -> None:
    async with FakeEngine() as engine:
        pods(api, engine)
        async with start_gateway(sources=[source_of(api)]) as running:
            pods(api)
            await until(lambda: not names(running))
            assert not running.gateway.replicas.ready
            pods(api, engine)
            await until(lambda: rotation(running) == {engine.url})
            assert (await chat(running.url)).status == 200


async def test_an_engine_with_another_model_at_the_address_of_one_that_served_is_found_out(
    start_gateway: StartGateway,
) -> None:
    """It was there again before anybody saw that the one before had gone."""
    async with FakeEngine() as engine, start_gateway(engine.url, health_interval_s=0.1) as running:
        assert (await chat(running.url)).status == 200
        await engine.stop()
        engine.models = ["another-model"]
        await engine.start()
        await until(lambda: "another-model" in running.gateway.replicas.longest)
        assert (await chat(running.url, model="another-model")).status == 200
        gone = await chat(running.url)
        assert (gone.status, error_of(gone)["code"]) == (404, "model_not_found")
    assert engine.calls(CHAT)[-1].body["model"] == "another-model"


async def test_a_found_replica_is_not_asked_before_it_answers(api: FakeKubernetes, start_gateway: StartGateway) -> None:
    async with FakeEngine() as one, FakeEngine() as starting:
        starting.on("/v1/models", Behaviour(status=503))
        pods(api, one)
        async with start_gateway(sources=[source_of(api)]) as running:
            pods(api, one, starting)
            await until(lambda: len(names(running)) == 2)
            assert {(await chat(running.url)).status for _ in range(10)} == {200}
            assert starting.calls(CHAT) == []
            starting.on("/v1/models", None)
            await until(lambda: rotation(running) == {one.url, starting.url})


async def test_readiness_says_why_nothing_has_been_found(api: FakeKubernetes, start_gateway: StartGateway) -> None:
    async def resolve(host: str) -> list[str]:
        raise OSError("the resolver is away")

    sources = [source_of(api), DnsSource("dns://engines:8000", resolve=resolve)]
    async with start_gateway(sources=sources, ready=False) as running:
        await until(lambda: "names no engine" in running.gateway.readiness()[1])
        ready = await fetch(running.url, "GET", "/health/ready", **AUTH)
        assert ready.status == 503
        reasons = "kubernetes://prod/vllm:http: names no engine; dns://engines:8000: the resolver is away"
        assert ready.json()["reason"] == f"no engine is ready ({reasons})"
        assert error_of(await chat(running.url))["code"] == "engine_unavailable"
        figures = running.figures()
        assert figures['forebay_discovery_endpoints{source="dns://engines:8000"}'] == 0
        assert figures['forebay_discovery_failures_total{source="dns://engines:8000"}'] >= 1
        assert figures['forebay_discovery_failures_total{source="kubernetes://prod/vllm:http"}'] == 0


async def test_while_the_api_is_away_the_pool_serves_on(api: FakeKubernetes, start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine:
        pods(api, engine)
        source = source_of(api)
        async with start_gateway(sources=[source]) as running:
            await api.wait_for(lambda a: a.watches)
            await api.stop()
            await until(lambda: source.outage.failures > 1)
            assert (await chat(running.url)).status == 200
            name = f'{{source="{source.name}"}}'
            assert running.figures()["forebay_discovery_endpoints" + name] == 1
            assert running.figures()["forebay_discovery_failures_total" + name] >= 2
            await api.start()
            pods(api)
            await until(lambda: not names(running))


async def test_a_name_whose_addresses_change_under_load_loses_no_request(start_gateway: StartGateway) -> None:
    async with FakeEngine(token_delay_s=0.003) as one:
        async with FakeEngine(host="127.0.0.2", port=one.port, token_delay_s=0.003) as two:
            table = ["127.0.0.1"]

            async def resolve(host: str) -> list[str]:
                assert host == "engines.prod.svc"
                return list(table)

            source = DnsSource(f"dns://engines.prod.svc:{one.port}", interval_s=0.02, resolve=resolve)
            async with start_gateway(sources=[source]) as running:
                async with load(running.url) as answers:
                    for now in ([one, two], [two], [two, one], [one]):
                        table[:] = [engine.host for engine in now]
                        wanted = {engine.url for engine in now}
                        await until(lambda wanted=wanted: names(running) == rotation(running) == wanted)
                        await more(answers, 60)
                assert len(answers) >= 240
                assert len(two.calls(CHAT)) > 40
                hosts = {record.headers["host"] for record in [*one.requests, *two.requests]}
                assert hosts == {f"engines.prod.svc:{one.port}"}


async def test_over_tls_the_certificate_must_be_the_names_and_not_the_addresss(
    start_gateway: StartGateway, tmp_path: Path
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("engines.prod.svc").configure_cert(context)

    async def resolve(host: str) -> list[str]:
        return ["127.0.0.1"]

    async with FakeEngine(tls=context) as engine:
        right = DnsSource(f"dns+https://engines.prod.svc:{engine.port}", tmp_path / "ca.pem", resolve=resolve)
        async with start_gateway(sources=[right], ready=False) as running:
            await until(lambda: rotation(running))
            assert (await chat(running.url)).status == 200
            assert engine.calls(CHAT)[0].headers["host"] == f"engines.prod.svc:{engine.port}"
        wrong = DnsSource(f"dns+https://others.prod.svc:{engine.port}", tmp_path / "ca.pem", resolve=resolve)
        async with start_gateway(sources=[wrong], ready=False) as running:
            await until(lambda: "certificate" in running.gateway.readiness()[1])


async def test_what_several_sources_find_is_one_pool_and_what_two_find_is_one_replica(
    api: FakeKubernetes, start_gateway: StartGateway
) -> None:
    async def resolve(host: str) -> list[str]:
        return ["127.0.0.1"]

    async with FakeEngine() as one, FakeEngine() as two:
        pods(api, one, two)
        sources = [DnsSource(f"dns://localhost:{one.port}", resolve=resolve), source_of(api)]
        async with start_gateway(sources=sources) as running:
            await until(lambda: rotation(running) == {one.url, two.url})
            running.figures()
            pods(api)
            await until(lambda: names(running) == {one.url})
            assert (await chat(running.url)).status == 200


async def test_stopping_ends_the_watch_and_every_task(api: FakeKubernetes, start_gateway: StartGateway) -> None:
    before = asyncio.all_tasks()
    async with FakeEngine() as engine:
        pods(api, engine)
        async with start_gateway(sources=[source_of(api), DnsSource("dns://localhost:1")]) as running:
            await api.wait_for(lambda a: a.watches)
            await running.stop()
            await api.wait_for(lambda a: not a.watches)
            await engine.wait_for(lambda e: not e.connections)
        left = {task for task in asyncio.all_tasks() - before if "forebay" in str(task.get_coro())}
        assert not left
        assert not [line for line in running.log_lines() if line["level"] == "error"]
