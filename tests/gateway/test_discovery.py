"""The sources: what they tell of a small Kubernetes API and of a resolver, and what they do when it is away."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic

import pytest

from forebay.replicas.discovery.dns import DnsSource
from forebay.replicas.discovery.kubernetes import KubernetesSource
from forebay.replicas.discovery.source import Source
from tests.gateway.fake_kubernetes import FakeKubernetes, endpoint, endpoint_slice

Sets = asyncio.Queue[set[str]]


@asynccontextmanager
async def observing(source: Source) -> AsyncIterator[Sets]:
    """The names in every set that it tells, as they come."""
    sets: Sets = asyncio.Queue()

    async def observe() -> None:
        async for endpoints in source.observe():
            sets.put_nowait({endpoint.name for endpoint in endpoints})

    task = asyncio.create_task(observe())
    try:
        yield sets
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def next_of(sets: Sets) -> set[str]:
    async with asyncio.timeout(30):
        return await sets.get()


def urls(*hosts: str, port: int = 8000) -> set[str]:
    return {f"http://{host}:{port}" for host in hosts}


# Kubernetes
@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[FakeKubernetes]:
    async with FakeKubernetes(tmp_path) as api:
        yield api


def source_of(api: FakeKubernetes, url: str = "kubernetes://prod/vllm:http", watch_s: float = 60) -> KubernetesSource:
    return KubernetesSource(url, account=api.account, env=api.env, watch_s=watch_s)


async def watched(api: FakeKubernetes) -> None:
    await api.wait_for(lambda a: a.watches)


async def test_slices_are_listed_and_then_watched(api: FakeKubernetes) -> None:
    api.put("vllm-a", "vllm", [endpoint("10.0.0.1")])
    api.put("other", "other", [endpoint("10.0.0.9")])
    async with observing(source_of(api)) as sets:
        assert await next_of(sets) == urls("10.0.0.1")
        await watched(api)
        api.put("vllm-b", "vllm", [endpoint("10.0.0.2"), endpoint("10.0.0.1")])
        assert await next_of(sets) == urls("10.0.0.1", "10.0.0.2")
        api.put("other", "other", [endpoint("10.0.0.8")])
        api.put("vllm-b", "vllm", [endpoint("10.0.0.2", ready=False), endpoint("10.0.0.3")])
        assert await next_of(sets) == urls("10.0.0.1", "10.0.0.3")
        api.delete("vllm-a")
        assert await next_of(sets) == urls("10.0.0.3")
        api.put("vllm-b", "vllm", [])
        assert await next_of(sets) == set()
    assert [asked.watch for asked in api.asked] == [False, True]
    await api.wait_for(lambda a: not a.watches)


async def test_a_service_without_pods_is_told_too(api: FakeKubernetes) -> None:
    async with observing(source_of(api)) as sets:
        assert await next_of(sets) == set()


async def test_a_watch_that_ends_is_taken_up_where_it_was(api: FakeKubernetes) -> None:
    api.put("vllm-a", "vllm", [endpoint("10.0.0.1")])
    source = source_of(api)
    async with observing(source) as sets:
        await next_of(sets)
        await watched(api)
        api.bookmark()
        api.end_watches()
        await api.wait_for(lambda a: not a.watches)
        api.put("vllm-a", "vllm", [endpoint("10.0.0.2")])  # while nobody watches
        assert await next_of(sets) == urls("10.0.0.2")
        await watched(api)
        api.put("vllm-a", "vllm", [endpoint("10.0.0.3")])
        assert await next_of(sets) == urls("10.0.0.3")
    assert [asked.watch for asked in api.asked] == [False, True, True]
    assert source.outage.failures == 0


async def test_a_bookmark_is_where_the_next_watch_begins(api: FakeKubernetes) -> None:
    api.put("vllm-a", "vllm", [endpoint("10.0.0.1")])
    async with observing(source_of(api)) as sets:
        await next_of(sets)
        await watched(api)
        for number in range(5):
            api.put("other", "other", [endpoint(f"10.0.1.{number}")])
        api.bookmark()
        told = api.version
        api.end_watches()
        await api.wait_for(lambda a: len(a.asked) == 3)
        assert api.asked[2].query["resourceVersion"] == str(told)
        assert api.asked[2].query["allowWatchBookmarks"] == "true"


@pytest.mark.parametrize("http_410", [False, True], ids=["as an event", "as a status"])
async def test_a_version_that_is_gone_leads_to_a_new_list_and_is_no_failure(
    http_410: bool, api: FakeKubernetes
) -> None:
    api.http_410 = http_410
    api.put("vllm-a", "vllm", [endpoint("10.0.0.1")])
    api.put("vllm-b", "vllm", [endpoint("10.0.0.2")])
    source = source_of(api)
    async with observing(source) as sets:
        await next_of(sets)
        await watched(api)
        api.end_watches()
        await api.wait_for(lambda a: not a.watches)
        api.delete("vllm-a")
        api.put("vllm-c", "vllm", [endpoint("10.0.0.3")])
        api.forget()
        assert await next_of(sets) == urls("10.0.0.2", "10.0.0.3")
        await watched(api)
    assert [asked.watch for asked in api.asked] == [False, True, True, False, True]
    assert source.outage.failures == 0


async def test_what_is_no_event_leads_to_a_new_list(api: FakeKubernetes) -> None:
    api.put("vllm-a", "vllm", [endpoint("10.0.0.1")])
    source = source_of(api)
    async with observing(source) as sets:
        await next_of(sets)
        for failures, line in enumerate(
            (b"{", b"<html>", b'{"type":"ERROR","object":{"code":500,"message":"etcd"}}'), 1
        ):
            await watched(api)
            api.tell(line)
            await api.wait_for(lambda a: not a.watches)
            await api.wait_for(lambda a: a.watches)
            assert source.outage.failures == failures
        api.put("vllm-a", "vllm", [endpoint("10.0.0.2")])
        assert await next_of(sets) == urls("10.0.0.2")
        assert source.outage.why == "", "a watch that is answered ends the outage"


async def test_an_event_without_end_is_not_held_in_memory(api: FakeKubernetes) -> None:
    source = source_of(api)
    async with observing(source) as sets:
        await next_of(sets)
        await watched(api)
        for watch in api.watches:
            watch.writer.write(b"%x\r\n%s\r\n" % (5 << 20, b"x" * (5 << 20)))
        await api.wait_for(lambda a: len(a.asked) == 3)
    assert source.outage.failures == 1


async def test_while_the_api_is_away_the_last_set_stands_and_two_lines_say_so(
    api: FakeKubernetes, caplog: pytest.LogCaptureFixture
) -> None:
    api.put("vllm-a", "vllm", [endpoint("10.0.0.1")])
    source = source_of(api)
    with caplog.at_level("INFO", "forebay.replicas"):
        async with observing(source) as sets:
            await next_of(sets)
            await watched(api)
            await api.stop()
            while source.outage.failures < 3:
                await asyncio.sleep(0.01)
            assert sets.empty()
            api.put("vllm-a", "vllm", [endpoint("10.0.0.2")])
            await api.start()
            assert await next_of(sets) == urls("10.0.0.2")
            assert source.outage.why == ""
    told = [record.message for record in caplog.records]
    assert told == ["discovery fails; what was found last is kept", "discovery works again"]
    assert [asked.watch for asked in api.asked] == [False, True, True], "the watch goes on without a new list"


async def test_an_api_that_answers_errors_is_asked_ever_less_often(api: FakeKubernetes) -> None:
    api.status = 503
    source = source_of(api)
    async with observing(source) as sets:
        began = monotonic()
        await api.wait_for(lambda a: len(a.asked) == 4)
        assert monotonic() - began >= 0.1 + 0.2 + 0.4
        assert "answered 503" in source.outage.why
        assert sets.empty()


async def test_a_watch_whose_connection_is_lost_is_given_up(api: FakeKubernetes) -> None:
    source = source_of(api, watch_s=1)
    async with observing(source) as sets:
        await next_of(sets)
        api.deaf = True
        await api.wait_for(lambda a: len(a.asked) == 3)
        api.deaf = False
        api.drop()
        await api.wait_for(lambda a: not a.watches)
        api.put("vllm-a", "vllm", [endpoint("10.0.0.1")])
        assert await next_of(sets) == urls("10.0.0.1")


async def test_the_token_is_read_again_for_every_request(api: FakeKubernetes) -> None:
    async with observing(source_of(api)) as sets:
        await next_of(sets)
        await watched(api)
        api.rotate("token-2")
        api.end_watches()
        await api.wait_for(lambda a: len(a.asked) == 3)
        assert [asked.token for asked in api.asked] == ["token-1", "token-1", "token-2"]
        assert api.watches


async def test_a_wrong_token_is_told(api: FakeKubernetes) -> None:
    (api.account / "token").write_text("old")
    source = source_of(api)
    async with observing(source):
        while source.outage.failures < 1:
            await asyncio.sleep(0.005)
        assert "answered 401" in source.outage.why
        (api.account / "token").unlink()
        while "token cannot be read" not in source.outage.why:
            await asyncio.sleep(0.005)


async def test_an_account_that_may_list_and_not_watch_is_one_outage_through_which_changes_are_listed(
    api: FakeKubernetes, caplog: pytest.LogCaptureFixture
) -> None:
    api.may_watch = False
    source = source_of(api)
    with caplog.at_level("INFO", "forebay.replicas"):
        async with observing(source) as sets:
            assert await next_of(sets) == set()
            await api.wait_for(lambda a: len(a.asked) == 2)
            api.put("vllm-a", "vllm", [endpoint("10.0.0.1")])
            assert await next_of(sets) == urls("10.0.0.1")
            await api.wait_for(lambda a: len(a.asked) == 6)
            assert "answered 403" in source.outage.why
    assert len(caplog.records) == 1


async def test_an_api_with_another_certificate_is_not_believed(api: FakeKubernetes, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = FakeKubernetes(tmp_path / "other")
    source = KubernetesSource("kubernetes://prod/vllm:http", account=other.account, env=api.env)
    async with observing(source):
        while not source.outage.failures:
            await asyncio.sleep(0.005)
        assert "certificate verify failed" in source.outage.why
        assert api.asked == []


async def test_ipv6_pods_and_tls(api: FakeKubernetes) -> None:
    api.put("vllm-a", "vllm", [endpoint("fd00::1")], address_type="IPv6")
    async with observing(source_of(api, "kubernetes+https://prod/vllm:8443")) as sets:
        assert await next_of(sets) == {"https://[fd00::1]:8443"}


def test_the_fake_writes_slices_as_the_api_does() -> None:
    """Go's encoder writes empty lists as null; a field that the API always sends must not be missing here."""
    assert json.loads(json.dumps(endpoint_slice("a", "vllm", [])))["endpoints"] is None


