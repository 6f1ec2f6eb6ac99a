"""Pull a model: see what is missing, see that there is room for it, fetch it, link it, and keep a record of it.

The files go where the hub's own library puts them (`blobs/` by checksum, `snapshots/` by name), so that vLLM finds
them. A file has its name in a snapshot only when it is whole. One process at a time pulls a model.
"""

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from forebay.models import hub
from forebay.models.hub import HubFailure, Progress, Stopped
from forebay.models.record import FileSum, Record, read_record, record_path, write_record
from forebay.models.sizes import readable

# The same weights again, where there are safetensors files, or else PyTorch's.
_OTHER_FORMATS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.ot", "*.gguf", "*.tflite", "*.mlmodel")
_OTHER_PLACES = ("*.onnx", "*.onnx_data", "onnx/*", "openvino/*", "coreml/*", "original/*", "consolidated*.safetensors")


@dataclass(frozen=True)
class Pull:
    """What is to be here of a model at the end, and where."""

    model: str
    revision: str
    commit: str
    files: Mapping[str, FileSum]
    allow: tuple[str, ...]
    ignore: tuple[str, ...]
    repository: Path

    @property
    def snapshot(self) -> Path:
        """The directory that has the files by their names."""
        return self.repository / "snapshots" / self.commit

    @property
    def size(self) -> int:
        """All files, bytes."""
        return sum(file.size for file in self.files.values())

    def blob(self, file: FileSum) -> Path:
        """Where a file's content is."""
        return self.repository / "blobs" / file.digest

    def missing(self) -> dict[str, FileSum]:
        """The files whose content is not here, each content once."""
        absent = {
            file.digest: (path, file) for path, file in self.files.items() if not _is_whole(self.blob(file), file)
        }
        return dict(absent.values())

    def missing_bytes(self) -> int:
        """What is still to be fetched: partial files count for what they have."""
        return sum(file.size - self._had(file) for file in self.missing().values())

    def _had(self, file: FileSum) -> int:
        partial = self.blob(file).with_name(file.digest + hub.PARTIAL)
        size = partial.stat().st_size if partial.exists() else 0
        return size if size <= file.size else 0


def plan(model: str, revision: str, allow: Sequence[str], ignore: Sequence[str]) -> Pull:
    """What pulling a model comes to. Raises `HubFailure`."""
    commit, files = hub.listing(model, revision)
    chosen = choose_files(files, allow, ignore)
    if not chosen:
        raise HubFailure(f"no file of {model} is left by the patterns; it has {', '.join(sorted(files)[:8])} …")
    wanted = {path: files[path] for path in chosen}
    return Pull(model, revision, commit, wanted, tuple(allow), tuple(ignore), hub.repository(model))


def choose_files(files: Iterable[str], allow: Sequence[str], ignore: Sequence[str]) -> list[str]:
    """The files that the patterns leave; without any, those that vLLM needs, and the weights in one format.

    Raises `HubFailure` where there are GGUF files of several kinds to choose from.
    """
    names = sorted(files)
    if allow or ignore:
        return [name for name in names if (not allow or _is_like(name, allow)) and not _is_like(name, ignore)]
    top = [name for name in names if "/" not in name]
    for weights in ("*.safetensors", "*.bin"):
        if any(fnmatchcase(name, weights) and not name.startswith("consolidated") for name in top):
            others = [pattern for pattern in _OTHER_FORMATS + _OTHER_PLACES if pattern != weights]
            return [name for name in names if not _is_like(name, others)]
    variants = {name.split("-00001-of-")[0] for name in names if name.endswith(".gguf") and "-of-" not in name}
    variants |= {name.split("-00001-of-")[0] for name in names if "-00001-of-" in name and name.endswith(".gguf")}
    if len(variants) > 1:
        shown = ", ".join(sorted(variants)[:4])
        raise HubFailure(f"there are {len(variants)} GGUF files, {shown} …: choose, as with --allow '*Q4_K_M*'")
    return names


