"""What callers and operators meet is in its reference, and what the documents tell them to type exists."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.exceptions import Exit, TyperException

import forebay
from forebay.api.agent import make_app as make_agent_app
from forebay.config.settings import Settings
from forebay.config.sources import environment_names
from forebay.gateway.app import make_app
from forebay.gateway.build import Gateway
from forebay.gateway.routes import ROUTES
from forebay.generate.cli_reference import commands
from forebay.generate.errors_reference import rows
from forebay.sampling import Preset, values
from forebay.telemetry.catalogue import CATALOGUE
from forebay.telemetry.logging import LogWriter

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md"))
SOURCES = tuple(Path(forebay.__file__).parent.rglob("*.py"))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home that is thrown away: some options do their work as they are parsed, as --install-completion does."""
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def reference(name: str) -> str:
    return (ROOT / "docs" / "reference" / f"{name}.md").read_text()


def test_every_setting_and_its_variables_are_in_the_reference() -> None:
    lines = reference("settings").splitlines()
    for name, field in Settings.model_fields.items():
        (line,) = [line for line in lines if line.startswith(f"| `{name}` |")]
        assert all(f"`{variable}`" in line for variable in environment_names(name, field))
        assert line.split(" | ")[1].strip(), f"{name} has no type"


def test_every_metric_is_in_the_reference() -> None:
    text = reference("metrics")
    for metric in CATALOGUE:
        assert f"| `{metric.name}` | {metric.kind} |" in text


def test_every_error_code_is_in_the_reference() -> None:
    text = reference("errors")
    for status, code, kind, _ in rows():
        assert f"| {status} | `{code}` | `{kind.type}` |" in text


def test_every_endpoint_is_in_the_reference() -> None:
    text = reference("endpoints")
    gateway = Gateway(Settings(), LogWriter(2, text=False), ())
    own = {*make_app(gateway).openapi()["paths"], *make_agent_app(gateway).openapi()["paths"]}
    assert len(own) == 38
    for path in own | {route.path.decode() for route in ROUTES}:
        assert f"`{path.replace(':path', '')}`" in text


def test_every_command_and_option_is_in_the_reference() -> None:
    for name, command in commands().items():
        section = reference("cli").partition(f"## {name}\n")[2].partition("\n## ")[0]
        for option in (parameter for parameter in command.params if parameter.param_type_name == "option"):
            assert f"`{option.opts[0]}`" in section, f"{name} {option.opts[0]}"
        assert section.strip(), f"{name} is not in it"


def test_every_preset_and_its_values_are_on_the_command_lines_page() -> None:
    text = (ROOT / "docs" / "command-line.md").read_text()
    for name in Preset:
        told = ", ".join(f"{field} {value:g}" for field, value in values(name).items())
        assert f"| `{name}` | {told} |" in text


# What is told to be typed


def code_in(page: Path) -> Iterator[str]:
    """The commands on a page: the lines of its blocks, joined where a backslash ends them, and code in a sentence."""
    text = page.read_text()
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    for block in blocks:
        yield from block.replace("\\\n", " ").splitlines()
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    yield from (" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose))


def words_after(program: str, line: str) -> list[str] | None:
    """The words of a command line after its program's name and any variables before that; None for another program."""
    if not re.match(rf"\s*(?:[A-Z_]+=\S+ )*{program}(?: |$)", line):
        return None
    words = shlex.split(line.replace("…", ""), comments=True)
    words = words[words.index(program) + 1 :]
    ends = [number for number, word in enumerate(words) if word in ("|", "&", "&&", ";", ">")]
    return words[: min(ends, default=len(words))]


def typed(program: str, pages: tuple[Path, ...]) -> list[tuple[str, list[str]]]:
    """Each command line of a program that the pages name, and its words."""
    found = [(f"{page.name}: {line.strip()}", words_after(program, line)) for page in pages for line in code_in(page)]
    return [(where, words) for where, words in found if words and "{" not in where]  # those that code completes


def wrong_with(words: list[str]) -> str | None:
    """What the parser of `forebay` has against a command line."""
    known = commands()
    length = next((length for length in (2, 1) if " ".join(["forebay", *words[:length]]) in known), 0)
    name, arguments = " ".join(["forebay", *words[:length]]), words[length:]
    command = known[name]
    if hasattr(command, "commands"):
        if not arguments and name != "forebay":
            return None  # a group of commands, which shows them
        if arguments and not arguments[0].startswith("-"):
            return f"no command {arguments[0]}"
    try:
        command.make_context(name, list(arguments))
    except (Exit, SystemExit):  # --help, --version, --install-completion
        return None
    except TyperException as refused:
        return str(refused)
    return None


def test_every_forebay_command_line_in_the_documents_is_one_that_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    found = typed("forebay", (*PAGES, *SOURCES))
    assert len(found) > 10
    for where, words in found:
        assert wrong_with(words) is None, where


def test_trying_a_command_line_leaves_what_is_at_home_alone(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("typer._completion_shared._get_shell_name", lambda: "bash")
    assert wrong_with(["--install-completion"]) is None
    assert (home / ".bashrc").exists()


@pytest.mark.parametrize(
    "line",
    ["forebay serv default", "forebay serve x --prot 1", "A=b forebay gateway --upstreams u", "forebay config chek"],
)
def test_a_command_line_that_it_does_not_take_is_noticed(line: str) -> None:
    words = words_after("forebay", line)
    assert words
    assert wrong_with(words)


def test_every_make_target_and_variable_in_the_documents_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    variables = set(re.findall(r"^(?:export )?([A-Z]+) [?:]=", makefile, re.MULTILINE))
    found = typed("make", (*PAGES, *SOURCES))
    assert len(found) > 5
    for where, words in found:
        for word in words:
            name, is_variable, _ = word.partition("=")
            assert name in (variables if is_variable else targets), where
