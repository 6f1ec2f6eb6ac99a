"""`forebay generate`: one answer on standard output."""

import sys
from contextlib import closing
from typing import Annotated, Any

import typer

from forebay.cli.calling import DEFAULT_URL, TIMEOUT_S, KeyFile, Model, Timeout, Url, caller, first_model
from forebay.cli.chat import CHAT, MaxTokens, PresetOption, System, Temperature, TopP
from forebay.cli.options import EXIT_USAGE, AsJson, fail
from forebay.sampling import sampling

COMPLETIONS = "/v1/completions"


def generate(
    prompt: Annotated[str | None, typer.Argument(help="The prompt; `-`, or none, reads standard input.")] = None,
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    model: Model = None,
    system: System = None,
    preset: PresetOption = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    max_tokens: MaxTokens = None,
    stop: Annotated[list[str] | None, typer.Option(help="A text at which the answer ends; repeat.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Complete the prompt as it is, with no chat template.")] = False,
    stream: Annotated[bool, typer.Option("--stream", help="Print the answer as it comes.")] = False,
    as_json: AsJson = False,
    timeout_s: Timeout = TIMEOUT_S,
) -> None:
    """Print the answer to one prompt:

    forebay generate "What is the capital of France?" --preset deterministic

    git diff | forebay generate --system "Write a commit message." --json

    The key is taken from FOREBAY_API_KEY. Status 0: a whole answer; 1: none, or half of one; 2: wrong options. `--json`
    prints an object with text, figures and finish_reason; with `--stream`, a line for each piece before it.
    """
    from forebay.asking import NoAnswer
    from forebay.talk.once import print_answer
    from forebay.talk.screen import Screen, tolerate_bytes

    tolerate_bytes()
    if raw and system is not None:
        fail("system: --raw sends the prompt as it is; put the system message into it", EXIT_USAGE)
    asking, text = caller(url, key_file, timeout_s), _prompt(prompt)
    messages = [{"role": "system", "content": system}] if system is not None else []
    body: dict[str, Any] = (
        {"prompt": text} if raw else {"messages": [*messages, {"role": "user", "content": text}]}
    ) | sampling(preset, temperature=temperature, top_p=top_p, max_tokens=max_tokens)
    body |= {"stop": stop} if stop else {}
    body["stream_options"] = {"include_usage": True}
    try:
        body["model"] = first_model(asking, model)
        with closing(asking.events(COMPLETIONS if raw else CHAT, body)) as events:
            print_answer(events, Screen(), as_they_come=stream, as_json=as_json)
    except NoAnswer as failure:
        fail(str(failure))


def _prompt(given: str | None) -> str:
    if given is None and sys.stdin.isatty():
        fail('prompt: name one, as in `forebay generate "Hello"`, or pipe it in', EXIT_USAGE)
    text = sys.stdin.read() if given in (None, "-") else given
    if text is None or not text.strip():
        fail("prompt: is empty", EXIT_USAGE)
    return text