def carry_out(
    pull: Pull,
    progress: Progress,
    workers: int = 4,
    free: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free,
) -> Path:
    """Fetch what is missing, link it, record it; the snapshot's directory. Raises `HubFailure`."""
    _check_room(pull, free)
    try:
        _fetch_all(pull, progress, workers)
        for path, file in pull.files.items():
            _link(pull.snapshot / path, pull.blob(file))
        _name(pull)
        record = Record(pull.model, pull.commit, time.time(), dict(pull.files), pull.allow, pull.ignore)
        write_record(record_path(pull.repository, pull.commit), record)
    except OSError as failure:
        raise hub.explained(failure, pull.model, pull.revision) from failure
    return pull.snapshot


def local_commit(model: str, revision: str) -> str | None:
    """The commit that a revision was when it was last pulled; None where it was not."""
    directory = hub.repository(model)
    ref = directory / "refs" / revision
    commit = ref.read_text().strip() if ref.is_file() else revision
    return commit if (directory / "snapshots" / commit).is_dir() else None


def whole_here(model: str, revision: str) -> Path:
    """The snapshot of a model that was pulled before, nobody being asked. Raises `HubFailure` where it is not whole."""
    if (commit := local_commit(model, revision)) is None:
        raise HubFailure(
            f"{model} ({revision}) is not here; pull it where the hub can be reached, and copy {hub.cache()}"
        )
    directory = hub.repository(model)
    snapshot = directory / "snapshots" / commit
    record = read_record(record_path(directory, commit))
    absent = [path for path, file in (record.files if record else {}).items() if not _is_whole(snapshot / path, file)]
    if absent:
        raise HubFailure(f"{model} lacks {len(absent)} files, {absent[0]} first: pull it where the hub can be reached")
    return snapshot


def _check_room(pull: Pull, free: Callable[[Path], int]) -> None:
    """See that what is missing fits on the disk."""
    needed = pull.missing_bytes()
    existing = next(path for path in (pull.repository, *pull.repository.parents) if path.exists())
    if needed and (room := free(existing)) <= needed:
        raise HubFailure(
            f"{pull.model} needs {readable(needed)} more and {hub.cache()} has {readable(room)} free: "
            "free some, as with `forebay models remove MODEL`, or set HF_HOME to another disk"
        )


def _fetch_all(pull: Pull, progress: Progress, workers: int) -> None:
    """Fetch the missing files, some at a time; the first failure ends the others."""
    stop = threading.Event()
    with ThreadPoolExecutor(workers) as pool:
        smallest_first = sorted(pull.missing().items(), key=lambda item: item[1].size)
        running = [
            pool.submit(hub.fetch, pull.model, pull.commit, path, file, pull.blob(file), progress, stop)
            for path, file in smallest_first
        ]
        try:
            done, _ = wait(running, return_when=FIRST_EXCEPTION)
        finally:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
    failures = [failure for future in done if (failure := future.exception()) is not None]
    if real := [failure for failure in failures if not isinstance(failure, Stopped)]:
        raise real[0]


def _link(name: Path, blob: Path) -> None:
    """Give a content its name, by a link that holds wherever the cache is moved to."""
    target = os.path.relpath(blob, name.parent)
    if name.is_symlink() and os.readlink(name) == target:
        return
    name.parent.mkdir(parents=True, exist_ok=True)
    name.unlink(missing_ok=True)
    name.symlink_to(target)


def _name(pull: Pull) -> None:
    """Keep what the revision's name stands for, as the library does, so that it is found offline."""
    if pull.revision != pull.commit:
        ref = pull.repository / "refs" / pull.revision
        ref.parent.mkdir(parents=True, exist_ok=True)
        ref.write_text(pull.commit)


def _is_whole(path: Path, file: FileSum) -> bool:
    return path.is_file() and path.stat().st_size == file.size


def _is_like(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern + "*" if pattern.endswith("/") else pattern) for pattern in patterns)
