"""TLS towards clients and towards engines."""

import asyncio
import json
import ssl
from pathlib import Path

import pytest
import trustme

from tests.gateway.calls import CHAT, chat, chat_body
from tests.gateway.conftest import KEY, StartGateway
from tests.gateway.fake_engine import FakeEngine
from tests.waiting import until


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


async def test_an_engine_behind_tls_is_asked_if_its_certificate_is_right(
    authority: trustme.CA, start_gateway: StartGateway, tmp_path: Path
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    async with FakeEngine(tls=context) as engine:
        async with start_gateway(engine.url, upstream_ca_file=tmp_path / "ca.pem", upstream_api_key="sk-up") as running:
            assert (await chat(running.url)).status == 200
            assert (await chat(running.url, stream=True)).events[-1].data == "[DONE]"
            assert engine.calls(CHAT)[0].headers["authorization"] == "Bearer sk-up"
        async with start_gateway(engine.url, ready=False) as running:
            assert (await chat(running.url)).status == 503
            assert len(engine.calls(CHAT)) == 2


async def test_clients_are_served_over_tls(authority: trustme.CA, start_gateway: StartGateway, tmp_path: Path) -> None:
    cert = authority.issue_cert("127.0.0.1")
    cert.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    cert.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    files = {"tls_cert_file": tmp_path / "cert.pem", "tls_key_file": tmp_path / "key.pem"}
    async with FakeEngine() as engine, start_gateway(engine.url, **files) as running:
        port = int(running.url.rsplit(":", 1)[1])
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting)
        body = json.dumps(chat_body(stream=True)).encode()
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
            b"Authorization: Bearer %s\r\nContent-Length: %d\r\n\r\n%s" % (KEY.encode(), len(body), body)
        )
        answer = await reader.read()
        writer.close()
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert answer.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


async def test_a_renewed_certificate_is_shown_to_who_connects_then_and_open_connections_go_on(
    authority: trustme.CA, start_gateway: StartGateway, tmp_path: Path
) -> None:
    chain, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    first, second = authority.issue_cert("127.0.0.1"), authority.issue_cert("127.0.0.1")
    first.private_key_pem.write_to_path(str(key))
    first.cert_chain_pems[0].write_to_path(str(chain))
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with FakeEngine() as engine, start_gateway(engine.url, tls_cert_file=chain, tls_key_file=key) as running:
        port = int(running.url.rsplit(":", 1)[1])
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting)

        async def alive() -> None:
            writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
            await reader.read(4096)

        async def shown() -> bytes:
            _, connected = await asyncio.open_connection("127.0.0.1", port, ssl=trusting)
            certificate: bytes = connected.get_extra_info("ssl_object").getpeercert(binary_form=True)
            connected.close()
            return certificate

        async def logged(message: str) -> None:
            await until(lambda: any(line["message"] == message for line in running.log_lines()))

        await alive()
        before = await shown()
        second.cert_chain_pems[0].write_to_path(str(chain))  # the key of another: the two do not belong together yet
        await logged("the new certificate cannot be shown; the old one is")
        assert await shown() == before
        second.private_key_pem.write_to_path(str(key))
        await logged("another certificate is shown")
        assert await shown() == ssl.PEM_cert_to_DER_cert(second.cert_chain_pems[0].bytes().decode())
        await alive()
        writer.close()
