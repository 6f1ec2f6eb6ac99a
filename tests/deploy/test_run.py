"""run.sh, with a `docker` and an `nvidia-smi` that only note what they are asked."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.deploy.test_compose import copied

GPU = "GPU {number}: NVIDIA H200 (UUID: GPU-{number}f0e)\n"
DOCKER = '#!/bin/sh\nprintf "%s\\n" "$*" "$TENSOR_PARALLEL_SIZE" "$CUDA_VISIBLE_DEVICES" > "$NOTES"\n'


@dataclass(frozen=True)
class Started:
    """What Docker was asked for, and what the engine is told."""

    command: str
    tensor: str
    devices: str


class Host:
    """A machine with so many GPUs, and a fresh clone."""

    def __init__(self, directory: Path) -> None:
        self.place = copied(directory)
        self._programs = directory / "programs"
        self._programs.mkdir()
        self._notes = directory / "notes"
        self._program("docker", DOCKER)
        self.gpus("")

    def gpus(self, listed: str) -> None:
        self._program("nvidia-smi", f"#!/bin/sh\ncat <<'LIST'\n{listed}LIST\n" if listed else "#!/bin/sh\nexit 9\n")

    def run(self, *words: str, **env: str) -> Started:
        done = self.ended(*words, **env)
        assert done.returncode == 0, done.stderr
        return Started(*self._notes.read_text().splitlines())

    def ended(self, *words: str, **env: str) -> "subprocess.CompletedProcess[str]":
        environment = {"PATH": f"{self._programs}:{os.environ['PATH']}", "NOTES": str(self._notes), **env}
        return subprocess.run([self.place / "run.sh", *words], env=environment, capture_output=True, text=True)

    def _program(self, name: str, text: str) -> None:
        (self._programs / name).write_text(text)
        (self._programs / name).chmod(0o755)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.mark.parametrize(
    ("count", "tensor", "devices"),
    [
        (1, "1", "0"),
        (2, "2", "0,1"),
        (3, "2", "0,1"),
        (4, "4", "0,1,2,3"),
        (6, "4", "0,1,2,3"),
        (8, "8", "0,1,2,3,4,5,6,7"),
    ],
)
def test_a_model_is_spread_over_the_largest_power_of_two(host: Host, count: int, tensor: str, devices: str) -> None:
    host.gpus("".join(GPU.format(number=number) for number in range(count)))
    started = host.run()
    assert (started.tensor, started.devices) == (tensor, devices)
    assert started.command == "compose --file compose.yaml up --detach --build --wait"


def test_parts_of_a_gpu_are_not_counted_as_gpus(host: Host) -> None:
    host.gpus(
        GPU.format(number=0)
        + "  MIG 1g.18gb     Device  0: (UUID: MIG-1)\n  MIG 1g.18gb     Device  1: (UUID: MIG-2)\n"
    )
    assert host.run().tensor == "1"


def test_the_gpus_that_are_named_are_the_ones_that_are_used(host: Host) -> None:
    host.gpus("".join(GPU.format(number=number) for number in range(8)))
    assert host.run(CUDA_VISIBLE_DEVICES="4,5,6").devices == "4,5"
    (host.place / ".env").write_text("MODEL=m\nCUDA_VISIBLE_DEVICES=6,7\n")
    assert host.run().devices == "6,7"
    assert host.run(CUDA_VISIBLE_DEVICES="GPU-3f0e").devices == "GPU-3f0e"


def test_a_size_that_is_told_goes_before_the_reckoned_one(host: Host) -> None:
    host.gpus("".join(GPU.format(number=number) for number in range(8)))
    started = host.run(TENSOR_PARALLEL_SIZE="3")
    assert (started.tensor, started.devices) == ("3", "0,1,2")
    (host.place / ".env").write_text("MODEL=m\nTENSOR_PARALLEL_SIZE=2\n")
    assert host.run().tensor == "2"


@pytest.mark.parametrize(
    ("env", "words", "said"),
    [
        ({"TENSOR_PARALLEL_SIZE": "4"}, (), "there are 2 GPUs"),
        ({"TENSOR_PARALLEL_SIZE": "all"}, (), "no number"),
        ({}, ("--prodution",), "no such option: --prodution"),
    ],
)
def test_what_cannot_be_is_said_and_nothing_started(
    host: Host, env: dict[str, str], words: tuple[str, ...], said: str
) -> None:
    host.gpus(GPU.format(number=0) + GPU.format(number=1))
    done = host.ended(*words, **env)
    assert (done.returncode, said in done.stderr) == (1, True)
    assert not (host.place.parent / "notes").exists()


def test_without_a_gpu_it_is_the_cpu(host: Host) -> None:
    assert host.run().command.startswith("compose --file compose.cpu.yaml up")
    host.gpus(GPU.format(number=0))
    assert host.run("--cpu").command.startswith("compose --file compose.cpu.yaml up")


def test_overlays_and_other_commands_are_passed_on(host: Host) -> None:
    started = host.run("--cpu", "--production", "--observability", "logs", "--follow", "gateway")
    files = "--file compose.cpu.yaml --file compose.production.yaml --file compose.observability.yaml"
    assert started.command == f"compose {files} logs --follow gateway"
    assert (host.place / "secrets" / "tls.crt").exists()


def test_a_dry_run_says_it_and_makes_no_secrets(host: Host) -> None:
    host.gpus(GPU.format(number=0))
    done = host.ended("--dry-run")
    assert done.stdout == "docker compose --file compose.yaml up --detach --build --wait\n"
    assert not (host.place / "secrets").exists()
