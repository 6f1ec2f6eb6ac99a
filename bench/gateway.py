"""`make bench-gateway`: what stands in front of an engine costs how much? Medians of several rounds, in one run.

A mock engine that costs almost nothing and the load share CPU 0; the gateway measured has CPU 1 to itself. Each round
measures every gateway in turn: requests/s and latency with wrk (64 connections, ~600-byte chat bodies), then SSE
chunks/s and time to first token with 64 concurrent streams. Only figures of one run on one machine compare. Whatever
fails is counted and told, makes the exit status 1, and is never written into the report.

Needs two CPUs, wrk and (for that row) nginx, both Debian packages. vllm-router comes from PyPI into .venv/bench.
"""

import argparse
import contextlib
import json
import os
import platform
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
REPORT = ROOT / "docs" / "performance.md"
ROUTER = "vllm-router==0.1.17"
KEY, MODEL = "sk-x", "m"
LOAD_CPU, GATEWAY_CPU = "0", "1"
# With key, admission, metrics and access log, which are on by themselves; and with a database, the usage ledger.
EVERY_POLICY = {"FOREBAY_KEY_LIMITS": "requests_per_minute=100000000,tokens_per_minute=100000000000"}

NGINX_CONF = """\
worker_processes 1; daemon off; pid {dir}/nginx.pid; error_log {dir}/error.log;
events {{ worker_connections 4096; }}
http {{
  access_log {dir}/access.log;
  client_body_temp_path {dir}; proxy_temp_path {dir}; fastcgi_temp_path {dir};
  uwsgi_temp_path {dir}; scgi_temp_path {dir};
  upstream engine {{ server 127.0.0.1:{engine}; keepalive 256; keepalive_requests 1000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096; keepalive_requests 1000000;
    location / {{
      proxy_pass http://engine; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
    }}
  }}
}}
"""


@dataclass
class Figures:
    """What was measured of one gateway, a number a round."""

    requests_s: list[float] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    chunks_s: list[float] = field(default_factory=list)
    ttft_p50_ms: list[float] = field(default_factory=list)
    failed: int = 0


@dataclass(frozen=True)
class Load:
    """What wrk tells of a run; `failed` counts answers that are no success and sockets that broke."""

    requests_s: float
    p50_ms: float
    p99_ms: float
    failed: int


def main() -> int:
    options = _options()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    if shutil.which("wrk") is None:
        sys.exit("bench: wrk is missing; install Debian's package wrk")
    if len(os.sched_getaffinity(0)) < 2:
        sys.exit("bench: two CPUs are needed, one for the gateway alone")
    names = options.only or ["direct", "nginx", "vllm-router", "forebay"]
    if "nginx" in names and shutil.which("nginx") is None:
        print("bench: no nginx (Debian's package nginx-light); its row is left out")
        names.remove("nginx")
    figures = {name: Figures() for name in names}
    with tempfile.TemporaryDirectory(prefix="forebay-bench-") as scratch:
        for number in range(options.rounds):
            for name in names:
                print(f"round {number + 1}: {name}", flush=True)
                with _engine(options.engine_port), _gateway(name, options, Path(scratch)) as port:
                    _measure(port, options.seconds, figures[name])
    table = _table(figures)
    print("\n" + table)
    bad = {name: figure.failed for name, figure in figures.items() if figure.failed}
    for name, failed in bad.items():
        print(f"bench: {failed} requests failed at {name}: its figures are not to be believed", file=sys.stderr)
    if options.write and not bad:
        _write(table, options)
    return 1 if bad else 0


def _end(number: int, _: object) -> None:
    """Leave by way of every `finally`, so that no process is left behind; a second signal does not cut that short."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(128 + number)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=8, help="of wrk, for each gateway and round")
    parser.add_argument("--engine-port", type=int, default=9100)
    parser.add_argument("--gateway-port", type=int, default=9101)
    parser.add_argument("--only", nargs="*", choices=["direct", "nginx", "vllm-router", "forebay"])
    parser.add_argument("--write", action="store_true", help="put the table into docs/performance.md")
    return parser.parse_args()


def _engine(port: int) -> contextlib.AbstractContextManager[None]:
    return _process([sys.executable, str(HERE / "mock_engine.py"), str(port)], LOAD_CPU, port)


@contextlib.contextmanager
def _gateway(name: str, options: argparse.Namespace, scratch: Path) -> Iterator[int]:
    """Run a gateway on its CPU; yields its port."""
    engine, port = options.engine_port, options.gateway_port
    if name == "direct":
        yield engine
        return
    upstream = f"http://127.0.0.1:{engine}"
    env = {}
    if name == "nginx":
        config = scratch / "nginx.conf"
        config.write_text(NGINX_CONF.format(dir=scratch, port=port, engine=engine))
        command = ["nginx", "-c", str(config), "-p", str(scratch)]
    elif name == "vllm-router":
        command = [str(_router()), "--worker-urls", upstream, "--host", "127.0.0.1", "--port", str(port)]
        command += ["--policy", "round_robin", "--log-level", "error"]
    else:
        env = {"API_KEYS": KEY, "LOG_FILE": str(scratch / "access.log"), **EVERY_POLICY}
        env["DATABASE_URL"] = f"sqlite:///{scratch}/forebay.db"
        forebay = Path(sys.executable).with_name("forebay")
        command = [str(forebay), "gateway", "--upstream", upstream, "--port", str(port)]
    with _process(command, GATEWAY_CPU, port, env):
        yield port


@contextlib.contextmanager
def _process(command: list[str], cpu: str, port: int, env: dict[str, str] | None = None) -> Iterator[None]:
    """Run a command on a CPU until it answers at its port, and end it and all it started afterwards."""
    refuse_stranger(port)
    process = subprocess.Popen(
        ["taskset", "-c", cpu, *command],
        env={**os.environ, **(env or {})},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _wait_for(f"http://127.0.0.1:{port}/v1/models", process)
        yield
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def refuse_stranger(port: int) -> None:
    """End where somebody listens on a port already: it would be measured in place of what is started here."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError as failure:
            sys.exit(f"bench: port {port} cannot be had ({failure.strerror}); end what listens there, or name another")


