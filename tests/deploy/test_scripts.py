"""The scripts of deploy/scripts: what they call, in which order, and what they do when something goes wrong."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from forebay.telemetry.catalogue import CATALOGUE
from tests.deploy.cluster import HISTORY, ROOT, SCRIPTS, VALUES, Cluster, SmallPrometheus, small_prometheus

FAILS = "error: deployment exceeded its progress deadline"


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


@pytest.fixture
def prometheus() -> Iterator[SmallPrometheus]:
    with small_prometheus() as here:
        yield here


def judged(prometheus: SmallPrometheus, *more: str) -> tuple[str, ...]:
    return ("--prometheus", prometheus.url, "--watch", "1s", *more)


def module(name: str) -> ModuleType:
    """One of the scripts' own modules, which are no package."""
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules[name] = made
    spec.loader.exec_module(made)
    return made


def shell_scripts() -> list[Path]:
    told = subprocess.run(
        ["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    files = [ROOT / name for name in told.stdout.split("\0") if name]
    starts = re.compile(rb"#!.*\bsh\b|#!.*bash|# shellcheck shell")
    return [file for file in files if file.is_file() and starts.match(file.read_bytes()[:100])]


def test_shellcheck_has_nothing_against_any_shell_script() -> None:
    found = shell_scripts()
    assert {"deploy.sh", "serve.sh", "run"} <= {file.name for file in found}
    program = shutil.which("shellcheck", path=Path(sys.executable).parent) or "shellcheck"
    done = subprocess.run(
        [program, "--external-sources", "--source-path=SCRIPTDIR", *found], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


# Deploying


def test_deploy_upgrades_waits_for_every_workload_and_has_the_chart_test_itself(cluster: Cluster) -> None:
    done = cluster.run("deploy.sh", "--values", str(cluster.values), "--set", "gateway.replicas=3", "--context", "prod")
    assert done.returncode == 0, done.stderr
    assert cluster.calls() == [
        "helm history forebay --output json",
        f"helm upgrade --install forebay {cluster.chart} --values {cluster.values} --set gateway.replicas=3",
        "kubectl get deployments --selector app.kubernetes.io/instance=forebay --output name",
        "kubectl get leaderworkersets.leaderworkerset.x-k8s.io --selector app.kubernetes.io/instance=forebay "
        "--output name",
        "kubectl rollout status deployment.apps/forebay-gateway",
        "kubectl rollout status deployment.apps/forebay-small",
        "helm test forebay",
    ]
    told = (cluster.directory / "calls").read_text()
    assert told.count('"--context", "prod"') == 4
    assert told.count('"--kube-context", "prod"') == 3
    assert "serves" in done.stderr


@pytest.mark.parametrize(
    ("on", "why"),
    [
        ("helm .*upgrade", "helm could not apply the chart"),
        ("rollout status deployment.apps/forebay-small", "the rollout failed or took longer"),
        (r"^helm \S+ \S+ test", "the chart's test failed"),
    ],
)
def test_what_fails_while_deploying_is_taken_back(cluster: Cluster, on: str, why: str) -> None:
    cluster.on(on, error=FAILS, status=1, times=1)
    done = cluster.run("deploy.sh", "--values", str(cluster.values))
    assert done.returncode == 1
    assert cluster.changes()[-1] == "helm rollback"
    assert "helm rollback forebay 3" in cluster.calls()
    assert cluster.calls()[-1] == "kubectl rollout status deployment.apps/forebay-small"
    assert why in (last := done.stderr.splitlines()[-1])
    assert "revision 3 serves again" in last


def test_a_first_installation_that_fails_says_what_to_do_and_takes_nothing_back(cluster: Cluster) -> None:
    cluster.on("helm .*history", error="Error: release: not found\n", status=1)
    cluster.on("rollout status", error=FAILS, status=1)
    done = cluster.run("deploy.sh", "--values", str(cluster.values))
    assert done.returncode == 1
    assert cluster.changes() == ["helm upgrade"]
    assert "there is no revision to go back to" in done.stderr.splitlines()[-1]


def test_a_rollback_that_does_not_get_ready_either_is_said(cluster: Cluster) -> None:
    cluster.on("rollout status", error=FAILS, status=1)
    done = cluster.run("deploy.sh", "--values", str(cluster.values))
    assert (done.returncode, cluster.changes()) == (1, ["helm upgrade", "helm rollback"])
    assert "revision 3 does not get ready either" in done.stderr.splitlines()[-1]


def test_a_deployment_after_which_more_requests_fail_is_taken_back(
    cluster: Cluster, prometheus: SmallPrometheus
) -> None:
    prometheus.is_new = lambda query: "[15s]" in query  # since then; before it was as long as is looked, 1 s
    prometheus.new.failed = 20
    done = cluster.run("deploy.sh", "--values", str(cluster.values), *judged(prometheus))
    assert done.returncode == 1
    assert cluster.changes() == ["helm upgrade", "helm test", "helm rollback"]
    assert "worse: 2.0% of 1000 requests fail, 0.0% of the others' 1000; revision 3 serves again" in done.stderr


def test_a_deployment_that_is_no_worse_stays(cluster: Cluster, prometheus: SmallPrometheus) -> None:
    prometheus.new.failed = prometheus.old.failed = 20
    done = cluster.run("deploy.sh", "--values", str(cluster.values), *judged(prometheus, "--namespace", "llm"))
    assert (done.returncode, cluster.changes()) == (0, ["helm upgrade", "helm test"])
    assert all('namespace="llm"' in query for query, _ in prometheus.asked[1:])


def test_nothing_is_deployed_where_prometheus_does_not_answer(cluster: Cluster) -> None:
    done = cluster.run("deploy.sh", "--values", str(cluster.values), "--prometheus", "http://127.0.0.1:9")
    assert (done.returncode, cluster.calls()) == (2, [])
    assert "http://127.0.0.1:9 does not answer: [Errno 111] Connection refused; name another" in done.stderr


def test_nothing_is_deployed_over_an_operation_that_never_ended(cluster: Cluster) -> None:
    cluster.on("helm .*history", json.dumps([*HISTORY, {**HISTORY[1], "revision": 4, "status": "pending-upgrade"}]))
    done = cluster.run("deploy.sh", "--values", str(cluster.values))
    assert (done.returncode, cluster.changes()) == (1, [])
    assert "run rollback.sh --release forebay --namespace default" in done.stderr
    assert cluster.run("rollback.sh").returncode == 0
    assert "helm rollback forebay 3" in cluster.calls()


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("deploy.sh", ["--values", "VALUES"]),
        ("rollback.sh", []),
        ("scale.sh", ["small", "3"]),
        ("canary.sh", ["start", "small", "--weight", "10", "--with", "image.tag=2"]),
        ("canary.sh", ["promote", "large"]),
        ("canary.sh", ["abort", "large"]),
    ],
)
def test_a_dry_run_changes_nothing_and_says_what_would_be_done(cluster: Cluster, script: str, words: list[str]) -> None:
    values = json.loads(json.dumps(VALUES))
    values["models"][1]["canary"] = {"enabled": True, "weight": 5, "replicas": 1}
    cluster.on("helm .*get values", json.dumps(values))
    cluster.on("kubectl .*diff", "+ replicas: 3\n", status=1)
    done = cluster.run(script, *(word.replace("VALUES", str(cluster.values)) for word in words), "--dry-run")
    assert (done.returncode, cluster.changes()) == (0, []), done.stderr
    assert re.search(r"would run: helm .*(upgrade|rollback)", done.stdout)
    assert ("+ replicas: 3" in done.stdout) == (script == "deploy.sh")


# Going back, and scaling


def test_rollback_goes_to_the_revision_before_or_to_the_one_named(cluster: Cluster) -> None:
    assert cluster.run("rollback.sh").returncode == 0
    assert cluster.run("rollback.sh", "--to", "1").returncode == 0
    assert [call for call in cluster.calls() if "rollback" in call] == [
        "helm rollback forebay 2",
        "helm rollback forebay 1",
    ]


def test_rollback_after_a_failed_upgrade_goes_to_what_served_last(cluster: Cluster) -> None:
    cluster.on("helm .*history", json.dumps([*HISTORY, {**HISTORY[1], "revision": 4, "status": "failed"}]))
    assert cluster.run("rollback.sh").returncode == 0
    assert "helm rollback forebay 3" in cluster.calls()


def test_scale_changes_the_values_and_nothing_else(cluster: Cluster) -> None:
    assert cluster.run("scale.sh", "gateway", "5").returncode == 0
    assert cluster.run("scale.sh", "large", "3").returncode == 0
    gateway, large = cluster.given()
    assert gateway == {**VALUES, "gateway": {"replicas": 5}}
    assert large["models"] == [VALUES["models"][0], {**VALUES["models"][1], "replicas": 3}]  # type: ignore[index]


def test_what_is_scaled_by_itself_is_not_scaled(cluster: Cluster) -> None:
    cluster.on("get horizontalpodautoscalers", "forebay-gateway\nforebay-small\n")
    done = cluster.run("scale.sh", "small", "3")
    assert (done.returncode, cluster.changes()) == (2, [])
    assert "forebay-small is scaled by itself" in done.stderr


def test_scaling_that_does_not_get_ready_is_taken_back(cluster: Cluster) -> None:
    cluster.on("rollout status", error=FAILS, status=1, times=1)
    done = cluster.run("scale.sh", "small", "9")
    assert (done.returncode, cluster.changes()) == (1, ["helm upgrade", "helm rollback"])


# Canaries


START = ("start", "large", "--weight", "10", "--with", "image.tag=2", "--with", "settings.max_num_seqs=64")
CANARY = {"enabled": True, "weight": 10, "replicas": 1, "image": {"tag": 2}, "settings": {"max_num_seqs": 64}}


def with_canary(cluster: Cluster) -> None:
    values = json.loads(json.dumps(VALUES))
    values["models"][1]["canary"] = CANARY
    cluster.on("helm .*get values", json.dumps(values))


def large(values: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = values["models"][1]
    return found


def test_a_canary_starts_beside_the_stable_engines_and_stays_where_it_is_no_worse(
    cluster: Cluster, prometheus: SmallPrometheus
) -> None:
    done = cluster.run("canary.sh", *START, *judged(prometheus))
    assert (done.returncode, cluster.changes()) == (0, ["helm upgrade"]), done.stderr
    assert large(cluster.given()[0]) == {**VALUES["models"][1], "canary": CANARY}  # type: ignore[index]
    queries = {query for query, _ in prometheus.asked[1:]}
    assert all('model="big"' in query for query in queries)
    assert all('group="large-canary"' in query or 'group!="large-canary"' in query for query in queries)
    assert "no worse: 0.0% of 1000 requests failed" in done.stderr


@pytest.mark.parametrize(
    ("figures", "why"),
    [
        ({"failed": 30.0}, "worse: 3.0% of 1000 requests fail, 0.0% of the others' 1000"),
        ({"ttft_s": 0.5}, "worse: the first token takes 0.50 s (95th percentile), the others' 0.20 s"),
    ],
)
def test_a_canary_that_is_worse_is_taken_away(
    cluster: Cluster, prometheus: SmallPrometheus, figures: dict[str, float], why: str
) -> None:
    with_canary(cluster)
    vars(prometheus.new).update(figures)
    done = cluster.run("canary.sh", "watch", "large", *judged(prometheus))
    assert (done.returncode, cluster.changes()) == (1, ["helm upgrade"])
    assert cluster.given() == [VALUES]
    assert f"{why}; the canary of large is taken away" in done.stderr.splitlines()[-1]


def test_a_canary_with_too_few_requests_is_watched_to_the_end_and_stays(
    cluster: Cluster, prometheus: SmallPrometheus
) -> None:
    with_canary(cluster)
    prometheus.new.requests, prometheus.new.failed = 49, 49
    done = cluster.run("canary.sh", "watch", "large", *judged(prometheus))
    assert (done.returncode, cluster.changes()) == (3, [])
    assert "not judged: 49 requests, and 50 are wanted" in done.stderr
    assert len({time for _, time in prometheus.asked}) >= 3, "it looked again"


def test_a_canary_that_does_not_get_ready_is_taken_back(cluster: Cluster) -> None:
    cluster.on("rollout status", error=FAILS, status=1, times=1)
    done = cluster.run("canary.sh", *START)
    assert (done.returncode, cluster.changes()) == (1, ["helm upgrade", "helm rollback"])


def test_promoting_gives_the_stable_engines_what_the_canary_has_before_that_goes(cluster: Cluster) -> None:
    with_canary(cluster)
    done = cluster.run("canary.sh", "promote", "large")
    assert (done.returncode, cluster.changes()) == (0, ["helm upgrade", "helm upgrade"]), done.stderr
    stable = {**VALUES["models"][1], "image": {"tag": 2}, "settings": {"max_num_seqs": 64}}  # type: ignore[index]
    assert large(cluster.given()[0]) == {**stable, "canary": CANARY}
    waited = [call for call in cluster.calls() if "rollout status" in call]
    assert len(waited) == 4


def test_values_are_changed_with_the_chart_that_is_deployed_only(cluster: Cluster) -> None:
    (cluster.chart / "Chart.yaml").write_text("name: forebay\nversion: 0.2.0\n")
    for words in (("scale.sh", "small", "2"), ("canary.sh", *START), ("canary.sh", "abort", "large")):
        done = cluster.run(*words)
        assert (done.returncode, cluster.changes()) == (2, [])
        assert "the release has chart forebay-0.1.0 and here is forebay-0.2.0" in done.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["deploy.sh"], "name the values, as --values values.yaml"),
        (["deploy.sh", "--values", "/no/such"], "--values /no/such: cannot be read"),
        (["deploy.sh", "--valeus", "x"], "there is no option --valeus here"),
        (["deploy.sh", "--values"], "--values needs a value"),
        (["deploy.sh", "--values", "VALUES", "--timeout", "soon"], "--timeout soon is no time such as 90s"),
        (["deploy.sh", "--values", "VALUES", "--chart", "/no"], "there is no chart at /no"),
        (["rollback.sh", "--to", "last"], "--to needs a revision's number"),
        (["scale.sh", "gateway"], "say what to scale and to how many"),
        (["scale.sh", "gateway", "many"], "many is no number of replicas"),
        (["scale.sh", "tiny", "2"], "have no model tiny; there are: small, large"),
        (["canary.sh", "start"], "say what to do and for which model"),
        (["canary.sh", "begin", "small"], "there is no begin here"),
        (["canary.sh", "start", "small", "--with", "a=b"], "--weight is the canary's share in percent"),
        (["canary.sh", "start", "small", "--weight", "5"], "say what differs"),
        (["canary.sh", "start", "small", "--weight", "5", "--with", "weight=9"], "weight=9: no KEY=VALUE of a model"),
        (["canary.sh", "promote", "small"], "small has no canary"),
        (["canary.sh", "watch", "small"], "name Prometheus"),
    ],
)
def test_a_mistake_is_one_line_and_changes_nothing(cluster: Cluster, words: list[str], told: str) -> None:
    done = cluster.run(*(word.replace("VALUES", str(cluster.values)) for word in words))
    assert (done.returncode, cluster.changes()) == (2, [])
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("script", sorted(path.name for path in SCRIPTS.glob("*.sh") if path.stat().st_mode & 0o100))
def test_help_says_what_a_script_does(cluster: Cluster, script: str) -> None:
    done = subprocess.run([SCRIPTS / script, "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert f"  {script} " in done.stdout
    assert "--dry-run" in done.stdout


def test_what_is_judged_by_is_exported() -> None:
    known = {metric.name: metric for metric in CATALOGUE}
    judge = module("judge")
    for series in (judge.of_group("m", 'group="canary"', 'namespace="x"'), judge.of_all('namespace="x"')):
        for selector in vars(series).values():
            name, _, labels = selector.partition("{")
            metric = known[name.removesuffix("_bucket")]
            assert set(re.findall(r"(\w+)!?[=~]", labels)) <= {*metric.labels, "namespace"}
