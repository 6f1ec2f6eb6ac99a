"""The Hugging Face hub, by its own library: what a model's revision holds, and one file of it at a time.

A file that was cut off goes on where it stopped, in another process too: the library throws partial files away, so they
are kept here, beside their place, and take it once their checksum is right. Everything that may go wrong on the way
is a `HubFailure`, in one line with the fix.
"""

import errno
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import urlsplit

from httpx2 import HTTPError, ProxyError
from huggingface_hub import HfApi, constants, get_hf_file_metadata, get_token, hf_hub_download, hf_hub_url
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import http_get
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import logging as hub_logging
from huggingface_hub.utils._headers import build_hf_headers
from huggingface_hub.utils.tqdm import disable_progress_bars

from forebay.models.record import FileSum, checksum

Progress = Callable[[int], None]

TRIES = 5  # in a row without a byte
PAUSE_S = 1.0
TIMEOUT_S = 10.0
PARTIAL = ".incomplete"


class HubFailure(Exception):
    """What was asked of the hub cannot be had; the message says why and what to do."""


class Stopped(Exception):
    """The download was given up, here or because another file's failed."""


class HubFile:
    """Where the library writes to: counts what comes, and stops when told."""

    def __init__(self, file: BinaryIO, progress: Progress, stop: threading.Event) -> None:
        self._file = file
        self._progress = progress
        self._stop = stop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, chunk: bytes) -> int:
        if self._stop.is_set():
            raise Stopped
        self._progress(len(chunk))
        written = self._file.write(chunk)
        self._file.flush()  # so that it is there for the next process, should this one be killed
        return written


def quiet() -> None:
    """The library says nothing to people, who are told things here, and nothing about them to its makers."""
    constants.HF_HUB_DISABLE_TELEMETRY = True
    disable_progress_bars()
    hub_logging.set_verbosity(logging.CRITICAL)


def cache() -> Path:
    """Where the hub's models are kept, which vLLM finds them in too: HF_HUB_CACHE, or below HF_HOME."""
    return Path(constants.HF_HUB_CACHE)


def repository(model: str) -> Path:
    """A model's directory in the cache, whether it is there or not."""
    return cache() / f"models--{model.replace('/', '--')}"


def lock(model: str) -> Path:
    """What is held while a model is pulled or removed."""
    return cache() / ".locks" / repository(model).name / "forebay.lock"


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE says that nobody is to be asked."""
    return constants.is_offline_mode()


def listing(model: str, revision: str) -> tuple[str, dict[str, FileSum]]:
    """A revision's commit and its files. Raises `HubFailure`."""
    api = HfApi()
    try:
        commit = api.model_info(model, revision=revision, timeout=TIMEOUT_S).sha
        tree = api.list_repo_tree(model, recursive=True, revision=commit)
        files = {
            entry.path: FileSum(entry.size, entry.lfs.sha256 if entry.lfs else entry.blob_id)
            for entry in tree
            if isinstance(entry, RepoFile)
        }
    except (HTTPError, HFValidationError, OSError) as failure:
        raise explained(failure, model, revision) from failure
    if commit is None:
        raise HubFailure(f"{constants.ENDPOINT} does not answer as a hub does; check HF_ENDPOINT")
    return commit, files


def fetch(
    model: str, commit: str, path: str, expected: FileSum, blob: Path, progress: Progress, stop: threading.Event
) -> None:
    """Bring one file to `blob`, whole. Raises `HubFailure` and `Stopped`."""
    partial = blob.with_name(blob.name + PARTIAL)
    blob.parent.mkdir(parents=True, exist_ok=True)
    try:
        if expected.size > constants.MAX_HTTP_DOWNLOAD_SIZE:
            # Too large for plain HTTP: the library has another way, which begins anew when it is interrupted.
            hf_hub_download(model, path, revision=commit)
            progress(expected.size)
            return
        with partial.open("ab") as file:
            _complete(model, commit, path, expected.size, file, progress, stop)
            os.fsync(file.fileno())
        if (found := checksum(partial, expected.digest)) != expected.digest:
            partial.unlink()
            raise HubFailure(f"{path} came with checksum {found}, not {expected.digest}; it was removed: pull again")
        partial.replace(blob)
    except (HTTPError, OSError, ValueError) as failure:  # ValueError: too large, and the library's way is not there
        raise explained(failure, model, commit) from failure


