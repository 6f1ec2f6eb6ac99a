"""A model comes from the hub whole, whatever happens on the way, and what cannot be had is said in one line."""

import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest
from huggingface_hub import snapshot_download

from forebay.models.hub import HubFailure
from forebay.models.pull import Pull, carry_out, choose_files
from forebay.models.record import FileSum
from tests.models.conftest import Machine
from tests.models.fake_hub import TOKEN, git_digest, tiny

LARGE = "model-00002-of-00002.safetensors"
# The library hands on ten megabytes at a time; these files are smaller.
SMALL_CHUNKS = "from huggingface_hub import constants; constants.DOWNLOAD_CHUNK_SIZE = 1000;"
NEEDED = {
    "README.md",
    "config.json",
    "model-00001-of-00002.safetensors",
    LARGE,
    "model.safetensors.index.json",
    "tokenizer_config.json",
}


def test_a_pulled_model_is_where_the_library_that_vllm_uses_finds_it_offline(machine: Machine) -> None:
    found = machine.asked("pull", "acme/tiny")
    snapshot = snapshot_download("acme/tiny", cache_dir=machine.cache, local_files_only=True)
    assert found["path"] == snapshot
    assert {path.relative_to(snapshot).as_posix() for path in Path(snapshot).rglob("*")} == NEEDED
    assert all((Path(snapshot) / name).read_bytes() == machine.hub.models["acme/tiny"].files[name] for name in NEEDED)


def test_the_token_goes_to_the_hub_and_not_to_the_storage_that_it_names(machine: Machine) -> None:
    machine.ok("pull", "acme/tiny", HF_TOKEN=TOKEN)
    tokens = {path.startswith("/storage/"): token for _, path, _, token in machine.hub.asked}
    assert tokens == {True: None, False: f"Bearer {TOKEN}"}


def test_what_is_here_is_not_fetched_again(machine: Machine) -> None:
    machine.ok("pull", "acme/tiny")
    machine.hub.asked.clear()
    assert machine.asked("pull", "acme/tiny")["fetched_bytes"] == 0
    assert not [path for _, path, _, _ in machine.hub.asked if "/api/" not in path]


def test_a_connection_that_is_cut_goes_on_where_it_was(machine: Machine) -> None:
    machine.hub.cut_at[LARGE] = 50_000
    done = machine.run("pull", "acme/tiny", before=SMALL_CHUNKS)
    assert done.returncode == 0, done.stderr
    assert machine.hub.gets(LARGE) == [None, "bytes=50000-"]
    assert machine.asked("verify", "acme/tiny")[0]["result"] == "right"


def test_a_pull_that_was_killed_goes_on_where_it_was(machine: Machine) -> None:
    machine.hub.hold_at[LARGE] = 60_000
    killed = machine.start("pull", "acme/tiny", before=SMALL_CHUNKS)
    try:
        wait_for_partial(machine, 60_000)
    finally:
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
    assert machine.asked("list")[0]["state"] == "incomplete"
    machine.hub.hold_at.clear()
    whole = len(machine.hub.models["acme/tiny"].files[LARGE])
    assert machine.asked("pull", "acme/tiny")["fetched_bytes"] == whole - 60_000
    assert machine.hub.gets(LARGE) == [None, "bytes=60000-"]
    assert machine.asked("verify", "acme/tiny")[0]["result"] == "right"


def wait_for_partial(machine: Machine, size: int) -> None:
    """Until so much of the large file is here, and all of the others."""
    blobs = machine.cache / "models--acme--tiny" / "blobs"
    until = time.monotonic() + 30

    def come() -> list[int]:
        with suppress(FileNotFoundError):  # one has become whole just now
            return [path.stat().st_size for path in blobs.glob("*.incomplete")]
        return []

    while come() != [size]:
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.02)


def test_a_file_that_comes_spoilt_is_refused_and_fetched_anew(machine: Machine) -> None:
    machine.hub.spoilt.add("README.md")
    assert machine.refused("pull", "acme/tiny").startswith("README.md came with checksum ")
    assert not (machine.cache / "models--acme--tiny" / "snapshots").exists()
    machine.hub.spoilt.clear()
    machine.ok("pull", "acme/tiny")


def test_patterns_say_which_files_come(machine: Machine) -> None:
    found = machine.asked("pull", "acme/tiny", "--allow", "*.json", "--allow", "*.bin", "--ignore", "original/*")
    names = {path.name for path in Path(found["path"]).rglob("*") if path.is_file()}
    assert names == {"config.json", "tokenizer_config.json", "model.safetensors.index.json", "pytorch_model.bin"}
    assert machine.asked("pull", "acme/tiny", "--allow", "*")["files"] == len(machine.hub.models["acme/tiny"].files)


def test_a_gated_model_needs_a_token_that_is_right(machine: Machine) -> None:
    machine.hub.models["acme/tiny"].gated = True
    url = f"{machine.hub.url}/acme/tiny"
    told = f"acme/tiny is gated: accept its terms at {url}, and set HF_TOKEN to a token of yours"
    assert machine.refused("pull", "acme/tiny") == told
    wrong = machine.refused("pull", "acme/tiny", HF_TOKEN="hf_wrong")
    assert wrong == f"{machine.hub.url} answers 401: HF_TOKEN is wrong or expired"
    machine.ok("pull", "acme/tiny", HF_TOKEN=TOKEN)


