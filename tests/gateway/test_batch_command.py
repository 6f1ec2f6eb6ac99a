"""`forebay batch run` against a gateway: what is finished stays finished, whatever happens to the command."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from tests.gateway.calls import CHAT, MESSAGES
from tests.gateway.command import FOREBAY, within
from tests.gateway.conftest import StartGateway
from tests.gateway.fake_engine import Behaviour, FakeEngine

LINES = 200


def asked(number: int, content: str = "hello") -> dict[str, Any]:
    messages = MESSAGES if content == "hello" else [{"role": "user", "content": content}]
    body = {"model": "fake-model", "messages": messages, "max_tokens": 1 + number % 5}
    return {"custom_id": f"line-{number}", "method": "POST", "url": CHAT, "body": body}


def write(path: Path, *lines: Any) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def names(path: Path) -> list[str]:
    return [json.loads(line)["custom_id"] for line in path.read_text().splitlines()]


@asynccontextmanager
async def command(source: Path, output: Path, url: str, *more: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(FOREBAY, "batch", "run", str(source), "-o", str(output), "--url", url, *more),
        env={**os.environ, "FOREBAY_API_KEY": "sk-test"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def told(source: Path, output: Path, url: str, *more: str) -> tuple[int | None, str, str]:
    """Run it to its end: status, standard output and standard error."""
    async with command(source, output, url, *more) as process:
        async with asyncio.timeout(60):
            printed, errors = await process.communicate()
    return process.returncode, printed.decode(), errors.decode()


async def test_a_command_that_is_ended_midway_goes_on_where_it_was(tmp_path: Path, start_gateway: StartGateway) -> None:
    """Interrupted, then killed within a line, then run to the end."""
    source, output = write(tmp_path / "in.jsonl", *map(asked, range(LINES))), tmp_path / "out.jsonl"
    async with FakeEngine(token_delay_s=0.02) as engine, start_gateway(engine.url) as running:
        for sig, status in ((signal.SIGINT, 130), (signal.SIGKILL, -9)):
            before = len(names(output)) if output.exists() else 0
            async with command(source, output, running.url, "--concurrency", "8") as process:
                while not output.exists() or output.read_text().count("\n") < before + 20:
                    await asyncio.sleep(0.01)
                process.send_signal(sig)
                assert await process.wait() == status
        assert len(names(output)) < LINES
        with output.open("a") as file:
            file.write('{"custom_id": "line-199", "resp')
        status, printed, _ = await told(source, output, running.url, "--json")
        summary = json.loads(printed)
        assert (status, summary["lines"], summary["failed"]) == (0, LINES, 0)
        assert summary["skipped"] + summary["completed"] == LINES
        assert sorted(names(output)) == sorted(f"line-{number}" for number in range(LINES))
        assert len(engine.calls(CHAT)) <= LINES + 2 * 8
        assert (await told(source, output, running.url))[1].startswith(f"forebay: 0 answered, {LINES} were there;")


async def test_lines_that_fail_are_beside_the_others_and_asked_again(
    tmp_path: Path, start_gateway: StartGateway
) -> None:
    source, output = write(tmp_path / "in.jsonl", asked(0), asked(1, "wrong"), asked(2)), tmp_path / "out.jsonl"
    errors = tmp_path / "out.errors.jsonl"
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        engine.on(CHAT, lambda record: Behaviour(status=400 if "wrong" in str(record.body) else 200))
        status, printed, _ = await told(source, output, running.url)
        assert (status, sorted(names(output)), names(errors)) == (1, ["line-0", "line-2"], ["line-1"])
        assert "2 answered, 1 failed" in printed
        engine.on(CHAT, None)
        assert (await told(source, output, running.url, "--model", "fake-model"))[0] == 0
        assert sorted(names(output)) == ["line-0", "line-1", "line-2"]
        assert not errors.exists()


async def test_a_key_that_may_not_ask_ends_it_at_once(tmp_path: Path, start_gateway: StartGateway) -> None:
    source, output = write(tmp_path / "in.jsonl", asked(0)), tmp_path / "out.jsonl"
    async with FakeEngine() as engine, start_gateway(engine.url, api_keys=("sk-other",)) as running:
        status, _, errors = await told(source, output, running.url)
        assert status == 2
        assert "401" in errors
        assert "Traceback" not in errors
        status, _, errors = await told(source, output, running.url, "--key-from-env", "NO_SUCH_VARIABLE")
        assert (status, "NO_SUCH_VARIABLE is not set" in errors) == (2, True)


async def test_a_file_that_is_wrong_is_told_before_anything_is_asked(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    source = write(tmp_path / "in.jsonl", asked(0), asked(0), {"custom_id": "x"})
    status, _, errors = await told(source, output, "http://127.0.0.1:9")
    assert status == 2
    assert f"{source}:2: Another line has this custom_id." in errors
    assert f"{source}:3: " in errors
    assert not output.exists()
    write(source, asked(0))
    output.write_text("not what a batch wrote\n")
    status, _, errors = await told(source, output, "http://127.0.0.1:9")
    assert (status, "name another output" in errors) == (2, True)
    assert (await told(tmp_path / "none", output, "http://127.0.0.1:9"))[0] == 2
    assert (await told(source, output, "127.0.0.1:9"))[0] == 2


async def test_the_requests_are_no_output(tmp_path: Path) -> None:
    """Their last line, which has no end, would be taken for an answer that was cut short."""
    source = tmp_path / "in.jsonl"
    source.write_text(json.dumps(asked(0)))
    done = await within(tmp_path, "batch", "run", str(source), "-o", str(source))
    assert (done.status, "name another output" in done.err) == (2, True)
    assert source.read_text() == json.dumps(asked(0))


async def test_a_gateway_that_is_not_there_ends_it_at_once(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", asked(0))
    words = ("batch", "run", str(source), "-o", str(tmp_path / "out.jsonl"), "--url", "http://127.0.0.1:9")
    done = await within(tmp_path, *words)
    assert (done.status, done.err.count("is a gateway running there?")) == (2, 1)
    assert len(done.err.splitlines()) == 1
