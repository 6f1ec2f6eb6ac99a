"""B16 and C2: clients that are gone without a word, and those that never finish their TLS handshake, are found."""

import asyncio
import socket
import time
from pathlib import Path

import pytest
import trustme

from forebay.listening import EVERY_S, IDLE_S, TIMES, UNANSWERED_S, find_the_gone
from tests.gateway.calls import AUTH, CHAT, chat_body
from tests.gateway.conftest import Running, StartGateway
from tests.gateway.fake_engine import Behaviour, FakeEngine, Fault
from tests.gateway.raw_client import connect, fetch

TCP_REPAIR = 19  # Linux; lets a socket be closed without a word, as if its machine had lost its power


def socket_of_the_only(running: Running) -> socket.socket:
    (connection,) = running.gateway.connections
    sock: socket.socket = connection.transport.get_extra_info("socket")
    return sock


async def test_the_kernel_finds_a_client_that_is_gone_within_a_minute(start_gateway: StartGateway) -> None:
    """Whether it sends something (unanswered for so long) or nothing (so many probes unanswered)."""
    assert IDLE_S + EVERY_S * TIMES <= UNANSWERED_S <= 60
    async with FakeEngine() as engine, start_gateway(engine.url) as running, connect(running.url) as raw:
        await raw.request("GET", "/health")
        await raw.read_response("GET")
        accepted = socket_of_the_only(running)
        told = [
            accepted.getsockopt(socket.IPPROTO_TCP, option)
            for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_USER_TIMEOUT)
        ]
        assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert told == [IDLE_S, EVERY_S, TIMES, UNANSWERED_S * 1000]


def test_a_client_that_may_be_slow_for_long_is_not_cut_off_by_the_kernel() -> None:
    """The negative: it answers the kernel's probes and does not read, for which `write_timeout_s` is."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        find_the_gone(listening, unread_s=300.0)
        assert listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 450_000
    with socket.socket(socket.AF_UNIX) as other:
        find_the_gone(other, unread_s=30.0)


async def test_a_client_without_power_gives_its_engine_free(start_gateway: StartGateway) -> None:
    """The same in motion, with shorter times: no FIN, no RST, and nothing to send it."""
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        sock = socket.create_connection(("127.0.0.1", int(running.url.rsplit(":", 1)[1])))
        body = b'{"model":"fake-model","messages":[{"role":"user","content":"x"}]}'
        engine.script(Behaviour(faults=[Fault("head", "hang")]))
        sock.sendall(
            b"POST %s HTTP/1.1\r\nhost: x\r\nauthorization: Bearer sk-test\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n%s" % (CHAT.encode(), len(body), body)
        )
        await engine.wait_for(lambda e: e.running == 1)
        accepted = socket_of_the_only(running)
        for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT):
            accepted.setsockopt(socket.IPPROTO_TCP, option, 1)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
        except OSError:
            sock.close()
            pytest.skip("a connection can be cut without a word only with CAP_NET_ADMIN")
        sock.close()
        async with asyncio.timeout(20):
            await engine.wait_for(lambda e: e.running == 0)
        assert (await fetch(running.url, "POST", CHAT, chat_body(), **AUTH)).status == 200


@pytest.mark.parametrize("begun", [b"", b"\x16\x03\x01\x02\x00\x01\x00"])
async def test_a_tls_handshake_that_is_not_finished_has_a_deadline(
    begun: bytes, start_gateway: StartGateway, tmp_path: Path
) -> None:
    """C2: nothing of HTTP has come by then, so no other deadline holds. Beside it others are served."""
    certificate = trustme.CA().issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    certificate.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    flags = {"tls_cert_file": tmp_path / "cert.pem", "tls_key_file": tmp_path / "key.pem", "header_timeout_s": 0.4}
    async with FakeEngine() as engine, start_gateway(engine.url, metrics_port=0, **flags) as running:
        for url in (running.url, running.metrics_url):
            reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rsplit(":", 1)[1]))
            began = time.monotonic()
            writer.write(begun)
            async with asyncio.timeout(20):
                await _until_closed(reader)
            assert 0.3 < time.monotonic() - began < 10
            writer.close()


async def _until_closed(reader: asyncio.StreamReader) -> None:
    try:
        while await reader.read(1000):
            pass
    except ConnectionResetError:
        pass
