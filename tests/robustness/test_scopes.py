"""D7: what a key opens, for every route, every way to name a model, every scope; and that no way leads around it."""

from time import time
from typing import Any

import jwt
import pytest
from pydantic import SecretStr

from forebay.gateway.routes import ROUTES
from tests.gateway.calls import error_of
from tests.gateway.conftest import Running, StartGateway
from tests.gateway.fake_engine import MONITORING, FakeEngine
from tests.gateway.raw_client import Response, fetch

SECRET = "0123456789abcdef0123456789abcdef"
MESSAGES = [{"role": "user", "content": "hello"}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": MESSAGES},
    "/v1/completions": {"prompt": "hello"},
    "/v1/embeddings": {"input": "hello"},
    "/v1/responses": {"input": "hello"},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 4},
    "/v1/messages/count_tokens": {"messages": MESSAGES},
    "/tokenize": {"prompt": "hello"},
    "/detokenize": {"tokens": [1]},
    "/generate": {"prompt": "hello"},
    "/generate/cached": {"prompt": "hello"},
    "/generate/batch": {"prompts": ["hello"]},
    "/batch_generate": {"prompts": ["hello"]},
}
NAMES = {"fake-model": "fake-model", "alias": "fake-model", "other-model": "other-model", "twin": "other-model"}
SETTINGS: dict[str, Any] = {
    "secret_key": SecretStr(SECRET),
    "model_aliases": {"alias": "fake-model", "twin": "other-model"},
    "admin_keys": ("sk-admin",),
}
MODELS = ([], ["fake-model"], ["alias"], ["twin"], ["fake-model", "other-model"], ["FAKE-MODEL"], ["fake"], ["*"])


def token(**claims: Any) -> str:
    return jwt.encode({"sub": "acme", "exp": time() + 600, **claims}, SECRET, "HS256")


async def ask(running: Running, path: str, model: str | None, key: str) -> Response:
    named = {} if model is None else {"model": model}
    return await fetch(running.url, "POST", path, {**named, **BODIES[path]}, authorization=f"Bearer {key}")


def told(answer: Response) -> tuple[int, str]:
    """The status and an error's message; of a batch of one, those of the one."""
    body = answer.json()
    if answer.status == 200 and body.get("failed"):
        error = body["results"][0]["error"]
        return (404 if error["code"] == "model_not_found" else 500), error["message"]
    return answer.status, "" if answer.status == 200 else body["error"]["message"]


def test_every_relayed_route_is_in_the_table() -> None:
    """A route that is added shows here."""
    assert {route.path.decode() for route in ROUTES if route.response_id is None and b"{" not in route.path} <= set(
        BODIES
    )


@pytest.mark.parametrize("allowed", MODELS, ids=",".join)
async def test_a_key_uses_the_models_it_may_by_any_of_their_names_on_every_route_and_no_other(
    start_gateway: StartGateway, allowed: list[str]
) -> None:
    """A model that a key may not use is as unknown to it as one that there is not, whichever way it is named."""
    key = token(models=allowed) if allowed else token()
    async with FakeEngine(models=("fake-model", "other-model")) as engine:
        async with start_gateway(engine.url, **SETTINGS) as running:
            for path in BODIES:
                for name, model in NAMES.items():
                    for asked in (name, f"{name}:deterministic"):
                        may = not allowed or name in allowed or model in allowed
                        before = len(engine.calls(path)) + len(engine.calls("/v1/completions"))
                        status, words = told(await ask(running, path, asked, key))
                        assert status == (200 if may else 404), (path, asked)
                        if not may:
                            unknown = told(await ask(running, path, "no-such-model", key))
                            assert (status, words.replace(asked, "no-such-model")) == unknown, path
                            assert len(engine.calls(path)) + len(engine.calls("/v1/completions")) == before
            cards = (await fetch(running.url, "GET", "/v1/models", None, authorization=f"Bearer {key}")).json()["data"]
            listed = {card["id"] for card in cards}
            assert {name for name in NAMES if name in listed} == {
                name for name, model in NAMES.items() if not allowed or name in allowed or model in allowed
            }


@pytest.mark.parametrize("scopes", [["metrics"], ["admin"], ["metrics", "admin"]])
async def test_without_the_scope_for_inference_no_route_reaches_an_engine(
    start_gateway: StartGateway, scopes: list[str]
) -> None:
    async with (
        FakeEngine(models=("fake-model", "other-model")) as engine,
        start_gateway(engine.url, **SETTINGS) as running,
    ):
        for key in (token(scopes=scopes), *(["sk-admin"] if scopes == ["admin"] else [])):
            for path in BODIES:
                refused = await ask(running, path, "fake-model", key)
                assert refused.status == 403, path
            for path in ("/v1/models", "/v1/files", "/v1/batches", "/v1/conversations", "/model_info?model=fake-model"):
                answer = await fetch(running.url, "GET", path, None, authorization=f"Bearer {key}")
                assert (answer.status, error_of(answer)["code"]) == (403, "missing_scope"), path
        assert {record.path for record in engine.requests} <= set(MONITORING)


@pytest.mark.parametrize("path", ["/generate", "/generate/stream", "/generate/cached"])
async def test_a_model_that_was_not_named_is_not_told_to_a_key_that_may_not_use_it(
    path: str, start_gateway: StartGateway
) -> None:
    async with FakeEngine(models=("secret-model",)) as engine, start_gateway(engine.url, **SETTINGS) as running:
        key = token(models=["another-model"])
        refused = await fetch(running.url, "POST", path, {"prompt": "x"}, authorization=f"Bearer {key}")
        assert (refused.status, error_of(refused)["code"]) == (404, "model_not_found")
        assert b"secret" not in refused.body
