"""`forebay generate` and `forebay chat` as processes, over a real gateway and a stand-in for the engine."""

import json
from pathlib import Path

import pytest

from forebay.asking import Caller, NoAnswer, NotAsked
from forebay.cli.calling import caller
from tests.gateway.calls import CHAT
from tests.gateway.command import forebay, on_terminal, within
from tests.gateway.conftest import StartGateway
from tests.gateway.fake_engine import Behaviour, FakeEngine, Fault

COMPLETIONS = "/v1/completions"
CTRL_C, CTRL_D = "\x03", "\x04"


async def test_an_answer_goes_to_standard_output_and_nothing_else(start_gateway: StartGateway, tmp_path: Path) -> None:
    async with FakeEngine(tokens=3) as engine, start_gateway(engine.url) as running:
        done = await forebay(tmp_path, "generate", "hello", "--url", running.url, "--preset", "code_generation")
        assert (done.status, done.out, done.err) == (0, " t0 t1 t2\n", "")
        streamed = await forebay(tmp_path, "generate", "--stream", stdin=b"hello\n", FOREBAY_URL=running.url + "/v1/")
        assert (streamed.status, streamed.out) == (0, " t0 t1 t2\n")
        first, second = engine.calls(CHAT)
        assert (first.body["temperature"], first.body["top_p"]) == (0.2, 0.95)
        assert first.body["messages"] == [{"role": "user", "content": "hello"}]
        assert second.body["messages"] == [{"role": "user", "content": "hello\n"}]
        assert "temperature" not in second.body, "the model's own values hold where nothing was said"


async def test_an_answer_as_json_has_its_figures(start_gateway: StartGateway, tmp_path: Path) -> None:
    async with FakeEngine(tokens=3) as engine, start_gateway(engine.url) as running:
        words = ("generate", "a b", "--url", running.url, "--json", "--raw", "--max-tokens", "2", "--stop", "x")
        told = json.loads((await within(tmp_path, *words)).out)
        assert (told["text"], told["finish_reason"], told["completion_tokens"]) == (" t0 t1", "length", 2)
        assert (told["model"], told["prompt_tokens"]) == ("fake-model", 2)
        assert 0 < told["time_to_first_token_s"] <= told["duration_s"]
        (asked,) = engine.calls(COMPLETIONS)
        assert (asked.body["prompt"], asked.body["stop"], asked.body["max_tokens"]) == ("a b", ["x"], 2)
        lines = (await within(tmp_path, *words, "--stream")).out.splitlines()
        assert [json.loads(line) for line in lines[:2]] == [{"delta": " t0"}, {"delta": " t1"}]
        assert json.loads(lines[2])["text"] == " t0 t1"


async def test_no_answer_is_one_line_and_status_1(start_gateway: StartGateway, tmp_path: Path) -> None:
    async with FakeEngine(tokens=3) as engine, start_gateway(engine.url) as running:
        for words, env, told in [
            (("--url", running.url), {"FOREBAY_API_KEY": "sk-other"}, "set FOREBAY_API_KEY"),
            (("--url", running.url, "--model", "nope"), {}, "nope"),
            (("--url", "http://127.0.0.1:1"), {}, "Connection refused; is a gateway running there?"),
            (("--url", "http://no-such-host.invalid"), {}, "is a gateway running there?"),
        ]:
            done = await within(tmp_path, "generate", "hello", *words, **env)
            assert (done.status, done.out) == (1, "")
            assert told in done.err
            assert len(done.err.splitlines()) == 1


async def test_half_an_answer_is_a_failure(tmp_path: Path) -> None:
    async with FakeEngine(tokens=3) as engine:
        engine.script(Behaviour(faults=[Fault("token", "close", after=2)]))
        done = await within(tmp_path, "generate", "hello", "--url", engine.url, "--stream")
        assert (done.status, done.out) == (1, " t0 t1\n")
        engine.script(Behaviour(faults=[Fault("token", "finish", after=2)]))
        assert "cut off" in (await within(tmp_path, "generate", "hello", "--url", engine.url)).err
        engine.script(Behaviour(error_after=1))
        assert "the answer failed: " in (await within(tmp_path, "generate", "hello", "--url", engine.url)).err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("generate", " "), "prompt: is empty"),
        (("generate", "x", "--url", "ftp://x"), "url: not http://host:port"),
        (("generate", "x", "--url", "http://u:p@x"), "url: not http://host:port"),
        (("generate", "x", "--url", "http://x:99999"), "url: "),
        (("generate", "x", "--key-file", "/no/such"), "key-file: /no/such cannot be read"),
        (("bench", "latency", "http://127.0.0.1:1", "--key-file", "/no/such"), "key-file: /no/such cannot be read"),
        (("generate", "x", "--raw", "--system", "y"), "system: --raw"),
        (("generate", "x", "--preset", "warm"), "code_generation"),
        (("chat", "--load", "/no/such"), "/no/such: No such file"),
    ],
)
async def test_a_wrong_option_is_status_2(words: tuple[str, ...], told: str, tmp_path: Path) -> None:
    async with FakeEngine() as engine:
        done = await within(tmp_path, *words, FOREBAY_URL=engine.url)
    assert done.status == 2
    assert told in done.err
    assert "Traceback" not in done.err


