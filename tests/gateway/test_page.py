"""The page's files and its figures, as they are sent: what a browser makes of them is tested in `tests/page`."""

import asyncio
import re

from tests.gateway.calls import CHAT, chat_body
from tests.gateway.conftest import StartGateway
from tests.gateway.fake_engine import FakeEngine
from tests.gateway.raw_client import fetch

ADMIN = {"authorization": "Bearer sk-admin"}


async def test_the_page_and_all_that_it_loads_are_open_and_bound_to_this_place(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        waiting, seen = ["/ui"], {}
        while waiting:
            path = waiting.pop()
            answer = await fetch(running.url, "GET", path)
            assert answer.status == 200, path
            seen[path] = answer
            policy = answer.header("content-security-policy") or ""
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            for name, value in (
                ("x-content-type-options", "nosniff"),
                ("referrer-policy", "no-referrer"),
                ("cache-control", "no-cache"),
            ):
                assert answer.header(name) == value
            text = answer.body.decode()
            assert not re.search(r"https?://(?!www\.w3\.org/)", text), f"{path} names another place"
            assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|\sstyle=", text)
            linked = [*re.findall(r'(?:href|src)="(ui/[^"]+)"', text), *re.findall(r'from "\./([^"]+)"', text)]
            paths = {"/ui/" + one.removeprefix("ui/") for one in linked}
            waiting += [one for one in paths if one not in seen and one not in waiting]
        assert {path.rpartition(".")[2] for path in seen} == {"/ui", "css", "js", "svg"}
        assert len(seen) > 10


async def test_a_file_is_sent_again_only_when_it_has_changed(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        first = await fetch(running.url, "GET", "/ui/app.js")
        again = await fetch(running.url, "GET", "/ui/app.js", **{"if-none-match": first.header("etag") or ""})
        assert (again.status, again.body) == (304, b"")
        assert again.header("etag") == first.header("etag")
        other = await fetch(running.url, "GET", "/ui/app.js", **{"if-none-match": '"other"'})
        assert other.body == first.body


async def test_only_the_pages_own_files_are_found(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        for path in (
            "/ui/",
            "/ui/nothing.js",
            "/ui/../about.py",
            "/ui/%2e%2e%2fapp.py",
            "/ui/..%2fapi%2fpage.py",
            "/ui//",
        ):
            assert (await fetch(running.url, "GET", path)).status == 404, path


async def test_the_page_can_be_switched_off(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, page=False, admin_keys=("sk-admin",)) as running:
        for path in ("/ui", "/ui/app.js"):
            assert (await fetch(running.url, "GET", path)).status == 404
        assert (await fetch(running.url, "GET", "/admin/v1/live", **ADMIN)).status == 200  # others may draw it


async def test_the_charts_figures_are_for_administrators_and_count_what_was_asked(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, admin_keys=("sk-admin",)) as running:
        path = "/admin/v1/live"
        assert (await fetch(running.url, "GET", path)).status == 401
        assert (await fetch(running.url, "GET", path, authorization="Bearer sk-test")).status == 403
        before = (await fetch(running.url, "GET", path, **ADMIN)).json()
        for model in ("fake-model", "fake-model", "no-model"):
            body = chat_body(model=model, stream=True, max_tokens=5)
            await fetch(running.url, "POST", CHAT, body, authorization="Bearer sk-test")
        after = (await fetch(running.url, "GET", path, **ADMIN)).json()
        assert after["at"] > before["at"]
        assert before["counters"]["statuses"] == {}
        assert after["counters"]["statuses"] == {"200": 2, "404": 1}
        assert after["counters"]["errors"] == {"model_not_found": 1}
        assert after["counters"]["completion_tokens"] == 10
        ttft = after["histograms"]["ttft"]
        assert len(ttft["counts"]) == len(ttft["bounds"]) + 1
        assert ttft["counts"][-1] == 2
        assert ttft["counts"] == sorted(ttft["counts"])
        (replica,) = after["replicas"]
        assert (replica["ready"], replica["breaker"], replica["in_flight"]) == (True, "closed", 0)
        assert (after["status"], after["gpus"], after["limits_degraded"]) == ("ok", [], False)


async def test_a_stream_under_way_counts_as_it_comes(start_gateway: StartGateway) -> None:
    async with (
        FakeEngine(tokens=500, token_delay_s=0.01) as engine,
        start_gateway(engine.url, admin_keys=("sk-admin",)) as running,
    ):
        body = chat_body(stream=True)
        asking = asyncio.create_task(fetch(running.url, "POST", CHAT, body, authorization="Bearer sk-test"))
        counted = 0.0
        while counted < 20:
            counted = (await fetch(running.url, "GET", "/admin/v1/live", **ADMIN)).json()["counters"][
                "completion_tokens"
            ]
            assert not asking.done()
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
