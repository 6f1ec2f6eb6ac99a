"""The models on this machine: the packaged default, and what the hub's cache holds, pulled by whoever.

Only headers and small files are read. When a model was last used is when its weights were last read, as the file system
keeps it: to the day on most, and not at all where it is mounted with `noatime`. Looking here does not count.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from forebay.models import gguf
from forebay.models.facts import ModelFacts, read_facts, read_json
from forebay.models.hub import PARTIAL
from forebay.models.quantisation import gguf_quantisation
from forebay.models.record import read_record, record_path
from forebay.models.tensors import BadWeights, weight_files

DEFAULT = "default"
_WEIGHTS = (".safetensors", ".gguf", ".bin", ".pt", ".pth")


@dataclass(frozen=True)
class Model:
    """One model in one revision, or the packaged one. `problem` says why it is not whole, or cannot be read."""

    name: str
    revision: str
    names: tuple[str, ...]
    path: Path
    size_bytes: int
    files: tuple[str, ...]
    last_used: float | None
    architecture: str = ""
    parameters: int | None = None
    quantisation: str = ""
    dtype: str = ""
    context_tokens: int = 0
    rope: str = ""
    chat_template: str = ""
    problem: str = ""
    facts: ModelFacts | None = None

    @property
    def weights(self) -> tuple[str, ...]:
        """The files that an engine reads when it starts."""
        safe = tuple(file for file in self.files if file.endswith(".safetensors"))
        return safe or tuple(file for file in self.files if file.endswith(_WEIGHTS))

    @property
    def state(self) -> str:
        """Complete, or not."""
        return "incomplete" if self.problem else "complete"

    def as_json(self) -> dict[str, Any]:
        """All that is known, for programs."""
        return {**asdict(self), "path": str(self.path), "state": self.state}


def models(hub_cache: Path, default: Path) -> Iterator[Model]:
    """All models here, the packaged default first, then by name, the newest revision of each first."""
    if default.is_dir():
        yield describe(DEFAULT, "packaged", (default.name,), default, "")
    for repository in sorted(hub_cache.glob("models--*")):
        yield from revisions(repository)


def revisions(repository: Path) -> Iterator[Model]:
    """What the hub's cache holds of one model; where no revision has a name yet, what has come of it."""
    name = repository.name.removeprefix("models--").replace("--", "/")
    named = dict(_refs(repository / "refs"))
    snapshots = [path for path in (repository / "snapshots").glob("*") if path.is_dir()]
    for path in sorted(snapshots, key=lambda path: path.stat().st_mtime, reverse=True):
        names = tuple(sorted(ref for ref, commit in named.items() if commit == path.name))
        yield describe(name, path.name, names, path, _absent(repository, path))
    if not snapshots and (partial := sum(file.stat().st_size for file in repository.glob("blobs/*"))):
        yield Model(name, "", (), repository, partial, (), None, problem="its download was not finished: pull it again")


def describe(name: str, revision: str, names: tuple[str, ...], path: Path, problem: str) -> Model:
    """What a directory with a model's files says of it."""
    files = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
    stats = {file: (path / file).stat() for file in files}
    weights = [stat.st_atime for file, stat in stats.items() if file.endswith(_WEIGHTS)]
    found: dict[str, Any] = {}
    try:
        found = _read(path, files)
    except (BadWeights, OSError) as failure:
        problem = problem or str(failure)
    size = sum(stat.st_size for stat in stats.values())
    last_used = max(weights, default=None)
    return Model(name, revision, names, path, size, tuple(files), last_used, **found, problem=problem)


def chat_template(path: Path) -> str:
    """Where a model's chat template is; empty where it has none."""
    if (path / "chat_template.jinja").is_file():
        return "chat_template.jinja"
    for name in ("chat_template.json", "tokenizer_config.json"):
        if (path / name).is_file() and read_json(path / name).get("chat_template"):
            return name
    return ""


def _read(path: Path, files: Iterable[str]) -> dict[str, Any]:
    """What the catalogue shows, of a directory's config.json, or else of its GGUF file."""
    ggufs = [file for file in files if file.endswith(".gguf")]
    if not (path / "config.json").is_file() and ggufs:
        return _read_gguf(path, ggufs[0])
    facts = read_facts(path)
    by_name = gguf_quantisation(ggufs[0]) if ggufs and facts.weight_bytes is None else None
    return {
        "architecture": facts.architecture,
        "parameters": facts.parameters,
        "quantisation": str(facts.quantisation or by_name or ""),
        "dtype": facts.dtype,
        "context_tokens": facts.context_tokens,
        "rope": facts.rope,
        "chat_template": chat_template(path),
        "facts": facts,
    }


def _read_gguf(path: Path, file: str) -> dict[str, Any]:
    header = gguf.read_header(path / file)
    return {
        "architecture": header.architecture,
        "parameters": header.parameters,
        "quantisation": str(gguf_quantisation(file) or ""),
        "context_tokens": header.context_tokens,
        "chat_template": file if header.has_chat_template else chat_template(path),
    }


def _refs(directory: Path) -> Iterator[tuple[str, str]]:
    for file in directory.rglob("*"):
        if file.is_file():
            yield file.relative_to(directory).as_posix(), file.read_text().strip()


def _absent(repository: Path, snapshot: Path) -> str:
    """Why a snapshot is not whole; empty where it is. A record says what it must have, or else the weights' index."""
    if record := read_record(record_path(repository, snapshot.name)):
        wanted: Iterable[str] = record.files
    else:
        try:
            wanted = weight_files(snapshot)
        except BadWeights as wrong:
            return str(wrong)
    absent = [name for name in wanted if not (snapshot / name).is_file()]
    if absent:
        return f"lacks {len(absent)} files, {absent[0]} first: pull it again"
    return "has a partial file: pull it again" if not record and any(repository.glob(f"blobs/*{PARTIAL}")) else ""
