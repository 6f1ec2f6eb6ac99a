"""What of vLLM's output is ours to tell: everything but prompts and answers."""

import logging

import pytest

from forebay.engines.output import WITHHELD, Output, Said

AT = "11-21 15:00:00"
CANARY = "canary-2b8c"


@pytest.mark.parametrize(
    ("raw", "message", "level"),
    [
        (f"INFO {AT} [core.py:12] ready", "[core.py:12] ready", logging.INFO),
        (f"(EngineCore pid=7) ERROR {AT} [core.py:12] failed", "[core.py:12] failed", logging.ERROR),
        ("\x1b[32mplain\x1b[0m\r", "plain", None),
        (f"INFO {AT} [x.py:1] Received requests: 5", "[x.py:1] Received requests: 5", logging.INFO),
    ],
)
def test_a_line_is_told_with_its_level(raw: str, message: str, level: int | None) -> None:
    assert Output().read(raw.encode()) == Said(message, level)


def test_nothing_is_told_of_an_empty_line() -> None:
    assert Output().read(b"\x1b[0m \r") is None


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        (f"Request chatcmpl-1 details: prompt: '{CANARY}', prompt_token_ids: [1]", "Request chatcmpl-1 details:"),
        (f"Received request cmpl-1-0: params: stop=['{CANARY}'], lora_request: None.", "Received request cmpl-1-0:"),
        (f'Request x JSON body: {{"messages": "{CANARY}"}}', "Request x JSON body:"),
        (f"Generated response x (streaming complete): output: '{CANARY}'", "Generated response x"),
        (f"Generated response x: output: '{CANARY}'", "Generated response x:"),
        (f"Input prompt: {CANARY}", "Input prompt:"),
    ],
)
@pytest.mark.parametrize("process", ["", "(APIServer pid=9) "])
def test_prompts_and_answers_are_left_out(said: str, kept: str, process: str) -> None:
    for place in ("[request_logger.py:56] ", "[entrypoints/logger.py:5] "):
        told = Output().read(f"{process}INFO {AT} {place}{said}".encode())
        assert told == Said(f"{place}{kept} {WITHHELD}", logging.INFO)


def test_the_lines_that_go_on_with_a_prompt_are_left_out_and_the_next_message_is_told() -> None:
    output, beginning = Output(), f"DEBUG {AT} [chat_utils.py:1607] "
    assert output.read(f"{beginning}Input prompt: one".encode()) is not None
    assert output.read(f"{beginning}{CANARY}\r".encode()) is None
    assert output.read(f"{beginning}{CANARY} again".encode()) is None
    assert output.read(f"INFO {AT} [core.py:1] done".encode()) == Said("[core.py:1] done", logging.INFO)
    assert output.read(f"{beginning}something else".encode()) is not None
