"""The models that are here: listed, shown, checked, removed, and read into memory."""

import ctypes
import json
import mmap
import os
from pathlib import Path

import pytest

from forebay.models.preload import available_bytes, preload
from tests.models.conftest import Machine
from tests.models.fake_hub import CONFIG, FakeModel, safetensors, tiny

LARGE = "model-00002-of-00002.safetensors"


@pytest.fixture
def pulled(machine: Machine) -> Path:
    return Path(machine.asked("pull", "acme/tiny")["path"])


def test_the_list_shows_what_a_model_is(machine: Machine, pulled: Path) -> None:
    machine.hub.models["acme/awq"] = FakeModel(
        {
            "config.json": json.dumps({**CONFIG, "quantization_config": {"quant_method": "awq", "bits": 4}}).encode(),
            "model.safetensors": safetensors({"a.qweight": ("I32", (8, 2)), "a.scales": ("F16", (1, 16))}),
            "chat_template.jinja": b"{{ messages }}",
        }
    )
    machine.ok("pull", "acme/awq")
    awq, plain = machine.asked("list")
    assert (awq["quantisation"], awq["parameters"], awq["chat_template"]) == ("AWQ 4-bit", 128, "chat_template.jinja")
    assert (plain["name"], plain["names"], plain["state"], plain["quantisation"]) == (
        "acme/tiny",
        ["main"],
        "complete",
        "",
    )
    assert (plain["parameters"], plain["dtype"], plain["context_tokens"]) == (40_800, "bfloat16", 2048)
    assert (plain["architecture"], plain["chat_template"]) == ("LlamaForCausalLM", "tokenizer_config.json")
    assert plain["size_bytes"] == sum(path.stat().st_size for path in pulled.rglob("*"))
    table = machine.ok("list").splitlines()
    assert "AWQ 4-bit" in table[1]
    assert "40.8K" in table[2]


def test_looking_at_a_model_is_no_use_of_it(machine: Machine, pulled: Path) -> None:
    for file in pulled.iterdir():
        os.utime(file, (1_000_000_000, 1_000_000_000))
    for words in (["list"], ["show", "acme/tiny"], ["verify"]):
        machine.ok(*words)
    assert machine.asked("list")[0]["last_used"] == 1_000_000_000
    (pulled / LARGE).read_bytes()
    assert machine.asked("list")[0]["last_used"] > 1_000_000_000


def test_a_model_that_lacks_a_file_is_listed_as_incomplete(machine: Machine, pulled: Path) -> None:
    (pulled / LARGE).unlink()
    (found,) = machine.asked("list")
    assert found["state"] == "incomplete"
    assert found["problem"] == f"lacks 1 files, {LARGE} first: pull it again"


def test_show_tells_all_of_a_model_or_a_directory(machine: Machine, pulled: Path) -> None:
    found = machine.asked("show", "acme/tiny")
    assert found["facts"]["layers"] == 2
    assert found["facts"]["weight_bytes"] == 81_600
    directory = machine.asked("show", str(pulled))
    assert directory["facts"] == found["facts"]
    assert "weight_bytes" in machine.ok("show", "acme/tiny")
    assert machine.refused("show", "acme/none").startswith("acme/none is not here; ")
    assert machine.refused("show", "./none") == "there is no directory none"


def test_a_byte_that_turned_is_found_without_the_hub_and_repaired_with_it(machine: Machine, pulled: Path) -> None:
    for name in (LARGE, "README.md"):  # of each kind of checksum
        content = bytearray((pulled / name).read_bytes())
        content[-1] ^= 1
        (pulled / name).write_bytes(content)
    done = machine.run("verify", "acme/tiny", HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 1
    assert f"  {LARGE} has checksum " in done.stdout
    assert "  README.md has checksum " in done.stdout
    assert machine.asked("verify", "--repair")[0]["result"] == "right"
    assert machine.hub.gets(LARGE) == [None, None]
    assert "right: 6 files checked" in machine.ok("verify")


def test_what_was_pulled_by_other_means_is_checked_too(machine: Machine, pulled: Path) -> None:
    (pulled.parents[1] / "forebay" / f"{pulled.name}.json").unlink()
    (found,) = machine.asked("verify")
    assert (found["result"], found["files"]) == ("right", 6)
    with (pulled / LARGE).open("r+b") as file:
        file.truncate(1000)
    (pulled / "README.md").unlink()
    done = machine.run("verify", "--json")
    assert done.returncode == 1
    assert list(json.loads(done.stdout)[0]["wrong"]) == [LARGE]


def test_a_model_is_removed_with_all_that_was_fetched_of_it(machine: Machine, pulled: Path) -> None:
    assert machine.refused("remove", "acme/tiny", status=2) == "say --yes: there is nobody to ask"
    assert pulled.exists()
    machine.ok("remove", "acme/tiny", "--yes")
    assert not pulled.parents[1].exists()
    assert machine.refused("remove", "acme/tiny", "--yes").startswith("acme/tiny is not here; ")


def test_one_revision_is_removed_and_leaves_what_others_share_with_it(machine: Machine, pulled: Path) -> None:
    changed = tiny()
    changed.files["README.md"] = b"# Changed\n"
    changed.commit = "b" * 40
    changed.refs = {"v2": changed.commit}
    machine.hub.models["acme/tiny"] = changed
    machine.ok("pull", "acme/tiny", "--revision", "v2")
    assert [model["names"] for model in machine.asked("list")] == [["v2"], ["main"]]
    machine.ok("remove", "acme/tiny", "--revision", "v2", "--yes")
    (left,) = machine.asked("verify")
    assert (left["revision"], left["result"]) == (pulled.name, "right")
    assert len(list((pulled.parents[1] / "blobs").iterdir())) == 6


def resident(path: Path) -> float:
    """The share of a file's pages that are in memory."""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        pages = -(-len(mapped) // mmap.PAGESIZE)
        there = (ctypes.c_ubyte * pages)()
        start = ctypes.byref(ctypes.c_char.from_buffer(mapped))
        assert ctypes.CDLL(None, use_errno=True).mincore(start, ctypes.c_size_t(len(mapped)), there) == 0
        share = sum(page & 1 for page in there) / pages
        del start
    return share


def test_a_preloaded_file_is_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(os.urandom(20_000_000))
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if resident(path) > 0.5:
        pytest.skip("this file system keeps everything in memory")
    done: list[int] = []
    preload([path], done.append)
    assert resident(path) == 1
    assert sum(done) == 20_000_000


def test_preload_reads_the_weights_and_says_how_fast(machine: Machine, pulled: Path) -> None:
    assert pulled.exists()
    found = machine.asked("preload", "acme/tiny")
    assert (found["files"], found["size_bytes"] > 81_600) == (2, True)
    assert "in memory after" in machine.ok("preload", str(pulled))


def test_memory_is_what_the_system_has_and_the_container_may_use(tmp_path: Path) -> None:
    meminfo = "MemTotal: 9000 kB\nMemAvailable:    4000 kB\n"
    assert available_bytes(meminfo, tmp_path) == 4000 * 1024
    (tmp_path / "memory.stat").write_text("anon 1000\nfile 77\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert available_bytes(meminfo, tmp_path) == 4000 * 1024
    (tmp_path / "memory.max").write_text("3000\n")
    assert available_bytes(meminfo, tmp_path) == 2000
