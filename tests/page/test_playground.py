"""The playground: an answer comes word by word, can be stopped, is counted, and is the same as code."""

import asyncio
import os
import sys
from typing import Any

import pytest
from playwright.async_api import Browser, Page, Route, expect

from tests.gateway.calls import CHAT
from tests.gateway.conftest import KEY, StartGateway
from tests.gateway.fake_engine import Behaviour, FakeEngine, Fault
from tests.page.browser import opened, sign_in

pytestmark = pytest.mark.asyncio(loop_scope="session")

NASTY = 'it\'s "quoted" $HOME `id` \\ back\nnew line — ünïcödé 😀 </script>'


COPIED = "async () => (await navigator.clipboard.readText()) === document.querySelector('#code').innerText"


async def ask(page: Page, text: str) -> None:
    await page.get_by_label("Message", exact=True).fill(text)
    await page.keyboard.press("Enter")


async def test_an_answer_comes_as_a_stream_and_is_counted(browser: Browser, start_gateway: StartGateway) -> None:
    carry_on = asyncio.Event()
    async with FakeEngine(tokens=40, token_delay_s=0.01) as engine, start_gateway(engine.url) as running:
        async with opened(browser, running.url) as seen:
            page = seen.page
            engine.script(Behaviour(faults=[Fault("token", carry_on, after=20)]))
            await sign_in(seen, KEY)
            await page.get_by_label("Preset").select_option("creative")
            await expect(page.locator("#preset-says")).to_contain_text("temperature 1")
            await page.get_by_label("Most tokens").fill("30")
            await page.get_by_label("System message").fill("Be brief.")
            await ask(page, "one two three")
            answer = page.locator("article.assistant").last
            await expect(answer.locator(".text")).to_contain_text("t3")
            assert not carry_on.is_set()  # it is seen while it comes
            carry_on.set()
            await expect(answer).to_have_attribute("aria-busy", "false")
            await expect(answer.locator(".text")).to_contain_text("t29")
            about = await answer.locator(".about").inner_text()
            assert "30 tokens" in about
            assert "tokens/s" in about
            assert "first after" in about
            await ask(page, "and more")
            await expect(page.locator("article.assistant")).to_have_count(2)
            await expect(page.locator("article.assistant").last.locator(".text")).to_contain_text("t29")
            bodies = [request.body for request in engine.requests if request.method == "POST"]
            assert [one["role"] for one in bodies[-1]["messages"]] == ["system", "user", "assistant", "user"]
            assert (bodies[-1]["temperature"], bodies[-1]["max_tokens"]) == (1.0, 30)
            assert seen.is_clean()


async def test_who_types_faster_than_the_models_come_is_answered(browser: Browser, start_gateway: StartGateway) -> None:
    come = asyncio.Event()

    async def later(route: Route) -> None:
        await come.wait()
        await route.continue_()

    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        async with opened(browser, running.url) as seen:
            page = seen.page
            await sign_in(seen, KEY)
            await expect(page.get_by_label("Model", exact=True)).to_have_value("fake-model")
            await page.route("**/v1/models", later)
            await page.reload()
            await ask(page, "too fast")
            await expect(page.locator("article")).to_have_count(1)
            await page.get_by_role("button", name="Stop").click()
            come.set()
            await expect(page.get_by_role("button", name="Stop")).to_be_hidden()
            assert engine.calls(CHAT) == []
            come.clear()
            await page.reload()
            await ask(page, "too fast again")
            come.set()
            await expect(page.locator("article.assistant .about")).to_contain_text("tokens")
            assert [one.body["model"] for one in engine.calls(CHAT)] == ["fake-model"]
            assert seen.is_clean()


