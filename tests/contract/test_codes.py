"""No error code is sent, nor logged, that the reference does not list."""

import ast
from collections.abc import Iterator
from pathlib import Path

import forebay
from forebay import refusals
from forebay.generate.errors_reference import FOOTER, rows
from forebay.refusals import Refusal

SOURCE = Path(forebay.__file__).parent


def nodes() -> Iterator[tuple[str, ast.AST]]:
    """Everything in every source file but the refusals themselves, and the client, which says what servers told it."""
    for path in SOURCE.rglob("*.py"):
        if path.name != "refusals.py" and not path.is_relative_to(SOURCE / "client"):
            yield from ((path.name, node) for node in ast.walk(ast.parse(path.read_text())))


def class_called(call: ast.Call) -> type | None:
    """The refusal that a call makes, where it names one."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    return getattr(refusals, name, None)


def test_a_code_given_to_a_refusal_is_one_that_its_class_declares() -> None:
    seen = set()
    for file, node in nodes():
        for code in [word.value for word in getattr(node, "keywords", []) if word.arg == "code"]:
            assert isinstance(node, ast.Call)
            kind = class_called(node)
            assert kind is not None, f"{file}:{node.lineno} gives a code to what is no refusal by name"
            assert issubclass(kind, Refusal)
            assert isinstance(code, ast.Constant), f"{file}:{node.lineno} gives a code that cannot be told beforehand"
            assert code.value in vars(kind).get("also", {}), f"{file}:{node.lineno} {kind.__name__} has no {code.value}"
            seen.add(code.value)
    assert seen == {code for _, code, kind, _ in rows() if code in kind.also}, "declared, and never sent"


def test_a_refusal_is_never_changed_into_another() -> None:
    for file, node in nodes():
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in targets:
            if isinstance(target, ast.Attribute) and ast.unparse(target.value) != "self":
                assert target.attr not in ("code", "status"), f"{file}:{target.lineno} sets {target.attr}"


def test_refusals_are_declared_in_one_file() -> None:
    for _, code, kind, meaning in rows():
        assert kind.__module__ == "forebay.refusals"
        assert code
        assert meaning


def test_what_is_logged_as_an_error_is_a_refusals_code_or_named_in_the_reference() -> None:
    logged = [
        node.value.value
        for _, node in nodes()
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Attribute)
        and node.targets[0].attr == "error_code"
        and isinstance(node.value, ast.Constant)
        and node.value.value
    ]
    assert logged
    assert all(f"`{code}`" in FOOTER for code in logged)


def test_an_empty_code_is_the_class_own() -> None:
    assert refusals.NotFound("x").code == "not_found"
    assert refusals.NotFound("x", code="response_not_found").code == "response_not_found"
