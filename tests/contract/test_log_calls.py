"""No log line can hold a prompt, an answer or a key, as the calls themselves say: messages are constant, and fields
have names that are no request's."""

import ast
from collections.abc import Iterator
from pathlib import Path

import forebay

ROOT = Path(forebay.__file__).parent
LEVELS = {"debug", "info", "warning", "error", "critical", "exception"}
RELAYED = "engines/process.py"  # vLLM's own lines, less what repeats a request: `engines/output.py`
NEVER = {
    "body",
    "messages",
    "prompt",
    "content",
    "text",
    "completion",
    "answer",
    "chunk",
    "event",
    "headers",
    "request",
}


def calls() -> Iterator[tuple[str, ast.Call]]:
    """Each call of a logger, and where it stands."""
    for path in ROOT.rglob("*.py"):
        name = path.relative_to(ROOT).as_posix()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                of = node.func.value
                if isinstance(of, ast.Name) and of.id in ("log", "logger") and node.func.attr in {*LEVELS, "log"}:
                    yield f"{name}:{node.lineno}", node


def is_constant(message: ast.expr) -> bool:
    """Whether it is a text that stands there, or one of several."""
    if isinstance(message, ast.IfExp):
        return is_constant(message.body) and is_constant(message.orelse)
    return isinstance(message, ast.Constant) and isinstance(message.value, str)


def test_there_are_calls_to_look_at() -> None:
    assert len(list(calls())) > 50


def test_a_message_is_a_constant_so_that_nothing_gets_into_it() -> None:
    odd = []
    for where, call in calls():
        assert isinstance(call.func, ast.Attribute)
        message = call.args[1 if call.func.attr == "log" else 0]
        if not (is_constant(message) or where.startswith(RELAYED)):
            odd.append(where)
        assert len(call.args) == (2 if call.func.attr == "log" else 1), f"{where}: use extra, not arguments"
    assert odd == []


def test_no_field_is_called_as_what_callers_send_or_are_sent() -> None:
    for where, call in calls():
        for keyword in call.keywords:
            for node in ast.walk(keyword.value):
                if isinstance(node, ast.Dict):
                    names = {key.value for key in node.keys if isinstance(key, ast.Constant)}
                    assert not names & NEVER, where
