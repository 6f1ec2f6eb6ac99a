"""What was pulled, kept beside it: each file's size and checksum as the hub gave them, to be checked later without it.

The hub has two kinds of checksum: SHA-256 for large files, and Git's own, of a blob, for the others.
"""

import hashlib
import os
from pathlib import Path

import msgspec

from forebay.models.tensors import open_unnoticed

_CHUNK_BYTES = 8 * 1024 * 1024


class FileSum(msgspec.Struct, frozen=True):
    """What a file must be. `digest` is hexadecimal: 64 digits are SHA-256's, 40 those of a Git blob."""

    size: int
    digest: str


class Record(msgspec.Struct, frozen=True):
    """One revision of a model as it was pulled; `allow` and `ignore` are the patterns that chose the files."""

    model: str
    revision: str
    pulled_at: float
    files: dict[str, FileSum]
    allow: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()


def record_path(repository: Path, commit: str) -> Path:
    """Where the record of a revision is, in the hub's cache; it goes when the model does."""
    return repository / "forebay" / f"{commit}.json"


def read_record(path: Path) -> Record | None:
    """The record; None where there is none that can be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Record)
    except (OSError, msgspec.DecodeError):
        return None


def write_record(path: Path, record: Record) -> None:
    """Keep the record, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=2))
    partial.replace(path)


def checksum(path: Path, like: str) -> str:
    """A file's checksum, of the kind that `like` is."""
    with open_unnoticed(path) as file:
        if len(like) == 64:
            digest = hashlib.sha256()
        else:
            digest = hashlib.sha1(b"blob %d\0" % os.fstat(file.fileno()).st_size, usedforsecurity=False)
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
