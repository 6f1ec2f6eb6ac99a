"""An engine's answers to `/v1/completions` with one prompt or several, as vLLM 0.32 numbers and counts them.

The text for a prompt says which prompt it was and with which temperature. A prompt with the word `bad` is refused, and
with it the whole request. `engine.default = ListAnswers()`.
"""

from typing import Any

from tests.gateway.fake_engine import Behaviour, Record

PATH = "/v1/completions"


def text_for(prompt: Any, temperature: float | None = None) -> str:
    return f" re:{prompt} at {temperature}"


def prompts_of(record: Record) -> list[Any]:
    """The prompts of a request, in their order."""
    prompt = record.body["prompt"]
    return [prompt] if isinstance(prompt, str) or (prompt and isinstance(prompt[0], int)) else prompt


class ListAnswers:
    """See the module's text; `behaviour` are more fields of each answer's `Behaviour`."""

    def __init__(self, **behaviour: Any) -> None:
        self.behaviour = behaviour
        self.answered: list[Any] = []  # the prompts, each as often as it was answered

    def __call__(self, record: Record) -> Behaviour:
        prompts, wanted = prompts_of(record), record.body
        if (bad := next((one for one in prompts if "bad" in str(one).split()), None)) is not None:
            error = {"message": f"{bad!r} cannot be read", "type": "BadRequestError", "param": None, "code": 400}
            return Behaviour(status=400, body={"error": error})
        self.answered += prompts
        several, tokens = wanted.get("n") or 1, wanted.get("max_tokens", 2)
        ids = wanted.get("return_token_ids") is True
        choices = [
            {
                "index": index * several + number,
                "text": text_for(prompt, wanted.get("temperature")),
                "finish_reason": "length",
                "token_ids": [7] * tokens if ids else None,
                "prompt_token_ids": [1] * len(str(prompt).split()) if ids else None,
            }
            for index, prompt in enumerate(prompts)
            for number in range(several)
        ]
        words = sum(len(str(prompt).split()) for prompt in prompts)
        usage = {"prompt_tokens": words, "completion_tokens": tokens * len(choices)}
        body = {"object": "text_completion", "choices": choices[::-1], "usage": usage}
        return Behaviour(body=body, **self.behaviour)
