"""The Compose files, as Docker Compose itself reads and merges them: valid, bounded, closed, and without secrets."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import compose
import pytest
import yaml

from forebay.config.settings import Settings
from forebay.config.sources import load_settings
from tests.deploy.nginx import arguments, configure
from tests.programs import program

DEPLOY = Path(__file__).parents[2] / "deploy"
COMPOSE = DEPLOY / "compose"
DOCKER_COMPOSE = str(Path(compose.__file__).with_name("docker-compose"))
OVERLAYS = ((), ("production",), ("observability",), ("production", "observability"))
STACKS = [(f"compose{kind}.yaml", *overlays) for kind in ("", ".cpu") for overlays in OVERLAYS]
WHOLE = ("compose.yaml", "production", "observability")
OURS = {"gateway", "gateway-2", "engine", "tables"}
# Their images have neither a shell nor a program to ask with.
UNASKED = {"collector", "loki", "tempo", "tables"}


@cache
def merged(stack: tuple[str, ...]) -> dict[str, Any]:
    """What Docker Compose makes of the files."""
    files = [COMPOSE / stack[0], *(COMPOSE / f"compose.{name}.yaml" for name in stack[1:])]
    arguments = [word for file in files for word in ("--file", str(file))]
    command = [DOCKER_COMPOSE, *arguments, "--env-file", str(COMPOSE / ".env.example"), "config", "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, env={"HOME": "/nowhere"})
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def services() -> Iterator[tuple[str, dict[str, Any]]]:
    for stack in STACKS:
        for name, service in merged(stack)["services"].items():
            yield f"{name} of {' + '.join(stack)}", service


@pytest.mark.parametrize("stack", STACKS, ids=" + ".join)
def test_docker_compose_takes_it_and_it_has_the_services_it_names(stack: tuple[str, ...]) -> None:
    found = set(merged(stack)["services"])
    wanted = {"gateway", "engine"}
    wanted |= {"gateway-2", "tables", "nginx", "valkey", "postgres"} if "production" in stack else set()
    watching = {"collector", "prometheus", "alertmanager", "loki", "tempo", "grafana"}
    assert found == wanted | (watching if "observability" in stack else set())


def test_every_image_has_a_version() -> None:
    for name, service in services():
        assert re.search(r":v?\d+\.\d+(\.\d+)?(-[a-z0-9.]+)?$", service["image"]), name


def test_every_service_is_bounded_and_may_do_nothing_but_its_work() -> None:
    for name, service in services():
        limits = service["deploy"]["resources"]["limits"]
        assert limits.keys() >= {"cpus", "memory", "pids"}, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service.get("read_only") or name.startswith("engine"), name
        assert not service.get("privileged"), name
        assert "docker.sock" not in json.dumps(service), name


def test_every_service_is_started_again_and_watched() -> None:
    for name, service in services():
        short = name.split()[0]
        assert service.get("restart") == (None if short == "tables" else "unless-stopped"), name
        if short in UNASKED:
            assert service["healthcheck"]["disable"], name
        elif short not in OURS:
            assert service["healthcheck"]["test"], name


def test_no_secret_is_written_here_or_passed_by_the_environment() -> None:
    for name, service in services():
        for variable, value in service.get("environment", {}).items():
            secret = re.search("KEY|PASSWORD|TOKEN|SECRET|DATABASE_URL|REDIS_URL", variable)
            assert not secret or str(value).startswith("/run/secrets/"), f"{variable} of {name}"
    for file in COMPOSE.rglob("*"):
        if file.is_file() and "secrets" not in file.parent.name and file.name != ".env":
            assert not re.search(r"(?i)(password|api_keys?|token)\s*[:=]\s*[\"']?[a-z0-9]{8,}", file.read_text()), file


def test_nothing_is_reached_from_outside_but_what_is_meant_to_be() -> None:
    for stack in STACKS:
        for name, service in merged(stack)["services"].items():
            for port in service.get("ports", ()):
                assert name == "nginx" or port["host_ip"] == "127.0.0.1", (stack, name)
        if "production" in stack:
            assert [name for name, one in merged(stack)["services"].items() if one.get("ports") and name in OURS] == []
    assert {name for name, one in merged(WHOLE)["services"].items() if "stores" in one["networks"]} == {
        *("gateway", "gateway-2", "tables", "valkey", "postgres")
    }
    assert merged(WHOLE)["networks"]["stores"]["internal"]


def test_a_container_is_killed_only_after_its_drain() -> None:
    for stack in STACKS:
        for name, service in merged(stack)["services"].items():
            if name not in OURS - {"tables"}:
                continue
            grace = _seconds(service["stop_grace_period"])
            drain = float(service["environment"]["FOREBAY_DRAIN_TIMEOUT_S"])
            assert grace >= drain + 10 + (Settings().engine_stop_timeout_s if name == "engine" else 0), (stack, name)


@pytest.mark.parametrize("stack", STACKS, ids=" + ".join)
def test_what_forebay_is_told_are_settings_that_it_takes(stack: tuple[str, ...], tmp_path: Path) -> None:
    place = copied(tmp_path)
    subprocess.run([place / "secrets.sh", *(["--production"] if "production" in stack else [])], check=True)
    for name in {"gateway", "gateway-2", "engine"} & merged(stack)["services"].keys():
        told = {key: value or "" for key, value in merged(stack)["services"][name]["environment"].items()}
        dockerfile = DEPLOY.parent / merged(stack)["services"][name]["build"]["dockerfile"]
        image = dict(re.findall(r"(?m)^    (?:ENV )?(FOREBAY_[A-Z_]+)=(\S+)", dockerfile.read_text()))
        assert image
        file = place / "secrets" / Path(told.pop("FOREBAY_CONFIG")).name
        settings, origin = load_settings({}, {**image, **told}, file)
        assert settings.upstream_api_key is not None
        if name == "engine":
            assert settings.model == "Qwen/Qwen2.5-0.5B-Instruct"
            continue
        assert settings.asks_for_keys
        assert settings.upstream == ("dns://engine:8001",)
        assert (settings.database_url is not None) == ("production" in stack)
        known = {"OTEL_SERVICE_NAME"}
        assert told.keys() - known <= set(origin.values()), "a variable that is no setting"


def test_secrets_are_made_once_and_are_their_owners(tmp_path: Path) -> None:
    place = copied(tmp_path)
    subprocess.run([place / "secrets.sh"], check=True)
    before = {file.name: file.read_text() for file in (place / "secrets").iterdir()}
    assert (place / "secrets").stat().st_mode & 0o777 == 0o700
    assert "database_url" not in before["gateway.toml"]
    for _ in range(2):
        subprocess.run([place / "secrets.sh", "--production"], check=True)
        after = {file.name: file.read_text() for file in (place / "secrets").iterdir()}
        assert after.pop("gateway.toml").startswith(before["gateway.toml"])
        assert after.items() >= {name: text for name, text in before.items() if name != "gateway.toml"}.items()
    assert (place / "secrets" / "gateway.toml").read_text().count("database_url") == 1


def test_every_file_that_is_mounted_is_there() -> None:
    for name, service in services():
        for volume in service.get("volumes", ()):
            assert volume["type"] == "volume" or Path(volume["source"]).exists(), (name, volume)


def test_prometheus_takes_its_configuration_which_has_the_jobs_of_the_example(tmp_path: Path) -> None:
    ours, example = COMPOSE / "observability" / "prometheus.yaml", DEPLOY / "prometheus" / "prometheus.yaml"
    for file in (ours, *(DEPLOY / "prometheus").glob("*ing.yaml"), *(DEPLOY / "prometheus").glob("alerts.yaml")):
        shutil.copy(file, tmp_path)
    subprocess.run([program("promtool"), "check", "config", tmp_path / "prometheus.yaml"], check=True)
    told, wanted = (yaml.safe_load(file.read_text()) for file in (ours, example))
    assert {job["job_name"] for job in wanted["scrape_configs"]} <= {job["job_name"] for job in told["scrape_configs"]}
    assert (told["global"], told["rule_files"]) == (wanted["global"], wanted["rule_files"])


def test_what_the_parts_ask_of_each_other_is_at_the_names_they_have() -> None:
    names = merged(WHOLE)["services"].keys()
    files = [*(COMPOSE / "observability").iterdir(), DEPLOY / "otel" / "collector.yaml", COMPOSE / "gateways.conf"]
    for file in files:
        for host in re.findall(r"(?<![\w.])([a-z][a-z-]*[a-z0-9]):\d{4,5}\b", file.read_text()):
            assert host in names, f"{host} of {file.name}"


def test_every_part_of_the_collector_is_used_and_is_there() -> None:
    told = yaml.safe_load((DEPLOY / "otel" / "collector.yaml").read_text())
    for kind in ("receivers", "processors", "exporters"):
        used = {name for pipeline in told["service"]["pipelines"].values() for name in pipeline[kind]}
        assert used == set(told[kind])


def test_nginx_takes_the_gateways_of_compose_which_are_set_as_the_example_is(tmp_path: Path) -> None:
    nginx = configure(tmp_path, ["http://127.0.0.1:1", "http://127.0.0.1:2"])
    shutil.copy(COMPOSE / "gateways.conf", tmp_path / "gateways.conf")
    done = subprocess.run([*arguments(nginx), "-t"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    def directives(file: Path) -> list[str]:
        lines = [line.strip() for line in file.read_text().splitlines()]
        plain = [line for line in lines if line and not line.startswith(("#", "resolver"))]
        return [re.sub(r"^server \S+( resolve)?", "server", line) for line in plain]

    assert directives(COMPOSE / "gateways.conf") == directives(DEPLOY / "nginx" / "gateways.conf")


def copied(directory: Path) -> Path:
    """The directory as somebody has it who has just cloned it."""
    place = directory / "compose"
    shutil.copytree(COMPOSE, place, ignore=shutil.ignore_patterns("secrets", ".env"))
    return place


def _seconds(text: str) -> float:
    parts = re.findall(r"(\d+)([hms])", text)
    return sum(int(number) * {"h": 3600, "m": 60, "s": 1}[unit] for number, unit in parts)
