"""What a command does not need it does not load, so that most of them start at once; and all of them are there."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from forebay.cli.main import COMMANDS, app, load

LIGHT = {"rollout", "plan", "models", "chat", "generate", "top", "doctor", "bench", "batch"}
HEAVY_MODULES = {"fastapi", "sqlalchemy", "redis", "uvicorn", "huggingface_hub", "forebay.config.settings"}


def loaded_by(code: str) -> set[str]:
    """What a new process has loaded after some code."""
    program = f"{code}\nimport json, sys; print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_the_list_of_commands_loads_no_command() -> None:
    loaded = loaded_by("from forebay.cli.main import app; app(['--help'], standalone_mode=False)")
    assert {name for name in loaded if name.startswith("forebay.")} == {"forebay.cli", "forebay.cli.main"}


def test_commands_that_call_a_gateway_or_look_at_this_machine_load_little() -> None:
    loaded = loaded_by(f"from forebay.cli.main import load\nfor name in {LIGHT}: load(name)")
    assert not loaded & HEAVY_MODULES
    assert "sqlalchemy" in loaded_by("from forebay.cli.main import load; load('db')"), "this would be noticed"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_that_is_listed_is_there(name: str) -> None:
    assert f" {name} " in CliRunner().invoke(app, ["--help"]).stdout
    assert load(name).name == name
    assert load(name).help


@pytest.mark.parametrize(
    ("words", "expected"),
    [("forebay do", ["doctor"]), ("forebay models ver", ["verify"]), ("forebay generate --pres", ["--preset"])],
)
def test_a_shell_completes_commands_and_their_options(words: str, expected: list[str]) -> None:
    env = {"_FOREBAY_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    done = CliRunner().invoke(app, [], env=env, prog_name="forebay")
    assert done.stdout.split() == expected