async def test_a_key_is_read_from_a_file(start_gateway: StartGateway, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sk-test\n")
    async with FakeEngine(tokens=1) as engine, start_gateway(engine.url) as running:
        words = ("generate", "x", "--url", running.url, "--key-file", "key")
        assert (await within(tmp_path, *words, FOREBAY_API_KEY="")).status == 0


def test_a_gateways_own_keys_are_for_a_gateway_on_this_machine_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FOREBAY_API_KEY", raising=False)
    monkeypatch.setenv("API_KEYS", "sk-a,sk-b")
    assert caller("http://127.0.0.1:8000", None).key == "sk-a"
    assert caller("localhost:8000", None).key == "sk-a"
    assert caller("http://gateway.example.com", None).key is None
    assert caller("http://127.0.0.1.example.com", None).key is None


async def test_a_redirect_does_not_get_the_key(tmp_path: Path) -> None:
    async with FakeEngine() as elsewhere, FakeEngine() as engine:
        location = ("location", f"{elsewhere.url}/v1/models")
        engine.on("/v1/models", Behaviour(status=302, body="", headers=[location]))
        done = await within(tmp_path, "generate", "x", "--url", engine.url)
    assert (done.status, elsewhere.requests) == (1, [])
    assert "answered with status 302" in done.err


@pytest.mark.parametrize("key", ["sk\nx", "sk x", "schlüssel"])
def test_a_key_that_no_header_takes_is_refused(key: str) -> None:
    with pytest.raises(NotAsked):
        Caller.of("http://x", key, 1)


async def test_a_silent_gateway_is_given_up(tmp_path: Path) -> None:
    async with FakeEngine() as engine:
        engine.script(Behaviour(faults=[Fault("token", "hang", after=1)]))
        done = await within(tmp_path, "generate", "x", "--url", engine.url, "--timeout", "0.3")
        assert (done.status, "says nothing for 0.3 s" in done.err) == (1, True)
        await engine.wait_for(lambda e: e.running == 0)


def test_who_is_no_gateway_is_told_in_one_line() -> None:
    with pytest.raises(NoAnswer, match="is a gateway running there"):
        Caller.of("127.0.0.1:1", None, 1).models()


# Chat


async def test_through_a_pipe_each_line_is_a_question_with_what_went_before(
    start_gateway: StartGateway, tmp_path: Path
) -> None:
    typed = b'one\n/preset deterministic\n"""two\nlines"""\n\n/save talk.json\n/clear\n/system Be brief.\nthree\n'
    async with FakeEngine(tokens=2) as engine, start_gateway(engine.url) as running:
        done = await forebay(tmp_path, "chat", "--url", running.url, "--max-tokens", "2", stdin=typed)
        assert (done.status, done.out) == (0, " t0 t1\n" * 3), done.err
        bodies = [call.body for call in engine.calls(CHAT)]
        words = [[message["content"] for message in body["messages"]] for body in bodies]
        assert words == [["one"], ["one", " t0 t1", "two\nlines"], ["Be brief.", "three"]]
        assert [body.get("temperature") for body in bodies] == [None, 0.0, 0.0]
        saved = json.loads((tmp_path / "talk.json").read_text())
        assert [message["content"] for message in saved["messages"]] == words[1] + [" t0 t1"]
        again = await forebay(tmp_path, "chat", "--url", running.url, "--load", "talk.json", "--stats", stdin=b"four")
        assert len(engine.calls(CHAT)[-1].body["messages"]) == 5
        assert "2 tokens · first after" in again.err


async def test_a_question_that_fails_is_status_1_and_not_in_the_history(
    start_gateway: StartGateway, tmp_path: Path
) -> None:
    async with FakeEngine(tokens=1) as engine, start_gateway(engine.url) as running:
        engine.script(Behaviour(status=400))
        done = await within(tmp_path, "chat", "--url", running.url, stdin=b"one\ntwo\n\xff\n/nope\n")
        assert (done.status, done.out) == (1, " t0\n" * 2)
        assert "no command /nope" in done.err
        messages = engine.calls(CHAT)[-1].body["messages"]
        assert [message["content"] for message in messages] == ["two", " t0", "\ufffd"]


async def test_ctrl_c_stops_the_answer_and_not_the_chat(start_gateway: StartGateway, tmp_path: Path) -> None:
    async with FakeEngine(tokens=1000) as engine, start_gateway(engine.url) as running:
        async with on_terminal(tmp_path, "chat", "--url", running.url) as terminal:
            await terminal.until("> ")
            engine.script(Behaviour(token_delay_s=0.02), Behaviour(tokens=2))
            terminal.type("one\r")
            at = await terminal.until(" t3")
            terminal.type(CTRL_C)
            at = await terminal.until("(stopped)", at)
            at = await terminal.until("> ", await terminal.until("tokens/s", at))
            await engine.wait_for(lambda e: e.running == 0)
            assert engine.calls(CHAT)[0].outcome == "aborted"
            at = await terminal.press_until(CTRL_C, "Ctrl-D leaves", at)
            terminal.type("two\r")
            at = await terminal.until("2 tokens", await terminal.until(" t0 t1", at))
            question, stopped, second = engine.calls(CHAT)[1].body["messages"]
            assert (question["content"], second["content"]) == ("one", "two")
            assert stopped["content"].startswith(" t0 t1 t2 t3")
            terminal.type("/stats\r")
            await terminal.until("> ", await terminal.until("answers: 2", at))
            terminal.type(CTRL_D)
            assert await terminal.status() == 0


async def test_a_terminal_does_not_get_what_a_model_makes_it_do(start_gateway: StartGateway, tmp_path: Path) -> None:
    event = b'data: {"choices":[{"index":0,"delta":{"content":"\\u001b]0;x\\u0007y"}}]}\n\n'
    async with FakeEngine(tokens=2) as engine, start_gateway(engine.url) as running:
        engine.default = Behaviour(insert={1: event})
        async with on_terminal(tmp_path, "generate", "x", "--url", running.url) as terminal:
            await terminal.until(" t0]0;xy t1")
            assert await terminal.status() == 0
        assert (await forebay(tmp_path, "generate", "x", "--url", running.url)).out == " t0\x1b]0;x\x07y t1\n"
