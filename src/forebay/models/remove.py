"""Remove a model, or one of its revisions, from the hub's cache: names first, contents that nothing else names last."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from huggingface_hub import scan_cache_dir

from forebay.models.record import record_path


def remove(repository: Path, commits: Iterable[str]) -> None:
    """Remove these revisions, and the rest of the model with the last of them. Raises OSError."""
    gone = list(commits)
    if gone:
        scan_cache_dir(repository.parent).delete_revisions(*gone).execute()
    for commit in gone:
        record_path(repository, commit).unlink(missing_ok=True)
        if (left := repository / "snapshots" / commit).exists():  # of a model that the library finds broken
            shutil.rmtree(left)
    if repository.exists() and not any((repository / "snapshots").glob("*")):
        shutil.rmtree(repository)
