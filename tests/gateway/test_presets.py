"""Presets by a field, behind a model's name and in a header; the engine sees values and no name."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import openai
import pytest

from forebay.config.settings import Settings
from forebay.config.sources import Loader, load_settings
from forebay.gateway.reloading import Reloading
from tests.gateway.calls import AUTH, CHAT, MESSAGES, chat, chat_body, error_of
from tests.gateway.conftest import KEY, Running, StartGateway
from tests.gateway.fake_engine import FakeEngine
from tests.gateway.raw_client import fetch

PRESETS = {"terse": {"temperature": 0.3, "presence_penalty": 1.0}}


def seen(engine: FakeEngine, path: str = CHAT) -> dict[str, Any]:
    """What the engine was asked last, of what a preset may say."""
    body: dict[str, Any] = engine.calls(path)[-1].body
    assert "preset" not in body
    return {name: body[name] for name in ("model", "temperature", "top_p", "presence_penalty") if name in body}


async def test_a_preset_by_field_model_or_header_is_filled_in(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, presets=PRESETS) as running:
        assert (await chat(running.url, preset="balanced")).status == 200
        assert seen(engine) == {"model": "fake-model", "temperature": 0.7, "top_p": 0.9}
        assert (await chat(running.url, model="fake-model:creative")).status == 200
        assert seen(engine) == {"model": "fake-model", "temperature": 1.0, "top_p": 0.95}
        headers = {**AUTH, "x-forebay-preset": "terse"}
        assert (await fetch(running.url, "POST", CHAT, chat_body(), **headers)).status == 200
        assert seen(engine) == {"model": "fake-model", "temperature": 0.3, "presence_penalty": 1.0}
        body = {"model": "fake-model:terse", "prompt": "hi", "stream": True}
        assert (await fetch(running.url, "POST", "/v1/completions", body, **AUTH)).status == 200
        assert seen(engine, "/v1/completions")["temperature"] == 0.3


async def test_the_request_wins_over_its_preset_and_the_field_over_name_and_header(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        await chat(running.url, preset="balanced", temperature=1.5)
        assert seen(engine) == {"model": "fake-model", "temperature": 1.5, "top_p": 0.9}
        headers = {**AUTH, "x-forebay-preset": "deterministic"}
        body = chat_body(model="fake-model:creative", preset="balanced")
        assert (await fetch(running.url, "POST", CHAT, body, **headers)).status == 200
        assert seen(engine) == {"model": "fake-model", "temperature": 0.7, "top_p": 0.9}
        assert (await fetch(running.url, "POST", CHAT, {**body, "preset": None}, **headers)).status == 200
        assert seen(engine)["temperature"] == 1.0


async def test_without_a_preset_a_body_is_sent_as_it_came(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        body = b'{"model":"fake-model", "max_tokens": 1,"messages":[{"role":"user","content":"x"}]}'
        assert (await fetch(running.url, "POST", CHAT, body, **AUTH)).status == 200
        assert engine.calls(CHAT)[-1].raw_body == body


@pytest.mark.parametrize(
    ("body", "header"),
    [({"preset": "nope"}, {}), ({"model": "fake-model:nope"}, {}), ({}, {"x-forebay-preset": "nope"})],
)
async def test_an_unknown_preset_is_refused_and_the_known_are_named(
    start_gateway: StartGateway, body: dict[str, Any], header: dict[str, str]
) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, presets=PRESETS) as running:
        refused = await fetch(running.url, "POST", CHAT, chat_body(**body), **AUTH, **header)
        assert (refused.status, error_of(refused)["param"]) == (400, "preset")
        assert "deterministic" in error_of(refused)["message"]
        assert "terse" in error_of(refused)["message"]
        assert not engine.calls(CHAT)


@pytest.mark.parametrize("value", [5, ["chat"], {"name": "chat"}])
async def test_a_preset_is_a_text(start_gateway: StartGateway, value: Any) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        refused = await chat(running.url, preset=value)
        assert (refused.status, error_of(refused)["param"]) == (400, "preset")


async def test_exact_names_go_before_presets_and_others_with_a_colon_are_unknown(start_gateway: StartGateway) -> None:
    models: Sequence[str] = ("base", "base:chat", "lora:v1")
    aliases = {"gpt:creative": "base"}
    async with FakeEngine(models=models) as engine, start_gateway(engine.url, model_aliases=aliases) as running:
        for name, model in (("base:chat", "base:chat"), ("lora:v1", "lora:v1"), ("gpt:creative", "base")):
            assert (await chat(running.url, model=name)).status == 200
            assert seen(engine) == {"model": model}
        assert (await chat(running.url, model="lora:v1:chat")).status == 200
        assert seen(engine) == {"model": "lora:v1", "temperature": 0.7, "top_p": 0.95}
        for name in ("other:chat", "other:nope", ":chat", "base:"):
            refused = await chat(running.url, model=name)
            assert (refused.status, error_of(refused)["code"]) == (404, "model_not_found")


async def test_an_alias_takes_a_preset_too_and_a_model_goes_by_the_engines_name(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, model_aliases={"gpt": "*"}) as running:
        assert (await chat(running.url, model="gpt:balanced")).status == 200
        assert seen(engine) == {"model": "fake-model", "temperature": 0.7, "top_p": 0.9}
        counted = await fetch(running.url, "POST", "/tokenize", {"model": "gpt:chat", "prompt": "x"}, **AUTH)
        assert counted.status == 200
        assert seen(engine, "/tokenize") == {"model": "fake-model"}


async def test_other_dialects_get_the_fields_that_they_have(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, presets=PRESETS) as running:
        said = {"model": "fake-model:terse", "max_tokens": 2, "messages": MESSAGES}
        assert (await fetch(running.url, "POST", "/v1/messages", said, **AUTH)).status == 200
        assert seen(engine, "/v1/messages") == {"model": "fake-model", "temperature": 0.3}
        body = {"model": "fake-model", "input": "x"}
        answer = await fetch(running.url, "POST", "/v1/embeddings", body, **AUTH, **{"x-forebay-preset": "terse"})
        assert answer.status == 200
        assert seen(engine, "/v1/embeddings") == {"model": "fake-model"}


async def test_the_cache_knows_a_request_with_its_preset(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, cache_models=("*",)) as running:
        states = [
            (await chat(running.url, **fields)).header("x-forebay-cache")
            for fields in (
                {"preset": "deterministic"},
                {"model": "fake-model:deterministic"},
                {"temperature": 0.0, "top_p": 1.0},
                {"preset": "creative"},
            )
        ]
        assert states == ["miss", "hit", "hit", "bypass"]
        assert len(engine.calls(CHAT)) == 2


async def test_the_official_client_can_name_one(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        async with openai.AsyncOpenAI(base_url=f"{running.url}/v1", api_key=KEY, max_retries=0) as client:
            await client.chat.completions.create(
                model="fake-model:chat",
                messages=[{"role": "user", "content": "x"}],
                temperature=0.1,
                extra_body={"preset": "deterministic"},
            )
        assert seen(engine) == {"model": "fake-model", "temperature": 0.1, "top_p": 1.0}


async def test_presets_are_followed_as_the_settings_change(start_gateway: StartGateway, tmp_path: Path) -> None:
    file = tmp_path / "forebay.toml"
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        assert (await chat(running.url, preset="terse")).status == 400
        await _reload(running, file, "[presets.terse]\ntemperature = 0.3\n")
        assert (await chat(running.url, preset="terse")).status == 200
        assert seen(engine)["temperature"] == 0.3


async def _reload(running: Running, file: Path, text: str) -> None:
    def load() -> Settings:
        now = running.gateway.settings
        flags = {name: getattr(now, name) for name in now.model_fields_set}
        return load_settings(flags, env={}, file=file)[0]

    await asyncio.to_thread(file.write_text, text)
    assert await Reloading(running.gateway, Loader(load, file)).reload()
