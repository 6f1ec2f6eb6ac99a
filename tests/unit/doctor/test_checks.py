"""What the doctor says of facts: each outcome of each check, with what to do where it is not ok."""

from pathlib import Path

import pytest

from forebay.doctor.engine import Engine, ask_engine, check_engine
from forebay.doctor.facts import has_nvidia_card, hub_token, shared_memory_bytes, space_at
from forebay.doctor.finding import Finding, Level, size
from forebay.doctor.gpus import Driver, Gpu, check_cuda, check_driver, check_gpu, version_of
from forebay.doctor.machine import (
    GIB,
    Space,
    check_clock,
    check_open_files,
    check_platform,
    check_python,
    check_shared_memory,
    check_space,
    check_token,
    flags_of,
)

NOW = 1_900_000_000.0
MIB = 1024**2
GPUS = (
    Gpu("0", "NVIDIA H200", 143771 * MIB, 1 * MIB, (9, 0)),
    Gpu("1", "Tesla T4", 15360 * MIB, 12000 * MIB, (7, 5)),
    Gpu("2", "Tesla P100-PCIE-16GB", 16384 * MIB, 0, (6, 0)),
    Gpu("3", "NVIDIA GB10", None, None, (12, 1)),
    Gpu("4", "NVIDIA A100", 40960 * MIB, 40950 * MIB, None),
)


def stands(finding: Finding, level: str, told: str = "") -> None:
    assert finding.level == level, finding
    assert told in finding.told
    assert "\n" not in finding.told + finding.fix
    assert bool(finding.fix) == (finding.level is not Level.ok), "a fix where one is needed, and only there"


@pytest.mark.parametrize(
    ("version", "level"), [((3, 10, 9), "wrong"), ((3, 11, 0), "ok"), ((3, 12, 9), "ok"), ((3, 14, 0), "warning")]
)
def test_python(version: tuple[int, int, int], level: str) -> None:
    stands(check_python(version, "/bin/python"), level, "/bin/python")


def test_platform() -> None:
    def of(system: str, machine: str, flags: str = "", cpu: bool = True) -> Finding:
        return check_platform(system, machine, frozenset(flags.split()), runs_on_cpu=cpu)

    stands(of("Darwin", "arm64"), "wrong", "Darwin")
    stands(of("Linux", "riscv64"), "warning")
    stands(of("Linux", "x86_64", "sse2"), "wrong", "AVX2")
    stands(of("Linux", "x86_64", "sse2", cpu=False), "ok")
    stands(of("Linux", "x86_64", "sse2 avx2"), "ok")
    stands(of("Linux", "aarch64"), "ok")
    assert flags_of("processor: 0\nflags\t\t: fpu avx2\n\nprocessor: 1\nflags\t\t: x\n") == {"fpu", "avx2"}
    assert flags_of("") == frozenset()


def test_shared_memory() -> None:
    stands(check_shared_memory(8 * GIB, 4), "ok", "8 GiB")
    stands(check_shared_memory(64 * 1024**2, 1), "warning", "64 MiB")
    stands(check_shared_memory(64 * 1024**2, 2), "wrong", "2 GPUs")
    stands(check_shared_memory(None, 1), "warning")
    assert shared_memory_bytes(Path("/no/such")) is None


@pytest.mark.parametrize(
    ("most", "level"), [(65_536, "ok"), (20_512, "ok"), (20_511, "warning"), (4096, "warning"), (1023, "wrong")]
)
def test_open_files(most: int, level: str) -> None:
    stands(check_open_files(most, 10_000), level, str(most))


def test_space(tmp_path: Path) -> None:
    limits = (GIB, 10 * GIB)
    stands(check_space("models", Space("/m", 20 * GIB, True), limits, "HF_HOME"), "ok", "20 GiB free at /m")
    stands(check_space("models", Space("/m", 5 * GIB, True), limits, "HF_HOME"), "warning")
    stands(check_space("models", Space("/m", 1, True), limits, "HF_HOME"), "wrong")
    stands(check_space("models", Space("/m", 20 * GIB, False), limits, "HF_HOME"), "wrong", "cannot be written")
    there = space_at(tmp_path / "not" / "there" / "yet")
    assert there.writable
    assert there.free_bytes > 0


def test_hub_token(tmp_path: Path) -> None:
    stands(check_token("hf_abc", "HF_TOKEN", offline=False, read_by_others=False), "ok", "HF_TOKEN")
    stands(check_token(None, "", offline=False, read_by_others=False), "ok", "none")
    stands(check_token(None, "", offline=True, read_by_others=False), "ok", "HF_HUB_OFFLINE")
    stands(check_token("secret", "HF_TOKEN", offline=False, read_by_others=False), "warning", "does not look like")
    stands(check_token("hf_abc", "/token", offline=False, read_by_others=True), "warning", "/token")
    file = tmp_path / "token"
    file.write_text("hf_abc\n")
    file.chmod(0o644)
    assert hub_token({"HF_HOME": str(tmp_path)}) == ("hf_abc", str(file), True)
    file.chmod(0o600)
    assert hub_token({"HF_TOKEN_PATH": str(file)}) == ("hf_abc", str(file), False)
    assert hub_token({"HF_HOME": str(tmp_path / "none"), "HF_TOKEN": ""}) == (None, "", False)
    assert hub_token({"HF_TOKEN": "hf_x"}) == ("hf_x", "HF_TOKEN", False)