async def test_an_answer_can_be_stopped_and_its_engine_with_it(browser: Browser, start_gateway: StartGateway) -> None:
    async with FakeEngine(tokens=4000, token_delay_s=0.01) as engine, start_gateway(engine.url) as running:
        async with opened(browser, running.url) as seen:
            page = seen.page
            await sign_in(seen, KEY)
            await page.get_by_label("Most tokens").fill("4000")
            await ask(page, "Go on for ever.")
            await expect(page.locator("article.assistant .text")).to_contain_text("t5")
            await page.get_by_role("button", name="Stop").click()
            await expect(page.locator("article.assistant .about")).to_contain_text("stopped")
            await engine.wait_for(lambda one: one.running == 0)
            await expect(page.get_by_role("button", name="Stop")).to_be_hidden()
            await expect(page.locator("#message")).to_be_focused()
            assert seen.is_clean()


async def test_a_refusal_and_a_stream_that_breaks_are_told(browser: Browser, start_gateway: StartGateway) -> None:
    flags = {"takeover_attempts": 0, "retry_attempts": 1}
    async with FakeEngine(token_delay_s=0.02) as engine, start_gateway(engine.url, **flags) as running:
        async with opened(browser, running.url) as seen:
            page = seen.page
            await sign_in(seen, KEY)
            said = {"error": {"message": "<b>no</b> such luck", "type": "x", "param": None, "code": 400}}
            engine.script(Behaviour(status=400, body=said))
            await ask(page, "first")
            await expect(page.locator("article.assistant").last).to_contain_text("<b>no</b> such luck")
            engine.script(Behaviour(tokens=8, error_after=3))
            await ask(page, "second")
            await expect(page.locator("article.assistant").last.locator(".notice")).to_be_visible()
            await expect(page.locator("article.assistant").last.locator(".text")).to_contain_text("t2")
            assert seen.is_clean()


async def run(*command: str, url: str) -> str:
    """What a command writes, with the key in its variable."""
    env = {**os.environ, "FOREBAY_API_KEY": KEY, "no_proxy": "*"}
    process = await asyncio.create_subprocess_exec(*command, env=env, stdout=-1, stderr=-1)
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


async def test_the_code_that_it_gives_runs_and_asks_the_same(browser: Browser, start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        permissions: dict[str, Any] = {"permissions": ["clipboard-read", "clipboard-write"]}
        async with opened(browser, running.url, **permissions) as seen:
            page = seen.page
            await sign_in(seen, KEY)
            await page.get_by_label("Preset").select_option("code_generation")
            await page.get_by_label("Seed").fill("7")
            await page.get_by_label("System message").fill(NASTY)
            await page.get_by_label("Message", exact=True).fill(NASTY)
            await page.get_by_text("As code").click()
            for button, runner in (("Copy as curl", ("sh", "-c")), ("Copy as Python", (sys.executable, "-c"))):
                await page.get_by_role("button", name=button).click()
                await page.wait_for_function(COPIED)
                code = await page.evaluate("() => navigator.clipboard.readText()")
                assert KEY not in code
                assert "t7" in await run(*runner, code, url=running.url)
            first, second = (one.body for one in engine.requests if one.target == "/v1/chat/completions")
            assert first == second
            assert [one["content"] for one in first["messages"]] == [NASTY, NASTY]
            assert (first["seed"], first["temperature"]) == (7, 0.2)
            assert seen.is_clean()


async def test_events_are_the_same_however_they_are_cut(browser: Browser, start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        async with opened(browser, running.url) as seen:
            told = await seen.page.evaluate(
                """async (text) => {
                  const { events } = await import("/ui/sse.js");
                  const bytes = new TextEncoder().encode(text), all = new Set();
                  for (let cut = 0; cut <= bytes.length; cut++) {
                    const body = new ReadableStream({ start(controller) {
                      controller.enqueue(bytes.slice(0, cut));
                      controller.enqueue(bytes.slice(cut));
                      controller.close();
                    } });
                    const seen = [];
                    for await (const data of events(body)) seen.push(data);
                    all.add(JSON.stringify(seen));
                  }
                  return [...all].map((one) => JSON.parse(one));
                }""",
                'data: {"a": "ü😀"}\n\n: note\n\nevent: x\r\ndata: two\r\ndata: lines\r\n\r\ndata: [DONE]\n\n',
            )
    assert told == [['{"a": "ü😀"}', "two\nlines", "[DONE]"]]
