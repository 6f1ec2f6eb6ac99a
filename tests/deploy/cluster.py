"""Stand-ins for kubectl and helm, which write down what they are called with and answer as they are told; and a small
Prometheus, whose figures are set. No cluster is needed to see what a script does, in which order, and what it does when
something goes wrong.

    cluster = Cluster(tmp_path)
    cluster.on("rollout status", status=1, error="error: deployment exceeded its progress deadline")
    done = cluster.run("deploy.sh", "--values", "values.yaml")
    assert cluster.changes() == ["helm upgrade", "helm rollback"]
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "deploy" / "scripts"
CHANGING = re.compile(
    r"^(helm (upgrade|rollback|uninstall|test)|kubectl (apply|scale|delete|patch|create|set|annotate))\b"
)
FAKE = f"""#!{sys.executable} -I
import json, os, re, sys
from pathlib import Path
home = Path({{home!r}})
words = [Path(sys.argv[0]).name, *sys.argv[1:]]
line = " ".join(words)
given = [json.loads(Path(words[n + 1]).read_text()) for n, word in enumerate(words)
         if word == "--values" and words[n + 1].endswith(".json")]
with (home / "calls").open("a") as calls:
    calls.write(json.dumps([words, given]) + "\\n")
for answer in reversed(json.loads((home / "answers.json").read_text())):
    if not re.search(answer["on"], line):
        continue
    marks = home / "marks"
    used = marks.read_text().count(f"<{{{{answer['number']}}}}>") if marks.exists() else 0
    if answer["times"] and used >= answer["times"]:
        continue
    with marks.open("a") as file:
        file.write(f"<{{{{answer['number']}}}}>")
    sys.stdout.write(answer["out"])
    sys.stderr.write(answer["error"])
    sys.exit(answer["status"])
"""
HISTORY = [
    {"revision": 2, "status": "superseded", "chart": "forebay-0.1.0"},
    {"revision": 3, "status": "deployed", "chart": "forebay-0.1.0"},
]
VALUES = {
    "gateway": {"replicas": 2},
    "models": [
        {"name": "small", "model": "org/small"},
        {"name": "large", "model": "org/large", "servedName": "big", "gpus": 2, "settings": {"max_num_seqs": 8}},
    ],
}


@dataclass(frozen=True)
class Answer:
    """What is answered where a command line matches, so often (0: always); the one that was told last goes first."""

    number: int
    on: str
    out: str
    error: str
    status: int
    times: int


class Cluster:
    """See the module's text. Two deployments are there, and a release at revision 3."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.chart = directory / "chart"
        self.chart.mkdir()
        (self.chart / "Chart.yaml").write_text("name: forebay\nversion: 0.1.0\n")
        self.values = directory / "values.yaml"
        self.values.write_text("models: []\n")
        self._answers: list[Answer] = []
        (directory / "bin").mkdir()
        for name in ("kubectl", "helm"):
            program = directory / "bin" / name
            program.write_text(FAKE.format(home=str(directory)))
            program.chmod(0o755)
        self.on("helm .*history", json.dumps(HISTORY))
        self.on("helm .*get values", json.dumps(VALUES))
        self.on("get deployments", "deployment.apps/forebay-gateway\ndeployment.apps/forebay-small\n")
        self.on("get leaderworkersets", error="error: the server doesn't have a resource type", status=1)

    def on(self, on: str, out: str = "", *, error: str = "", status: int = 0, times: int = 0) -> None:
        self._answers.append(Answer(len(self._answers), on, out, error, status, times))
        (self.directory / "answers.json").write_text(json.dumps([asdict(answer) for answer in self._answers]))

    def run(self, script: str, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        path = f"{self.directory / 'bin'}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(
            [SCRIPTS / script, "--chart", str(self.chart), *words],
            env={"PATH": path, "HOME": str(self.directory), **env},
            capture_output=True,
            text=True,
            timeout=60,
        )

    def calls(self) -> list[str]:
        """Every command line, without the options that all have."""
        return [
            re.sub(r" (--context|--kube-context|--namespace|--timeout)[ =]\S+", "", " ".join(w))
            for w, _ in self._told()
        ]

    def changes(self) -> list[str]:
        """The commands that change something, by their first two words; of helm's upgrade, what follows the release."""
        return [found[0] for call in self.calls() if (found := CHANGING.match(call))]

    def given(self) -> list[dict[str, Any]]:
        """The values of each upgrade that was made with some of the script's own."""
        return [values for _, given in self._told() for values in given]

    def _told(self) -> list[tuple[list[str], list[dict[str, Any]]]]:
        calls = self.directory / "calls"
        return [json.loads(line) for line in calls.read_text().splitlines()] if calls.exists() else []


@dataclass
class Shown:
    """A version's figures."""

    requests: float = 1000
    failed: float = 0
    ttft_s: float = 0.2


class SmallPrometheus:
    """`side` says of a query whose figures are asked for; every query is kept, with its time."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.new, self.old = Shown(), Shown()
        self.asked: list[tuple[str, float]] = []
        self.is_new: Callable[[str], bool] = lambda query: 'group="' in query

    def answer(self, query: str, time: float) -> float:
        self.asked.append((query, time))
        side = self.new if self.is_new(query) else self.old
        if "histogram_quantile" in query:
            return side.ttft_s
        return side.failed if 'outcome="failed"' in query or "5.." in query else side.requests


@contextmanager
def small_prometheus() -> Iterator[SmallPrometheus]:
    """One that answers on a free port."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = parse_qs(urlsplit(self.path).query)
            value = here.answer(asked["query"][0], float(asked["time"][0]))
            body = json.dumps({"status": "success", "data": {"result": [{"value": [0, str(value)]}]}}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        here = SmallPrometheus(f"http://127.0.0.1:{server.server_port}")
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield here
        server.shutdown()
        thread.join()
