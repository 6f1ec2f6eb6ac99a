"""What is told to whoever started us."""

import asyncio
import os
import socket
from pathlib import Path

import pytest

from forebay.systemd import NotOurSocket, keep_told, notify, passed_address, passed_socket


@pytest.mark.parametrize("abstract", [False, True])
def test_a_notice_is_a_datagram(tmp_path: Path, abstract: bool) -> None:
    name = f"@forebay-{os.getpid()}" if abstract else str(tmp_path / "notices")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices:
        notices.bind(name.replace("@", "\0"))
        notify("READY=1", {"NOTIFY_SOCKET": name})
        assert notices.recv(100) == b"READY=1"


def test_nobody_listening_and_nobody_asking_is_no_error(tmp_path: Path) -> None:
    notify("READY=1", {"NOTIFY_SOCKET": str(tmp_path / "nobody")})
    notify("READY=1", {})


async def test_it_is_ready_once_and_alive_as_often_as_is_wanted_and_only_when_it_is(tmp_path: Path) -> None:
    ready = False
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices:
        notices.bind(str(tmp_path / "notices"))
        notices.setblocking(False)
        env = {"NOTIFY_SOCKET": str(tmp_path / "notices"), "WATCHDOG_USEC": "20000"}
        telling = asyncio.create_task(keep_told(lambda: ready, env))
        await asyncio.sleep(0.05)
        with pytest.raises(BlockingIOError):
            notices.recv(100)
        ready = True
        loop = asyncio.get_running_loop()
        told = [await asyncio.wait_for(loop.sock_recv(notices, 100), 30) for _ in range(4)]
        telling.cancel()
    assert told == [b"READY=1", *[b"WATCHDOG=1"] * 3]


def test_a_socket_that_was_passed_to_another_process_is_not_ours() -> None:
    env = {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid() + 1)}
    assert passed_address(env) is None
    assert passed_socket(env) is None
    assert passed_socket({}) is None


def test_several_sockets_are_none() -> None:
    with pytest.raises(NotOurSocket, match="2 sockets"):
        passed_address({"LISTEN_FDS": "2", "LISTEN_PID": str(os.getpid())})
