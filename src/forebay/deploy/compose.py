"""Sides → files for Compose on one host: a gateway, and a service for each engine with GPUs of its own. Pure.

The images are those of `deploy/docker`: they say themselves where a process listens and keeps its files. Secrets are
read from `.env`, where they are named and empty.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from math import ceil
from pathlib import Path
from typing import Any

from forebay import __version__
from forebay.config.settings import Settings
from forebay.deploy import toml_text
from forebay.deploy.sides import CannotRender, Engine, Sides, Table
from forebay.generate.yaml_text import dump

MADE = "# Made by `forebay deploy render`.\n"
ENGINE_PORT, AGENT_PORT = 8001, 9000
HOME, CONFIG = "/var/lib/forebay", "/etc/forebay/forebay.toml"
STOP_S = 20  # beyond the drain: for an engine to end, and its agent
IMAGES_OWN = frozenset({"host", "port", "agent_host", "agent_port", "engine_host", "engine_port", "upstream"})
KEPT = {"restart": "unless-stopped", "cap_drop": ["ALL"], "security_opt": ["no-new-privileges:true"]}
A_PATH = "is a path of this host; mount it and say it in the file"
IN_IMAGE = "the images say it"


@dataclass(frozen=True)
class Files:
    """By name what is in them; `.env` is kept where it is there already."""

    texts: Mapping[str, str]
    left_out: Mapping[str, str]


@dataclass(frozen=True)
class _Service:
    """One engine: its service's name, and the GPUs that it has."""

    name: str
    engine: Engine
    gpus: tuple[int, ...]


def compose(found: Sides, gpus: int = 1) -> Files:
    """All files. `gpus` are an engine's, where nobody says. Raises `CannotRender`."""
    services = list(_services(found.engines, gpus))
    gateway = {**_told(found.gateway), "upstream": [_url(service) for service in services]}
    texts = {
        "compose.yaml": MADE + dump(_project(found, services)),
        "gateway.toml": MADE + toml_text.dump(gateway),
        ".env": _environment(found),
        **{f"{one.name}.toml": MADE + toml_text.dump(_engine_settings(found, one, gpus)) for one in found.engines},
    }
    return Files(texts, _left_out(found))


def _services(engines: tuple[Engine, ...], gpus: int) -> Iterator[_Service]:
    free = count()
    for engine in engines:
        if engine.nodes > 1:
            raise CannotRender(
                f"plan: {engine.model} is for {engine.nodes} nodes, and Compose for one; use --target helm"
            )
        for number in range(engine.replicas):
            its = tuple(next(free) for _ in range(engine.gpus_or(gpus)))
            yield _Service(f"engine{number + 1 if number else ''}-{engine.name}", engine, its)


def _url(service: _Service) -> str:
    group = f"#{service.engine.group}" if service.engine.group != "default" else ""
    return f"http://{service.name}:{ENGINE_PORT}{group}"


def _engine_settings(found: Sides, engine: Engine, gpus: int) -> Table:
    split = engine.gpus_or(gpus)
    named = {"served_model_name": engine.served} if engine.served else {}
    tensor = {"tensor_parallel_size": split} if split > 1 else {}
    return {**_told(found.common), **named, **tensor, **engine.settings}


def _told(table: Table) -> Table:
    return {name: value for name, value in table.items() if name not in IMAGES_OWN and not _is_path(name)}


def _is_path(name: str) -> bool:
    return Path.__name__ in str(Settings.model_fields[name].annotation)


def _left_out(found: Sides) -> dict[str, str]:
    told = {*found.gateway, *found.common}
    paths = {name: A_PATH for name in sorted(told) if _is_path(name)}
    return {**dict.fromkeys(sorted(told & IMAGES_OWN), IN_IMAGE), **paths, **found.left_out}


def _project(found: Sides, services: list[_Service]) -> Table:
    return {
        "services": {"gateway": _gateway(found), **{one.name: _engine(found, one) for one in services}},
        "volumes": {"gateway": {}, "models": {}},
    }


def _gateway(found: Sides) -> Table:
    port = found.gateway.get("port", 8000)
    return {
        "image": f"${{FOREBAY_GATEWAY_IMAGE:-forebay-gateway:{__version__}}}",
        **KEPT,
        "read_only": True,
        "tmpfs": ["/tmp"],  # noqa: S108 (the container's)
        "environment": {"FOREBAY_CONFIG": CONFIG, **{_variable(name): _needed(name) for name in found.secrets}},
        "volumes": [f"./gateway.toml:{CONFIG}:ro", f"gateway:{HOME}"],
        "ports": [f"${{FOREBAY_BIND:-127.0.0.1}}:{port}:8000"],
        "stop_grace_period": _grace(found.gateway),
    }


def _engine(found: Sides, service: _Service) -> Table:
    engine = service.engine
    cpu = "" if service.gpus else "-cpu"
    image = f"FOREBAY_ENGINE{'_CPU' if cpu else ''}_IMAGE"
    devices = [{"driver": "nvidia", "device_ids": [str(one) for one in service.gpus], "capabilities": ["gpu"]}]
    key = {"FOREBAY_UPSTREAM_API_KEY": _needed("upstream_api_key"), "HF_TOKEN": "${HF_TOKEN:-}"}
    return {
        "image": f"${{{image}:-forebay-engine{cpu}:{__version__}}}",
        **KEPT,
        "init": True,  # for vLLM's own children
        "command": [_literal(one) for one in ("engine", engine.model, *(("--", *engine.args) if engine.args else ()))],
        "environment": {"FOREBAY_CONFIG": CONFIG, **key, **{n: _literal(v) for n, v in engine.env.items()}},
        "volumes": [f"./{engine.name}.toml:{CONFIG}:ro", f"models:{HOME}"],
        "shm_size": "16gb" if len(service.gpus) > 1 else "2gb",
        "stop_grace_period": _grace(found.common),
        **({"deploy": {"resources": {"reservations": {"devices": devices}}}} if service.gpus else {}),
    }


def _grace(told: Table) -> str:
    defaults: dict[str, Any] = {
        name: Settings.model_fields[name].default for name in ("drain_delay_s", "drain_timeout_s")
    }
    return f"{ceil(sum(told.get(name, default) for name, default in defaults.items()) + STOP_S)}s"


def _literal(text: str) -> str:
    """With no variable in it that Compose would fill in."""
    return text.replace("$", "$$")


def _variable(name: str) -> str:
    return f"FOREBAY_{name.upper()}"


def _needed(name: str) -> str:
    return f"${{{_variable(name)}:?set it in .env}}"


def _environment(found: Sides) -> str:
    """What only you know. Nobody but you should be able to read it."""
    lines = [f"{_variable(name)}=\n" for name in found.secrets]
    return f"{MADE}# Secrets: fill them in, and keep this file to yourself.\n{''.join(lines)}# HF_TOKEN=\n"
