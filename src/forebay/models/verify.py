"""Whether a model's files are what the hub said they are, byte for byte.

What they must be stands in the record of the pull; for a model that was pulled by other means, in the names that
the hub's library gives to contents, which are their checksums. So no network is needed.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from forebay.models.record import FileSum, Record, checksum
from forebay.models.tensors import BadWeights, weight_files

_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True)
class Verdict:
    """What was found: `wrong` and `missing` by name with the reason; `unknown` have nothing to be compared with."""

    checked: int
    wrong: dict[str, str]
    missing: tuple[str, ...]
    unknown: tuple[str, ...]

    @property
    def is_good(self) -> bool:
        """Whether all that could be compared is right, and something could."""
        return not self.wrong and not self.missing and self.checked > 0


def expected_files(directory: Path, record: Record | None) -> dict[str, FileSum | None]:
    """What the files of a directory must be; None for one that nothing is known of."""
    if record is not None:
        return dict(record.files)
    found = sorted(path for path in directory.rglob("*") if path.is_file() or path.is_symlink())
    known: dict[str, FileSum | None] = {path.relative_to(directory).as_posix(): _by_name(path) for path in found}
    try:
        return {**dict.fromkeys(weight_files(directory)), **known}
    except BadWeights:
        return known


def verify(
    directory: Path, expected: Mapping[str, FileSum | None], checked: Callable[[int], None] = lambda size: None
) -> Verdict:
    """Read every file and compare; `checked` is told the size of each."""
    wrong: dict[str, str] = {}
    missing, unknown = [], []
    for name, file in expected.items():
        path = directory / name
        if not path.is_file():
            missing.append(name)
        elif file is None:
            unknown.append(name)
        elif why := _difference(path, file):
            wrong[name] = why
        if file is not None:
            checked(file.size)
    compared = len(expected) - len(missing) - len(unknown)
    return Verdict(compared, wrong, tuple(missing), tuple(unknown))


def _difference(path: Path, file: FileSum) -> str:
    """How a file differs from what it must be; empty where it does not."""
    try:
        if (size := path.stat().st_size) != file.size:
            return f"has {size} bytes, not {file.size}"
        found = checksum(path, file.digest)
    except OSError as failure:
        return f"cannot be read: {failure.strerror}"
    return "" if found == file.digest else f"has checksum {found}, not {file.digest}"


def _by_name(path: Path) -> FileSum | None:
    """What a link of the hub's cache leads to must be: it is named by its checksum."""
    digest = os.path.basename(os.readlink(path)) if path.is_symlink() else ""
    if not _DIGEST.fullmatch(digest):
        return None
    return FileSum(path.stat().st_size if path.exists() else 0, digest)
