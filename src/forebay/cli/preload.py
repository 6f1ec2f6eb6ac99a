"""`models preload`: a model's weights into memory before an engine asks for them."""

import time
from pathlib import Path

from forebay.cli.lookup import NameOrDirectory, Revision, model_or_directory, report
from forebay.cli.options import AsJson, fail
from forebay.cli.transfer import transfer
from forebay.models.sizes import readable


def preload(
    model: NameOrDirectory,
    revision: Revision = None,
    as_json: AsJson = False,
) -> None:
    """Read a model's weights into memory (the page cache), so that an engine started next loads them from there:

    forebay models preload default
    """
    from forebay.models.preload import available_bytes
    from forebay.models.preload import preload as read_all

    found = model_or_directory(model, revision)
    paths = [found.path / name for name in found.weights]
    if not paths:
        fail(f"{model} has no weights here")
    size = sum(path.stat().st_size for path in paths)
    if size > (room := available_bytes(Path("/proc/meminfo").read_text())):
        fail(f"{model} has {readable(size)} of weights and {readable(room)} of memory is free: it would not stay there")
    started = time.monotonic()
    try:
        with transfer(f"reading {model}", size) as progress:
            read_all(paths, progress)
    except OSError as failure:
        fail(f"cannot read {failure.filename}: {failure.strerror}")
    seconds = time.monotonic() - started
    fields = {"model": model, "files": len(paths), "size_bytes": size, "seconds": round(seconds, 3)}
    rate = readable(int(size / max(seconds, 1e-6)))
    report(fields, as_json, f"{model}: {readable(size)} in memory after {seconds:.1f} s ({rate}/s)")
