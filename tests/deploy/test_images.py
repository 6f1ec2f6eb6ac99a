"""The Dockerfiles, and what they put into an image besides Forebay."""

import asyncio
import json
import re
import subprocess
import sys
from importlib.metadata import version
from itertools import chain
from pathlib import Path

import pytest

from tests.gateway.fake_engine import FakeEngine
from tests.processes import free_port

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "deploy" / "docker"
DOCKERFILES = sorted(DOCKER.glob("*.Dockerfile"))
HADOLINT = Path(sys.executable).with_name("hadolint")


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_hadolint_finds_nothing(file: Path) -> None:
    done = subprocess.run([HADOLINT, "--no-color", file], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_an_image_has_its_user_its_health_and_its_list_of_packages(file: Path) -> None:
    text = file.read_text()
    last = text[text.rindex("\nFROM ") :]
    assert "useradd --uid 10001 " in last
    assert re.findall(r"(?m)^USER (.*)", last) == ["10001:10001"]
    assert re.findall(r"(?m)^ENTRYPOINT (.*)", last) == ['["forebay"]']
    assert "HEALTHCHECK " in last
    assert "org.opencontainers.image.version" in last
    assert "/opt/forebay/sbom.cdx.json" in text
    assert text.count("--require-hashes") == 2
    for image in re.findall(r"(?m)^ARG \w+_IMAGE=(.*)", text):
        assert re.search(r":v?\d+\.\d+\.\d+", image), f"{image} has no version"


def test_the_gateways_base_is_pinned_by_its_digest() -> None:
    assert re.search(r"(?m)^ARG PYTHON_IMAGE=\S+@sha256:[0-9a-f]{64}$", (DOCKER / "gateway.Dockerfile").read_text())


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_all_that_is_copied_is_there_and_sent_to_the_builder(file: Path) -> None:
    sent = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert (ROOT / ".dockerignore").read_text().splitlines()[1] == "*"
    copied = [line.split()[1:-1] for line in file.read_text().splitlines() if re.match(r"COPY (?!--from)", line)]
    for source in chain.from_iterable(copied):
        assert (ROOT / source).exists()
        assert any(Path(source) in Path(one).parents or Path(source).match(one) for one in sent), source


def test_the_engines_for_gpu_and_cpu_differ_in_their_base_only() -> None:
    gpu, cpu = ((DOCKER / f"{name}.Dockerfile").read_text() for name in ("engine", "engine-cpu"))
    for name, other in (
        ("vllm-openai-cpu", "vllm-openai"),
        ("engine-cpu", "engine"),
        ("/opt/venv/bin/python", "/usr/bin/python3"),
    ):
        cpu = cpu.replace(name, other)

    def steps(text: str) -> list[str]:
        return [line for line in text.splitlines() if not line.startswith(("#", "LABEL"))]

    assert steps(gpu) == steps(cpu)


def test_the_list_of_packages_is_what_is_installed_and_always_the_same() -> None:
    command = [sys.executable, DOCKER / "sbom.py", "forebay-gateway", "1.2.3"]
    first, second = (subprocess.run(command, capture_output=True, check=True).stdout for _ in range(2))
    assert first == second
    told = json.loads(first)
    assert (told["bomFormat"], told["specVersion"]) == ("CycloneDX", "1.6")
    assert told["metadata"]["component"]["version"] == "1.2.3"
    purls = {component["purl"] for component in told["components"]}
    assert f"pkg:pypi/sqlalchemy@{version('sqlalchemy')}" in purls
    assert f"pkg:pypi/huggingface-hub@{version('huggingface_hub')}" in purls
    locked = re.findall(r"(?m)^([a-z0-9-]+)==([^ ]+) \\$", (ROOT / "requirements" / "gateway.txt").read_text())
    assert {f"pkg:pypi/{name}@{number}" for name, number in locked} <= purls


async def test_health_is_told_by_the_status_it_ends_with() -> None:
    def ended(url: str) -> int:
        return subprocess.run([sys.executable, "-IS", DOCKER / "health.py", url], capture_output=True).returncode

    async with FakeEngine() as engine:
        assert await asyncio.to_thread(ended, f"{engine.url}/health") == 0
        assert await asyncio.to_thread(ended, f"{engine.url}/nothing") == 1
    assert await asyncio.to_thread(ended, f"http://127.0.0.1:{free_port()}/health") == 1
