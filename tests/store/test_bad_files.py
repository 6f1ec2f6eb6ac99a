"""Uploads that are wrong, and a disk that takes none: each is told why, in the form of all errors."""

from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from forebay.store.batch_input import check
from forebay.store.database import Database
from forebay.store.files import Files, NoRoom
from tests.gateway.calls import AUTH, error_of
from tests.gateway.conftest import StartGateway
from tests.gateway.fake_engine import FakeEngine
from tests.gateway.raw_client import Response, connect, fetch
from tests.waiting import until

FORM = "multipart/form-data; boundary=b"
FILE = 'name="file"; filename="in.jsonl"'


def form(*parts: tuple[str, str]) -> bytes:
    written = (f"--b\r\ncontent-disposition: form-data; {head}\r\n\r\n{body}\r\n" for head, body in parts)
    return "".join(written).encode() + b"--b--\r\n"


def of(*more: tuple[str, str], file: str = FILE) -> bytes:
    return form(('name="purpose"', "batch"), (file, "{}\n"), *more)


def expiring(seconds: str) -> bytes:
    return of(('name="expires_after[seconds]"', seconds))


async def sent(url: str, body: bytes, content_type: str = FORM) -> Response:
    return await fetch(url, "POST", "/v1/files", body, **AUTH, **{"content-type": content_type})


@pytest.fixture
def flags(database_url: str, database: Database, tmp_path: Path) -> dict[str, Any]:
    return {"database_url": SecretStr(database_url), "files_dir": tmp_path / "files"}


async def test_a_wrong_upload_is_refused_with_its_reason(flags: dict[str, Any], start_gateway: StartGateway) -> None:
    wrong = {
        "no file": (form(('name="purpose"', "batch")), FORM, 400),
        "two files": (of((FILE, "{}\n")), FORM, 400),
        "no parts": (b"", FORM, 400),
        "ends at once": (expiring("1"), FORM, 400),
        "a time of 5,000 digits": (expiring("000003600" + "9" * 5000), FORM, 400),
        "a time in other digits": (expiring("٣٦٠٠"), FORM, 400),
        "no form": (of(), "application/json", 415),
        "another form": (b"purpose=batch&file=x", "application/x-www-form-urlencoded", 415),
        "no boundary": (of(), "multipart/form-data", 400),
        "half of a pair in UTF-7": (of(file='name="file"; filename="+2AA-"'), f"{FORM}; charset=utf-7", 415),
        "a coding that raises": (of(), f"{FORM}; charset=undefined", 415),
    }
    async with FakeEngine() as engine, start_gateway(engine.url, **flags) as running:
        for name, (body, content_type, status) in wrong.items():
            refused = await sent(running.url, body, content_type)
            assert refused.status == status, (name, refused.body)
            assert error_of(refused)["message"], name
        assert (await fetch(running.url, "GET", "/v1/files", **AUTH)).json()["data"] == []


@pytest.mark.parametrize("name", ["../../etc/passwd", "/", "a\\\\b", "\0", "x" * 3000, "é\u4e00"], ids=ascii)
async def test_a_files_name_is_only_a_name(name: str, flags: dict[str, Any], start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, **flags) as running:
        made = await sent(running.url, of(file=f'name="file"; filename="{name}"'))
        assert made.status == 200, made.body
        (kept,) = (path for path in flags["files_dir"].rglob("*") if path.is_file())
        assert kept.name == made.json()["id"]
        asked = {"range": "bytes=999-", **AUTH}  # ranges are not offered, and a wrong one is no error
        content = await fetch(running.url, "GET", f"/v1/files/{kept.name}/content", **asked)
        assert (content.status, content.body) == (200, b"{}\n")


async def test_a_disk_that_takes_no_file_is_503_and_the_next_upload_goes_on(
    flags: dict[str, Any], start_gateway: StartGateway
) -> None:
    flags["files_dir"].write_text("in the way of the directory")
    async with FakeEngine() as engine, start_gateway(engine.url, **flags) as running:
        refused = await sent(running.url, of())
        assert (refused.status, error_of(refused)["code"]) == (503, "files_unavailable")
        assert 10 <= int(refused.header("retry-after") or 0) <= 20
        flags["files_dir"].unlink()
        assert (await sent(running.url, of())).status == 200


def test_a_line_that_is_too_long_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # of zeros, which take no room on disk
    total, errors = check(path, most_bytes=1024)
    assert (total, [error["code"] for error in errors]) == (0, ["line_too_long"])


async def test_uploads_that_come_at_once_have_room_together(flags: dict[str, Any], start_gateway: StartGateway) -> None:
    """Until it is whole an upload is on disk, and counts for nothing else."""
    async with start_gateway(ready=False, max_tenant_file_bytes=100_000, **flags) as running:
        assert running.gateway.batching is not None
        files = running.gateway.batching.files
        async with connect(running.url) as raw:
            await raw.request("POST", "/v1/files", b"", {**AUTH, "content-type": FORM, "content-length": "60000"})
            await until(lambda: "coming=60000" in repr(files))
            refused = await sent(running.url, of(file=f"{FILE}\r\nx: {'x' * 60_000}"))
            assert (refused.status, error_of(refused)["code"]) == (413, "no_room")
            assert (await sent(running.url, of())).status == 200
        await until(lambda: "coming=0" in repr(files))


def test_empty_files_take_room_too(database: Database, tmp_path: Path) -> None:
    files = Files(database, tmp_path, most_bytes=10_000, keep_s=60.0)
    for _ in range(2):
        files.take_in("tenant", "empty", BytesIO(), 1.0)
    with pytest.raises(NoRoom):
        files.take_in("tenant", "empty", BytesIO(), 1.0)


def test_two_uploads_at_once_get_no_more_room_than_one_after_the_other(database: Database, tmp_path: Path) -> None:
    files = Files(database, tmp_path, most_bytes=15_000, keep_s=60.0)

    class Slow(BytesIO):
        """Another upload comes before this one is written."""

        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() == 0:
                files.take_in("tenant", "fast", BytesIO(b"x" * 10_000), 1.0)
            return super().read(size)

    with pytest.raises(NoRoom):
        files.take_in("tenant", "slow", Slow(b"y" * 10_000), 1.0)
    (kept,) = files.page("tenant", None, "", 10, newest_first=True)
    assert kept.name == "fast"
    assert [path.name for path in tmp_path.rglob("file-*")] == [kept.id]
