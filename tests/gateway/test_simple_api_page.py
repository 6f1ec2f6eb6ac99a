"""What docs/simple-api.md tells to type works, and prints what the page says (as in tests/contract/test_guide.py)."""

import asyncio

from tests.contract.test_guide import ROOT, blocks, is_as_told
from tests.gateway.conftest import StartGateway
from tests.gateway.fake_engine import FakeEngine

PAGE = ROOT / "docs" / "simple-api.md"
BETWEEN = "----8<----"


async def test_the_page_does_what_it_says(start_gateway: StartGateway) -> None:
    found = blocks(PAGE.read_text())
    assert len(found) > 6
    async with FakeEngine() as engine, start_gateway(engine.url, api_keys=("sk-alpha",)) as running:
        script = f"\necho '{BETWEEN}'\n".join(block.commands for block in found)
        shell = await asyncio.create_subprocess_exec(
            *("bash", "-ec", script.replace("http://127.0.0.1:8000", running.url)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        printed = (await shell.communicate())[0].decode().split(BETWEEN)
    assert shell.returncode == 0, printed
    wrong = [
        f"{PAGE.name}:{block.line} printed:\n{text}"
        for block, text in zip(found, printed, strict=True)
        if block.expected and not is_as_told(block.expected, text)
    ]
    assert not wrong, "\n".join(wrong)
