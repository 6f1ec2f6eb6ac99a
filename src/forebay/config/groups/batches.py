"""Files of requests, and batches made of them."""

from functools import partial
from pathlib import Path
from typing import Annotated

from pydantic import Field

from forebay.config.groups.group import MIB, Group, declare

setting = partial(declare, group="batches")


class BatchSettings(Group):
    batch_concurrency: int = setting(
        16, "Requests of batches under way at once, in all; 0 leaves batches to other gateways.", ge=0, le=4096
    )
    max_batch_lines: int = setting(50_000, "Most requests in a batch.", ge=1, le=1_000_000)
    batch_lease_s: Annotated[float, Field(ge=1, le=600, allow_inf_nan=False)] = setting(
        10.0, "Time after which another gateway goes on with a batch whose gateway is silent, seconds."
    )
    files_dir: Path | None = setting(
        None,
        "Where files are kept; a directory below FOREBAY_HOME, else ~/.local/share/forebay, where it is not set. "
        "Gateways that share a database must share it too.",
    )
    max_file_bytes: int = setting(128 * MIB, "Largest file, bytes.", ge=1024, le=4096 * MIB)
    max_tenant_file_bytes: int = setting(
        1024 * MIB,
        "Most that the files a tenant uploads may have together, bytes; each counts for 4 KiB at least.",
        ge=4096,
    )
    file_days: int = setting(30, "Time after which a file is removed, days.", ge=2, le=3650)