def test_what_the_hub_does_not_have_is_said_in_a_line(machine: Machine) -> None:
    url = machine.hub.url
    private = "it is private: set HF_TOKEN"
    assert machine.refused("pull", "acme/none") == f"{url} has no model acme/none, or {private}; check the name"
    assert machine.refused("pull", "acme/tiny", "--revision", "v9").startswith("acme/tiny has no revision v9: see ")
    assert machine.refused("pull", "acme/tiny", "--allow", "*.onnx").startswith("no file of acme/tiny is left by ")
    assert "is no name of a model" in machine.refused("pull", "../tiny", status=2)


@pytest.mark.parametrize(("status", "told"), [(403, "the token may not read this"), (503, "try again later")])
def test_what_the_hub_refuses_is_said_in_a_line(machine: Machine, status: int, told: str) -> None:
    machine.hub.status["/api/models/acme/tiny/revision/main"] = status
    assert f"answers {status}: {told}" in machine.refused("pull", "acme/tiny", HF_TOKEN=TOKEN)


def test_without_a_hub_there_is_what_was_pulled_before(machine: Machine) -> None:
    assert "is not here" in machine.refused("pull", "acme/tiny", "--offline")
    path = machine.asked("pull", "acme/tiny")["path"]
    machine.hub.asked.clear()
    assert machine.asked("pull", "acme/tiny", "--offline")["path"] == path
    assert machine.asked("pull", "acme/tiny", HF_HUB_OFFLINE="1")["path"] == path
    assert not machine.hub.asked
    told = machine.refused("pull", "acme/tiny", HF_ENDPOINT="http://127.0.0.1:9")
    assert told.startswith("cannot reach http://127.0.0.1:9: ")
    (Path(path) / LARGE).resolve().unlink()
    assert f"lacks 1 files, {LARGE} first" in machine.refused("pull", "acme/tiny", "--offline")


def pull_of(files: dict[str, bytes], repository: Path) -> Pull:
    sums = {name: FileSum(len(content), git_digest(content)) for name, content in files.items()}
    return Pull("acme/tiny", "main", "a" * 40, sums, (), (), repository)


def test_a_disk_without_room_is_refused_before_anything_is_fetched(tmp_path: Path) -> None:
    pull = pull_of({"model.safetensors": bytes(5000)}, tmp_path / "models--acme--tiny")
    with pytest.raises(
        HubFailure, match=r"acme/tiny needs 5.00 kB more and .* has 4.00 kB free: free some, .* HF_HOME"
    ):
        carry_out(pull, lambda size: None, free=lambda path: 4000)
    assert not list(tmp_path.iterdir())


def test_a_partial_file_needs_room_for_the_rest_alone(tmp_path: Path) -> None:
    pull = pull_of({"a": bytes(5000), "b": b"1"}, tmp_path)
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / f"{git_digest(bytes(5000))}.incomplete").write_bytes(bytes(3000))
    (tmp_path / "blobs" / git_digest(b"1")).write_bytes(b"1")
    assert pull.missing_bytes() == 2000


def test_one_format_of_the_weights_is_chosen() -> None:
    assert set(choose_files(tiny().files, (), ())) == NEEDED
    torch = ["config.json", "pytorch_model.bin"]
    assert choose_files([*torch, "flax_model.msgpack", "tf_model.h5"], (), ()) == torch
    mistral = ["consolidated.safetensors", "model.safetensors"]
    assert choose_files(mistral, (), ()) == ["model.safetensors"]
    assert choose_files(["consolidated.safetensors"], (), ()) == ["consolidated.safetensors"]


def test_of_several_gguf_files_one_is_to_be_chosen() -> None:
    several = ["m.Q4_K_M.gguf", "m.Q8_0-00001-of-00002.gguf", "m.Q8_0-00002-of-00002.gguf"]
    with pytest.raises(HubFailure, match="there are 2 GGUF files"):
        choose_files(several, (), ())
    assert choose_files(several[1:], (), ()) == several[1:]
    assert choose_files(several, ["*Q4_K_M*"], ()) == several[:1]


def test_a_file_too_large_for_plain_http_is_left_to_the_library(machine: Machine) -> None:
    """Which has no other way to this hub, and says so."""
    program = "from huggingface_hub import constants; constants.MAX_HTTP_DOWNLOAD_SIZE = 10_000;"
    done = machine.run("pull", "acme/tiny", before=program)
    assert done.returncode == 1
    told = "forebay: acme/tiny: The file is too large to be downloaded using the regular download method."
    assert done.stderr.splitlines()[-1].startswith(told)


def test_two_pulls_at_once_fetch_each_file_once(machine: Machine) -> None:
    both = [machine.start("pull", "acme/tiny") for _ in range(2)]
    for one in both:
        one.communicate(timeout=60)
        assert one.returncode == 0
    assert machine.hub.gets(LARGE) == [None]


def test_a_file_that_the_hub_refuses_is_said_in_a_line(machine: Machine) -> None:
    machine.hub.status[f"/acme/tiny/resolve/{tiny().commit}/config.json"] = 403
    assert "answers 403" in machine.refused("pull", "acme/tiny", HF_TOKEN=TOKEN)