@pytest.mark.parametrize(
    ("wall", "step_s", "skew_s", "level", "told"),
    [
        (NOW, 0.0, None, "ok", "2030-03-17"),
        (NOW, 0.0, 1.0, "ok", "1 s ahead of peer"),
        (NOW, 0.0, -20.0, "warning", "20 s behind peer"),
        (NOW, 0.0, 3600.0, "wrong", "3600 s ahead of peer"),
        (NOW, 0.9, 0.0, "warning", "moved"),
        (0.0, 0.0, None, "wrong", "1970"),
    ],
)
def test_clock(wall: float, step_s: float, skew_s: float | None, level: str, told: str) -> None:
    stands(check_clock(wall, step_s, skew_s, "peer" if skew_s is not None else ""), level, told)


def test_a_clock_that_could_not_be_compared_is_said_so() -> None:
    stands(check_clock(NOW, 0.0, None, "http://x"), "warning", "http://x tells no time")


def test_gpus_as_their_driver_lists_them() -> None:
    found = [check_gpu(gpu) for gpu in GPUS]
    for finding, level, told in [
        (found[0][0], "ok", "140 GiB of 140 GiB free"),
        (found[0][1], "ok", "9.0"),
        (found[1][0], "warning", "3.28 GiB of 15 GiB free"),
        (found[1][1], "warning", "without bfloat16"),
        (found[2][1], "wrong", "6.0"),
        (found[3][0], "ok", "shared with the CPU"),
        (found[3][1], "ok", "12.1"),
        (found[4][0], "warning", ""),
        (found[4][1], "ok", "not told"),
    ]:
        stands(finding, level, told)
    assert "--dtype half" in found[1][1].fix
    assert "gpu_memory_utilization 0.16" in found[1][0].fix
    assert "gpu_memory_utilization" not in found[4][0].fix, "there is no share to leave"


def test_the_driver() -> None:
    stands(check_driver(Driver(True, "570.124.06", GPUS), has_card=True), "ok", "570.124.06")
    stands(check_driver(Driver(True, problem="couldn't communicate"), has_card=True), "wrong", "couldn't communicate")
    stands(check_driver(Driver(False), has_card=True), "wrong", "no driver")
    stands(check_driver(Driver(False), has_card=False), "ok", "CPU")


def test_a_card_without_a_driver_is_seen_on_the_bus(tmp_path: Path) -> None:
    assert not has_nvidia_card(tmp_path / "none")
    for name, vendor, kind in (("a", "0x10de", "0x040300"), ("b", "0x8086", "0x030000")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "vendor").write_text(f"{vendor}\n")
        (tmp_path / name / "class").write_text(f"{kind}\n")
    assert not has_nvidia_card(tmp_path), "its sound is no GPU"
    (tmp_path / "a" / "class").write_text("0x030200\n")
    assert has_nvidia_card(tmp_path)


@pytest.mark.parametrize(
    ("driver", "engine", "has_gpu", "level"),
    [
        ((12, 8), (12, 8), True, "ok"),
        ((13, 0), (12, 8), True, "ok"),
        ((12, 4), (12, 8), True, "warning"),
        ((11, 8), (12, 8), True, "wrong"),
        (None, (12, 8), True, "ok"),
        (None, (12, 8), False, "wrong"),
        (None, None, False, "ok"),
        ((12, 8), None, True, "warning"),
    ],
)
def test_cuda(driver: tuple[int, int] | None, engine: tuple[int, int] | None, has_gpu: bool, level: str) -> None:
    stands(check_cuda(driver, engine, has_gpu=has_gpu), level)
    assert version_of("12.8") == (12, 8)
    assert version_of("ERR!") is None


def a_python(path: Path, version: str, then: str) -> Path:
    """A Python that tells a version of vLLM, and does `then` where it is told to import it."""
    path.write_text(f'#!/bin/sh\ncase "$2" in *"import json, torch"*) {then};; *) echo {version};; esac\n')
    path.chmod(0o755)
    return path


def test_an_engine_is_imported_by_its_own_python(tmp_path: Path) -> None:
    told = """echo noise; echo 'forebay-doctor:{"torch": "2.8.0", "cuda": "12.8", "hip": null}'"""
    engine = ask_engine(a_python(tmp_path / "python", "0.32.0", told))
    assert (engine.version, engine.torch, engine.cuda, engine.imported) == ("0.32.0", "2.8.0", (12, 8), True)
    stands(check_engine(engine), "ok", "vLLM 0.32.0")
    quick = ask_engine(tmp_path / "python", try_import=False)
    stands(check_engine(quick), "ok", "not imported")


def test_an_engine_that_cannot_be_imported_says_why(tmp_path: Path) -> None:
    broken = a_python(tmp_path / "broken", "0.32.0", "echo trace >&2; echo 'ImportError: libcudart' >&2; exit 1")
    stands(check_engine(ask_engine(broken)), "wrong", "ImportError: libcudart")
    killed = a_python(tmp_path / "killed", "0.32.0", "exit 137")
    stands(check_engine(ask_engine(killed)), "wrong", "status 137")
    slow = a_python(tmp_path / "slow", "0.32.0", "exec sleep 20")
    stands(check_engine(ask_engine(slow, within_s=0.2)), "wrong", "not imported within 0.2 s")
    stands(check_engine(ask_engine(tmp_path / "absent")), "wrong", "no vLLM")
    stands(check_engine(Engine(Path("/p"))), "wrong", "no vLLM in /p")


def test_sizes_are_shown_in_the_unit_that_suits_them() -> None:
    assert [size(n) for n in (0, 1023, 64 * 1024**2, 1.5 * GIB, 2048 * GIB)] == [
        "0 B",
        "1023 B",
        "64 MiB",
        "1.5 GiB",
        "2 TiB",
    ]
