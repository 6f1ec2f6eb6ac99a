"""Checks of the machine, each a judgement of facts that are passed in. Pure; `facts.py` collects the facts."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from forebay.doctor.finding import Finding, ok, size, warning, wrong

GIB = 1024**3
TESTED = ((3, 11), (3, 12))
SHARED_MEMORY_BYTES = GIB
MODEL_SPACE, LOG_SPACE, DATA_SPACE = (2 * GIB, 20 * GIB), (GIB // 10, GIB), (GIB // 10, GIB)
DESCRIPTORS_BESIDE = 512  # files, the database's connections, those of who watches
SKEW_WARNING_S, SKEW_WRONG_S = 5.0, 60.0
STEP_S = 0.5
BUILT = datetime(2025, 1, 1, tzinfo=UTC).timestamp()


@dataclass(frozen=True)
class Space:
    """The file system under a directory, or why it cannot be used."""

    path: str
    free_bytes: int
    writable: bool


def check_python(version: tuple[int, int, int], executable: str) -> Finding:
    told = f"{'.'.join(map(str, version))} at {executable}"
    if version[:2] < TESTED[0]:
        return wrong("python", told, "install Python 3.11 or later and Forebay into it")
    if version[:2] > TESTED[-1]:
        return warning("python", f"{told}, which Forebay is not tested with", "use Python 3.12 where it makes trouble")
    return ok("python", told)


def check_platform(system: str, machine: str, cpu_flags: frozenset[str], *, runs_on_cpu: bool) -> Finding:
    """`runs_on_cpu`: an engine is to run here, and there is no GPU."""
    told = f"{system} on {machine}"
    if system != "Linux":
        return wrong("platform", told, "run Forebay on Linux, in a container or under WSL 2")
    if machine not in ("x86_64", "aarch64"):
        return warning("platform", told, "vLLM is made for x86_64 and aarch64; build it yourself for another")
    if runs_on_cpu and machine == "x86_64" and cpu_flags and "avx2" not in cpu_flags:
        return wrong("platform", f"{told}, a processor without AVX2", "vLLM needs AVX2 on a CPU; use another machine")
    return ok("platform", told)


def check_shared_memory(total_bytes: int | None, gpus_per_engine: int) -> Finding:
    """Through it the processes of an engine talk."""
    name, fix = "shared memory", "start the container with --ipc=host or --shm-size=8g (Kubernetes: emptyDir, Memory)"
    if total_bytes is None:
        return warning(name, "there is no /dev/shm", fix)
    told = f"{size(total_bytes)} at /dev/shm"
    if total_bytes >= SHARED_MEMORY_BYTES:
        return ok(name, told)
    if gpus_per_engine > 1:
        return wrong(name, f"{told}, too little for {gpus_per_engine} GPUs an engine", fix)
    return warning(name, told, fix)


def check_open_files(most: int, max_connections: int) -> Finding:
    """The hard limit: a gateway raises its own to that, and takes fewer callers where it is too low. Each may need a
    connection to an engine as well."""
    needed = 2 * max_connections + DESCRIPTORS_BESIDE
    told = f"{most} may be open"
    if most >= needed:
        return ok("open files", told)
    fix = f"raise it to {needed} (ulimit -Hn, LimitNOFILE=, docker --ulimit nofile=) or lower max_connections"
    return (wrong if most < 2 * DESCRIPTORS_BESIDE else warning)("open files", f"{told}, less than is needed", fix)


def check_space(what: str, space: Space, limits: tuple[int, int], setting: str) -> Finding:
    """Room for models, logs or data; below the first limit nothing works, below the second not for long."""
    name, told = f"space for {what}", f"{size(space.free_bytes)} free at {space.path}"
    if not space.writable:
        return wrong(name, f"{space.path} cannot be written to", f"make it writable, or set {setting} to another place")
    if space.free_bytes < limits[0]:
        return wrong(name, told, f"free some, or set {setting} to another disk")
    if space.free_bytes < limits[1]:
        return warning(name, told, f"{size(limits[1])} are comfortable; {setting} chooses another disk")
    return ok(name, told)


def check_token(token: str | None, where: str, *, offline: bool, read_by_others: bool) -> Finding:
    """The Hugging Face token, of which nothing is shown."""
    if offline:
        return ok("hub token", "not needed: HF_HUB_OFFLINE is set")
    if token is None:
        return ok("hub token", "none; gated models need one (HF_TOKEN)")
    if not token.startswith("hf_") or any(one.isspace() for one in token):
        return warning("hub token", f"the one in {where} does not look like hf_…", "copy it again from hf.co/settings")
    if read_by_others:
        return warning("hub token", f"{where} can be read by others", f"chmod 600 {where}")
    return ok("hub token", f"in {where}")


def check_clock(wall: float, step_s: float, skew_s: float | None, peer: str) -> Finding:
    """`step_s`: how far wall clock and monotonic clock moved apart while one looked; `skew_s`: ours minus a peer's."""
    told, fix = (
        datetime.fromtimestamp(wall, UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        "set it by NTP (chrony, timedatectl)",
    )
    if wall < BUILT:
        return wrong("clock", f"{told} is in the past", fix)
    if abs(step_s) > STEP_S:
        return warning("clock", f"{told}, and it is being moved: {step_s:+.1f} s", fix)
    if skew_s is None and peer:
        return warning("clock", f"{told}; {peer} tells no time to compare with", "start it, or name another by --url")
    if skew_s is None:
        return ok("clock", told)
    apart = f"{abs(skew_s):.0f} s {'ahead of' if skew_s > 0 else 'behind'}" if abs(skew_s) >= 1 else "as at"
    told = f"{told}, {apart} {peer}"
    if abs(skew_s) > SKEW_WRONG_S:
        return wrong("clock", f"{told}: tokens and expiries go wrong", fix)
    return warning("clock", told, fix) if abs(skew_s) > SKEW_WARNING_S else ok("clock", told)


def flags_of(cpuinfo: str) -> frozenset[str]:
    """The flags of the first processor in /proc/cpuinfo."""
    lines: Iterable[str] = (line for line in cpuinfo.splitlines() if line.startswith("flags"))
    return frozenset(next(iter(lines), "").partition(":")[2].split())
