"""Whether the engine can be imported, in its own Python and in a process of its own, within a time limit."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from forebay.doctor.finding import Finding, ok, wrong
from forebay.doctor.gpus import Version, version_of
from forebay.engines.installed import engine_version

WITHIN_S = 180.0
_MARK = "forebay-doctor:"
_IMPORT = f"""
import json, torch, vllm
version = getattr(torch, "version", None)
told = {{"torch": torch.__version__, "cuda": getattr(version, "cuda", None), "hip": getattr(version, "hip", None)}}
print({_MARK!r} + json.dumps(told))
"""


@dataclass(frozen=True)
class Engine:
    """What a Python has of vLLM; `problem` is why it cannot be imported, empty where it can, or was not tried."""

    python: Path
    version: str = "unknown"
    torch: str = ""
    cuda: Version | None = None
    hip: bool = False
    imported: bool = False
    problem: str = ""


def ask_engine(python: Path, *, within_s: float = WITHIN_S, try_import: bool = True) -> Engine:
    """Ask a Python for its vLLM."""
    version = engine_version(python)
    if not try_import or version == "unknown":
        return Engine(python, version)
    try:
        asked = subprocess.run(  # noqa: S603
            [str(python), "-c", _IMPORT], capture_output=True, text=True, check=False, timeout=within_s
        )
    except subprocess.TimeoutExpired:
        return Engine(python, version, problem=f"not imported within {within_s:g} s")
    except OSError as failure:
        return Engine(python, version, problem=str(failure.strerror))
    told = next((line for line in asked.stdout.splitlines() if line.startswith(_MARK)), None)
    if told is None:
        return Engine(python, version, problem=_last_line(asked.stderr) or f"status {asked.returncode}")
    said = json.loads(told.removeprefix(_MARK))
    return Engine(python, version, said["torch"], version_of(said["cuda"]), bool(said["hip"]), imported=True)


def check_engine(engine: Engine) -> Finding:
    """Whether it is there and can be imported."""
    where = f"vLLM {engine.version} in {engine.python}"
    if engine.version == "unknown":
        fix = "install one (`make serve` does it), or set engine_python to a Python that has vLLM"
        return wrong("engine", f"there is no vLLM in {engine.python}", fix)
    if engine.problem:
        fix = f"see all of it: {engine.python} -c 'import vllm'; then install vLLM there again"
        return wrong("engine", f"{where} cannot be imported: {engine.problem}", fix)
    return ok("engine", f"{where}, torch {engine.torch}" if engine.imported else f"{where}, not imported")


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""