def _wait_for(url: str, process: subprocess.Popen[bytes], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    request = urllib.request.Request(url, headers={"authorization": f"Bearer {KEY}"})
    while time.monotonic() < until:
        if process.poll() is not None:
            sys.exit(f"bench: {process.args!r} ended with status {process.returncode}")
        with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=2) as answer:
            if json.load(answer).get("data"):
                time.sleep(1)  # let it settle
                return
        time.sleep(0.1)
    sys.exit(f"bench: {url} did not answer within {seconds:g} s")


def _router() -> Path:
    """vllm-router in an environment of its own, made on first use."""
    directory = ROOT / ".venv" / "bench"
    binary = directory / "bin" / "vllm-router"
    if not binary.exists():
        print(f"installing {ROUTER} into .venv/bench", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(directory)], check=True)
        subprocess.run([str(directory / "bin" / "pip"), "install", "--quiet", ROUTER], check=True)
    return binary


def _measure(port: int, seconds: int, figures: Figures) -> None:
    env = {**os.environ, "CHAT_KEY": KEY, "CHAT_MODEL": MODEL}
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    pinned = ["taskset", "-c", LOAD_CPU]
    wrk = [*pinned, "wrk", "-t1", "-c64", f"-d{seconds}s", "-s", str(HERE / "chat.lua"), "--latency", url]
    load = read_wrk(subprocess.run(wrk, env=env, check=True, capture_output=True, text=True).stdout)
    figures.requests_s.append(load.requests_s)
    figures.p50_ms.append(load.p50_ms)
    figures.p99_ms.append(load.p99_ms)
    figures.failed += load.failed
    streams = [*pinned, sys.executable, str(HERE / "stream_client.py"), str(port), "64", "256", KEY, MODEL]
    answer = subprocess.run(streams, capture_output=True, text=True, check=False)
    if answer.returncode:
        print(answer.stdout, answer.stderr, file=sys.stderr)
        figures.failed += 1
        return
    told_streams = json.loads(answer.stdout)
    figures.chunks_s.append(told_streams["chunks_per_s"])
    figures.ttft_p50_ms.append(told_streams["ttft_p50_ms"])


def read_wrk(told: str) -> Load:
    """What wrk printed, as figures."""
    rate = re.search(r"Requests/sec:\s+([\d.]+)", told)
    assert rate is not None, told
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", told)
    broken = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", told)
    failed = sum(int(count) for found in (refused, broken) if found for count in found.groups())
    return Load(float(rate[1]), _ms(told, "50%"), _ms(told, "99%"), failed)


def _ms(told: str, percentile: str) -> float:
    found = re.search(rf"^\s+{percentile}\s+([\d.]+)(us|ms|s|m)$", told, re.MULTILINE)
    assert found is not None, told
    return float(found[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}[found[2]]


def _table(figures: dict[str, Figures]) -> str:
    direct, router = figures.get("direct"), figures.get("vllm-router")
    lines = [
        "| gateway | requests/s | against vllm-router | p50 ms | p99 ms | chunks/s | against direct | TTFT p50 ms |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, figure in figures.items():
        rate, chunks = _median(figure.requests_s), _median(figure.chunks_s)
        against_router = f"{rate / _median(router.requests_s):.2f}" if router and router.requests_s else ""
        against_direct = f"{chunks / _median(direct.chunks_s):.1%}" if direct and direct.chunks_s else ""
        lines.append(
            f"| {name} | {rate:,.0f} | {against_router} | {_median(figure.p50_ms):.2f} | {_median(figure.p99_ms):.2f} "
            f"| {chunks:,.0f} | {against_direct} | {_median(figure.ttft_p50_ms):.2f} |"
        )
    return "\n".join(lines)


def _median(values: list[float]) -> float:
    return statistics.median(values) if values else float("nan")


def _write(table: str, options: argparse.Namespace) -> None:
    """Replace what stands between the markers in the report."""
    begin, end = "<!-- bench-gateway begin -->", "<!-- bench-gateway end -->"
    cpu = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    machine = f"{os.cpu_count()} × {cpu[1] if cpu else platform.machine()}, Python {platform.python_version()}"
    rounds = f"medians of {options.rounds} rounds of {options.seconds} s, {machine}, {date.today().isoformat()}"
    text = REPORT.read_text()
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    REPORT.write_text(f"{before}{begin}\n{table}\n\n({rounds})\n{end}{after}")


if __name__ == "__main__":
    sys.exit(main())
