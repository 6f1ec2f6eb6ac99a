"""What `forebay deploy render` makes, rendered by Helm and read by Docker Compose: processes that start from it have
the settings that were given."""

import json
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from forebay.config.settings import Settings
from forebay.deploy import toml_text
from forebay.planner.report import report
from tests.deploy.chart import Objects
from tests.deploy.test_compose import DOCKER_COMPOSE
from tests.gateway.command import within
from tests.unit.planner.asking import planned

GIVEN: dict[str, Any] = {
    "models": [
        {"model": "Qwen/Qwen2.5-0.5B-Instruct", "served_model_name": "small", "max_model_len": 4096},
        {"model": "org/large", "tensor_parallel_size": 2, "replicas": 2, "engine_args": ["--seed", "$7"]},
    ],
    "max_queue_size": 50,
    "routing": "least_outstanding",
    "engine_stall_s": 45.0,
    "drain_timeout_s": 30.0,
    "log_level": "debug",
    "cors_origins": ["https://a.example", "https://b.example"],
    "model_aliases": {"gpt-4": "small"},
    "prices": {"small": {"prompt": "0.5", "completion": "1.5"}},
    "presets": {"calm.v2": {"temperature": 0.1}},
    "warmup_prompts": ["It's a line: # no comment", "ünïcode"],
}
BOTH = ("engine_stall_s", "drain_timeout_s", "log_level")
OF_GATEWAYS = (*BOTH, "max_queue_size", "routing", "cors_origins", "presets", "model_aliases", "prices")
OF_ENGINES = (*BOTH, "warmup_prompts")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "forebay.toml").write_text(toml_text.dump(GIVEN))
    return Settings(**GIVEN)


def same(text: str, given: Settings, names: tuple[str, ...]) -> None:
    """A rendered file says of these what was given."""
    read = Settings(**{**tomllib.loads(text), "allow_anonymous": True})  # its keys come from elsewhere
    for name in names:
        assert getattr(read, name) == getattr(given, name), name


async def test_the_chart_gives_gateways_and_engines_the_settings_that_were_given(
    settings: Settings, tmp_path: Path
) -> None:
    done = await within(tmp_path, "deploy", "render", "--out", "values.yaml", API_KEYS="")
    assert done.status == 0, done.err
    made = Objects(yaml.safe_load((tmp_path / "values.yaml").read_text()))
    same(made.config("forebay.toml"), settings, OF_GATEWAYS)
    for name, one in zip(("small", "large"), settings.each_model(), strict=True):
        same(made.config(f"{name}.toml"), one, (*OF_ENGINES, "max_model_len", "tensor_parallel_size"))
    large = made.named("Deployment", "demo-large")["spec"]
    (container,) = large["template"]["spec"]["containers"]
    assert large["replicas"] == 2
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 2
    assert container["args"][-2:] == ["--seed", "$7"]


async def test_docker_compose_takes_the_files_and_processes_have_the_settings_that_were_given(
    settings: Settings, tmp_path: Path
) -> None:
    done = await within(tmp_path, "deploy", "render", "--target", "compose", "--out", "there", API_KEYS="")
    assert done.status == 0, done.err
    there = tmp_path / "there"
    same((there / "gateway.toml").read_text(), settings, OF_GATEWAYS)
    for name, one in zip(("small", "large"), settings.each_model(), strict=True):
        text = (there / f"{name}.toml").read_text()
        same(text, one, (*OF_ENGINES, "max_model_len", "tensor_parallel_size", "served_model_name"))
    (there / ".env").write_text((there / ".env").read_text().replace("=\n", "=sk-1\n"))
    project = compose_of(there)
    services = project["services"]
    assert services.keys() == {"gateway", "engine-small", "engine-large", "engine2-large"}
    assert services["engine-large"]["command"][-2:] == ["--seed", "$$7"]
    assert all(service["cap_drop"] == ["ALL"] for service in services.values())
    assert services["gateway"]["environment"]["FOREBAY_API_KEYS"] == "sk-1"


def compose_of(directory: Path) -> dict[str, Any]:
    """What Docker Compose makes of the files in a directory."""
    command = [DOCKER_COMPOSE, "--project-directory", str(directory), "config", "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=directory, env={"HOME": str(directory)})
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_the_chart_takes_a_plan_over_two_nodes() -> None:
    told = report(planned("deepseek-v3", "H100", 8, 2), [])
    made = Objects({**told["helm_values"], "auth": {"existingSecret": "keys"}})
    (group,) = made.of("LeaderWorkerSet")
    assert group["spec"]["leaderWorkerTemplate"]["size"] == 2
