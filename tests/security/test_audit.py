"""The audit of packages, over a small service of OSV's form: what it finds is a failure, what it cannot ask is said."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

ROOT = Path(__file__).parents[2]
HASH = "--hash=sha256:" + "0" * 64


@contextmanager
def osv(vulnerable: str) -> Iterator[str]:
    """A service that knows one vulnerability, of one package."""

    class Page(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            name = asked["package"]["name"]
            fixed: dict[str, Any] = {"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "2.0"}]}
            affected = {"package": {"name": name, "ecosystem": "PyPI"}, "ranges": [fixed], "versions": ["1.0"]}
            one = {"id": "PYSEC-2026-1", "summary": "bad", "details": "bad", "affected": [affected], "aliases": []}
            body = json.dumps({"vulns": [one]} if name == vulnerable else {}).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
        server.shutdown()
        thread.join()


def audit(tmp_path: Path, url: str) -> subprocess.CompletedProcess[str]:
    lock = tmp_path / "lock.txt"
    lock.write_text(f"good==1.0 {HASH}\nworse==1.0 {HASH}\n")
    return subprocess.run(
        [sys.executable, ROOT / "scripts" / "audit.py", lock],
        env={**os.environ, "FOREBAY_OSV_URL": url, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_known_vulnerability_is_a_failure_that_says_what_mends_it(tmp_path: Path) -> None:
    with osv("worse") as url:
        done = audit(tmp_path, url)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "worse 1.0: PYSEC-2026-1; mended in: 2.0" in done.stdout
    assert "2 of 2 packages audited, 1 known vulnerabilities" in done.stdout


def test_packages_without_one_pass(tmp_path: Path) -> None:
    with osv("another") as url:
        done = audit(tmp_path, url)
    assert (done.returncode, "2 of 2 packages audited, 0 known" in done.stdout) == (0, True), done.stdout + done.stderr


def test_a_database_that_does_not_answer_is_said_to_be_skipped(tmp_path: Path) -> None:
    done = audit(tmp_path, "http://127.0.0.1:9/v1/query")
    assert done.returncode == 0
    assert done.stdout.startswith("SKIPPED: no database of vulnerabilities answers here")