def _complete(
    model: str, commit: str, path: str, size: int, file: BinaryIO, progress: Progress, stop: threading.Event
) -> None:
    """Append what is missing, asking again as long as something comes."""
    if file.tell() > size:
        file.truncate(0)
    tries = 0
    while (start := file.seek(0, os.SEEK_END)) < size:
        try:
            url, headers = _location(model, commit, path)
            target = cast(BinaryIO, HubFile(file, progress, stop))
            http_get(url, target, resume_size=start, headers=headers, expected_size=size)
        except (HTTPError, OSError) as failure:
            tries = 1 if file.seek(0, os.SEEK_END) > start else tries + 1
            if tries >= TRIES or not _may_pass(failure, came=tries == 1 and file.tell() > start):
                raise
            stop.wait(PAUSE_S)


def _may_pass(failure: Exception, came: bool) -> bool:
    """Whether asking again may help; a refusal may, after bytes `came`: storage addresses are signed for a time."""
    if isinstance(failure, HfHubHTTPError):
        return failure.response.status_code >= 500 or (came and failure.response.status_code in (401, 403))
    return isinstance(failure, HTTPError) or "Consistency check failed" in str(failure)


def _location(model: str, commit: str, path: str) -> tuple[str, dict[str, str]]:
    """Where a file is, and what to send there: the token to the hub alone, not to the storage that it names."""
    url = hf_hub_url(model, path, revision=commit)
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    location = get_hf_file_metadata(url).location
    if urlsplit(location).netloc != urlsplit(url).netloc:
        headers.pop("authorization", None)
    return location, headers


def explained(failure: Exception, model: str, revision: str) -> HubFailure:
    """A failure in one line with what to do."""
    hub, has_token = constants.ENDPOINT, get_token() is not None
    match failure:
        case GatedRepoError() if has_token:
            return HubFailure(f"{model} is gated, and this token's account has no access: ask for it at {hub}/{model}")
        case GatedRepoError():
            return HubFailure(
                f"{model} is gated: accept its terms at {hub}/{model}, and set HF_TOKEN to a token of yours"
            )
        case RepositoryNotFoundError():
            also = "the token's account may not see it" if has_token else "it is private: set HF_TOKEN"
            return HubFailure(f"{hub} has no model {model}, or {also}; check the name")
        case RevisionNotFoundError():
            return HubFailure(f"{model} has no revision {revision}: see {hub}/{model}/commits/main")
        case RemoteEntryNotFoundError():
            return HubFailure(f"{model} has lost a file that its listing names; pull again: {_first_line(failure)}")
        case DisabledRepoError():
            return HubFailure(f"{model} was disabled at {hub}; choose another model")
        case HfHubHTTPError():
            return HubFailure(f"{hub} answers {_refused(failure.response.status_code, has_token)}")
        case HFValidationError():
            return HubFailure(f"{model!r} is no name of a model: it is `owner/name`, as at {hub}")
        case OfflineModeIsEnabled():
            return HubFailure(f"HF_HUB_OFFLINE is set, and {model} is not here whole: unset it, or copy {cache()} here")
        case ProxyError():
            return HubFailure(f"the proxy does not let us through to {hub}: {_first_line(failure)}; check HTTPS_PROXY")
        case HTTPError():
            return HubFailure(f"cannot reach {hub}: {_first_line(failure)}; check the network, or HF_ENDPOINT")
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            return HubFailure(
                f"{cache()} is full: free some, or set HF_HOME to another disk; then pull again, to go on"
            )
        case OSError(filename=str() as where):
            return HubFailure(f"cannot write {where}: {failure.strerror}; set HF_HOME to a directory that will do")
    return HubFailure(f"{model}: {_first_line(failure)}")


def _refused(status: int, has_token: bool) -> str:
    if status == 401:
        return "401: HF_TOKEN is wrong or expired" if has_token else "401: set HF_TOKEN"
    if status == 403:
        return "403: the token may not read this; give it the right, or take another"
    if status == 429:
        return "429, too many requests: wait some minutes" + ("" if has_token else ", or set HF_TOKEN")
    return f"{status}: try again later"


def _first_line(failure: Exception) -> str:
    return (str(failure).strip() or type(failure).__name__).splitlines()[0]