# DNS
class Table:
    """A resolver that answers from a table; an entry that is an exception is raised, an event is waited for."""

    def __init__(self, *hosts: str) -> None:
        self.answer: list[str] | Exception | asyncio.Event = list(hosts)
        self.asked = 0

    async def __call__(self, host: str) -> list[str]:
        self.asked += 1
        if isinstance(self.answer, asyncio.Event):
            await self.answer.wait()
            return ["127.0.0.9"]
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def asked_again(self) -> None:
        """Return once a look-up that began after this call is over."""
        seen = self.asked
        while self.asked < seen + 2:
            await asyncio.sleep(0.002)


async def test_a_name_is_looked_up_again_and_only_changes_are_told() -> None:
    table = Table("127.0.0.1", "127.0.0.2")
    async with observing(DnsSource("dns://engines:8000", interval_s=0.01, resolve=table)) as sets:
        assert await next_of(sets) == urls("127.0.0.1", "127.0.0.2")
        table.answer = ["127.0.0.2", "127.0.0.1", "127.0.0.1"]
        await table.asked_again()
        table.answer = ["127.0.0.2", "::1"]
        assert await next_of(sets) == {"http://127.0.0.2:8000", "http://[::1]:8000"}
        assert sets.empty()


@pytest.mark.parametrize(
    "answer",
    [socket.gaierror(-2, "Name or service not known"), socket.gaierror(-3, "Temporary failure"), []],
    ids=["no such name", "no resolver", "no records"],
)
async def test_while_a_name_has_no_address_the_last_ones_stand(answer: list[str] | Exception) -> None:
    table = Table("127.0.0.1")
    source = DnsSource("dns://engines:8000", interval_s=0.01, resolve=table)
    async with observing(source) as sets:
        await next_of(sets)
        table.answer = answer
        await table.asked_again()
        assert source.outage.failures >= 1
        table.answer = ["127.0.0.1"]
        await table.asked_again()
        assert source.outage.why == ""
        assert sets.empty(), "neither an empty set nor the same one again"


async def test_a_look_up_that_hangs_is_told_and_waited_for_and_no_second_one_is_begun() -> None:
    gate = asyncio.Event()
    table = Table()
    table.answer = gate
    source = DnsSource("dns://engines:8000", interval_s=0.01, resolve=table, look_up_s=0.03)
    async with observing(source) as sets:
        while source.outage.failures < 3:
            await asyncio.sleep(0.005)
        assert table.asked == 1
        assert "no answer within" in source.outage.why
        gate.set()
        assert await next_of(sets) == urls("127.0.0.9")
        assert source.outage.why == ""


async def test_the_systems_resolver_is_asked_by_default() -> None:
    async with observing(DnsSource("dns://localhost:8000")) as sets:
        assert "http://127.0.0.1:8000" in await next_of(sets)
    source = DnsSource("dns://no-such-name.invalid:8000")
    async with observing(source):
        while not source.outage.failures:
            await asyncio.sleep(0.005)
