"""The chart: Kubernetes and Forebay take what it renders, and it refuses values that are wrong."""

import copy
import tomllib
from typing import Any

import pytest
import yaml
from helm_python.chart import lint
from scripts.render_k8s import CHART, RENDERED, example, manifest
from scripts.render_k8s import NAMES as MANIFESTS

from forebay import __version__
from forebay.config.sources import load_settings
from forebay.replicas.discovery.kubernetes import Service
from forebay.replicas.discovery.source import split_group
from tests.contract.test_documented import wrong_with
from tests.deploy.chart import NAMES, NAMESPACE, Objects, Pod, objects
from tests.deploy.schemas import CUSTOM, VERSIONS, Refused, check

ENGINES_ENV = {"FOREBAY_UPSTREAM_API_KEY": "sk-engines"}
GATEWAYS_ENV = {**ENGINES_ENV, "FOREBAY_API_KEYS": "sk-one"}
SERVED = {"name": "m", "model": "owner/m"}
ONE_NODE = {"kind": "claim", "claim": {"accessModes": ["ReadWriteOnce"]}}
MINIMAL: dict[str, Any] = {"auth": {"existingSecret": "keys"}, "models": [SERVED]}


def with_(**values: Any) -> dict[str, Any]:
    return {**copy.deepcopy(MINIMAL), **values}


@pytest.mark.parametrize("name", NAMES)
def test_helm_finds_nothing_wrong(name: str) -> None:
    report = lint(CHART, example(name), strict=True, namespace=NAMESPACE, kube_version="v1.32.0")
    said = [message for message in report["messages"] if "icon" not in message["error"]]
    assert not report["errors"], report
    assert not said


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", NAMES)
def test_kubernetes_takes_every_object(name: str, version: str) -> None:
    for one in objects(name).all:
        check(one, version)


def test_the_examples_have_every_kind_that_there_is_a_schema_of() -> None:
    made = {one["kind"] for name in NAMES for one in objects(name).all}
    assert made >= CUSTOM.keys()
    assert made >= {"HorizontalPodAutoscaler", "Ingress", "NetworkPolicy", "PersistentVolumeClaim", "Role"}


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("ScaledObject", ("spec", "colldownPeriod"), 5),
        ("ScaledObject", ("spec", "triggers", 0, "metadata", "threshold"), 5),
        ("LeaderWorkerSet", ("spec", "leaderWorkerTemplate", "workerTemplate", "spec", "containres"), []),
        ("Deployment", ("spec", "template", "spec", "terminationGracePeriod"), 5),
        ("HTTPRoute", ("spec", "rules", 0, "timeouts", "idle"), "0s"),
        ("ServiceMonitor", ("spec", "endpoints", 0, "intervall"), "5s"),
    ],
)
def test_what_kubernetes_would_not_take_is_noticed(kind: str, path: tuple[Any, ...], value: Any) -> None:
    made = next(one for name in NAMES for one in objects(name).of(kind))
    inner = made = copy.deepcopy(made)
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    with pytest.raises(Refused):
        check(made, VERSIONS[-1])


@pytest.mark.parametrize("name", NAMES)
def test_forebay_takes_the_settings_of_gateways_and_engines(name: str) -> None:
    files = objects(name).named("ConfigMap", "demo-config")["data"]
    for file, text in files.items():
        env = GATEWAYS_ENV if file == "forebay.toml" else ENGINES_ENV
        if objects(name).values.get("redis", {}).get("enabled"):
            env = {**env, "FOREBAY_REDIS_URL": "redis://valkey:6379/0"}
        settings, _ = load_settings(tomllib.loads(text), env=env)
        assert settings.log_format == "json"


@pytest.mark.parametrize("name", NAMES)
def test_the_gateways_find_each_engine_by_a_service_that_there_is(name: str) -> None:
    made = objects(name)
    upstream = tomllib.loads(made.config("forebay.toml"))["upstream"]
    found = []
    for url in upstream:
        plain, _ = split_group(url)
        service = Service.parse(plain)
        one = made.named("Service", service.name)
        ports = {port["name"]: port["targetPort"] for port in one["spec"]["ports"]}
        (pod,) = made.selected(one["spec"]["selector"])
        assert service.namespace == NAMESPACE
        assert ports[str(service.port)] in {port["name"] for port in pod.main["ports"]}
        found.append(str(pod))
    assert sorted(found) == sorted(str(pod) for pod in made.pods() if _answers(pod))


def _answers(pod: Pod) -> bool:
    return pod.labels["app.kubernetes.io/component"] == "engine"


@pytest.mark.parametrize("name", NAMES)
def test_forebay_takes_every_command_line(name: str) -> None:
    lines = [one["args"] for pod in objects(name).pods() for one in pod.containers if "command" not in one]
    (test,) = objects(name).of("Pod")
    lines += [["chat", *one["args"]] for one in test["spec"]["containers"]]
    for words in lines:
        assert wrong_with(words) is None, words


def test_a_canary_has_its_share_by_a_weight_that_is_followed_without_a_restart() -> None:
    values = example("canary")
    other = copy.deepcopy(values)
    other["models"][0]["canary"]["weight"] = 50
    before, after = Objects(values), Objects(other)
    weights = [tomllib.loads(one.config("forebay.toml"))["group_weights"] for one in (before, after)]
    assert weights == [{"qwen": 90, "qwen-canary": 10}, {"qwen": 50, "qwen-canary": 50}]
    assert before.of("Deployment") == after.of("Deployment")
    tags = {pod.labels["forebay.dev/track"]: pod.main["args"][1] for pod in before.pods() if _answers(pod)}
    assert tags == {"stable": "Qwen/Qwen2.5-7B-Instruct", "canary": "Qwen/Qwen2.5-7B-Instruct-AWQ"}
    names = {tomllib.loads(before.config(f"{group}.toml"))["served_model_name"] for group in ("qwen", "qwen-canary")}
    assert names == {"Qwen/Qwen2.5-7B-Instruct"}


def test_a_model_that_comes_leaves_the_gateways_running() -> None:
    two = with_(models=[SERVED, {"name": "n", "model": "owner/n"}])
    gateways = [Objects(values).named("Deployment", "demo-gateway") for values in (MINIMAL, two)]
    assert gateways[0] == gateways[1]


@pytest.mark.parametrize("changed", [{"settings": {"max_n": 3}}, {"gateway": {"podAnnotations": {"a": "b"}}}])
def test_a_setting_that_takes_a_restart_restarts_the_gateways(changed: dict[str, Any]) -> None:
    gateways = [Objects(values).named("Deployment", "demo-gateway") for values in (MINIMAL, with_(**changed))]
    assert gateways[0]["spec"]["template"] != gateways[1]["spec"]["template"]


def test_keys_given_as_values_are_in_a_secret_and_nowhere_else() -> None:
    secrets = {"apiKeys": ["sk-callers"], "adminKeys": ["sk-admin"], "upstreamApiKey": "sk-engines", "hfToken": "hf_x"}
    made = Objects(with_(auth=secrets, database={"enabled": True, "url": "postgresql://u:pw@db/f"}))
    (secret,) = made.of("Secret")
    assert secret["stringData"] == {
        "api-keys": "sk-callers",
        "admin-keys": "sk-admin",
        "upstream-api-key": "sk-engines",
        "hf-token": "hf_x",
        "database-url": "postgresql://u:pw@db/f",
    }
    others = yaml.safe_dump([one for one in made.all if one["kind"] != "Secret"])
    assert not [value for value in secret["stringData"].values() if value in others]


def test_zero_false_and_nothing_are_values_too() -> None:
    made = Objects(with_(modelDefaults={"gpus": 4, "tolerations": []}, models=[{**SERVED, "gpus": 0}]))
    (pod,) = [pod for pod in made.pods() if _answers(pod)]
    assert "nvidia.com/gpu" not in yaml.safe_dump(pod.template)
    assert "tolerations" not in pod.spec


REFUSED: list[tuple[dict[str, Any], str]] = [
    (with_(gatewya={}), "gatewya"),
    (with_(gateway={"replicas": 0}), "replicas"),
    (with_(gateway={"drain": {"timeoutSeconds": "60"}}), "timeoutSeconds"),
    (with_(settings={"max_nn": 1}), "max_nn"),
    (with_(settings={"max_n": 0}), "max_n"),
    (with_(settings={"queue_order": "lifo"}), "queue_order"),
    (with_(settings={"api_keys": ["sk-x"]}), "api_keys"),
    (with_(settings={"upstream": ["http://e:1"]}), "upstream"),
    (with_(models=[{**SERVED, "settings": {"max_queue_size": 1}}]), "max_queue_size"),
    (with_(models=[{"name": "m"}]), "model"),
    (with_(models=[{**SERVED, "name": "Upper"}]), "name"),
    (with_(models=[{**SERVED, "name": "a" * 31}]), "name"),
    (with_(models=[{**SERVED, "image": {"tag": "latest"}}]), "tag"),
    (with_(models=[{**SERVED, "executor": "dask"}]), "executor"),
    (with_(models=[{**SERVED, "canary": {"enabled": True, "weight": 101}}]), "weight"),
    (with_(models=[{**SERVED, "canary": {"servedName": "x"}}]), "servedName"),
    (with_(image={"gateway": {"digest": "sha256:1"}}), "digest"),
    (with_(autoscaling={"kind": "vpa"}), "kind"),
    (with_(cache={"kind": "nfs"}), "kind"),
    (with_(auth={"existingSecret": "k", "secretKey": "short"}), "secretKey"),
    ({"models": [SERVED], "auth": {"apiKeys": ["sk-x"]}}, "upstreamApiKey"),
    ({"models": [SERVED], "auth": {"upstreamApiKey": "sk-x"}}, "apiKeys"),
    (with_(database={"enabled": True}, auth={"upstreamApiKey": "k", "apiKeys": ["s"]}), "url"),
    (with_(models=[{**SERVED, "rollout": {"maxUnavailable": 0}}]), "rollout"),
    (with_(cache=ONE_NODE, models=[{**SERVED, "replicas": 2}]), "ReadWriteMany"),
    (with_(cache=ONE_NODE, models=[SERVED, {**SERVED, "name": "n"}]), "ReadWriteMany"),
    (with_(cache=ONE_NODE, autoscaling={"kind": "keda"}), "ReadWriteMany"),
    (with_(autoscaling={"kind": "keda", "minReplicas": 0}), "standby_models"),
    (with_(autoscaling={"kind": "hpa", "minReplicas": 0}, settings={"standby_models": ["owner/m"]}), "keda"),
    (with_(autoscaling={"kind": "keda", "minReplicas": 9}), "maxReplicas"),
    (with_(gatewayApi={"enabled": True}), "parents"),
    (with_(models=[SERVED, SERVED]), "twice"),
]


@pytest.mark.parametrize(("values", "named"), REFUSED, ids=lambda one: one if isinstance(one, str) else "")
def test_values_that_are_wrong_are_refused_by_their_name(values: dict[str, Any], named: str) -> None:
    with pytest.raises(Exception, match=named):
        Objects(values)


def test_the_charts_version_of_the_application_is_the_packages() -> None:
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == __version__


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests_for_who_has_no_helm_are_what_the_chart_says(name: str) -> None:
    assert (RENDERED / f"{name}.yaml").read_text() == manifest(name), "run `make generate`"


def test_there_is_no_manifest_besides() -> None:
    assert sorted(path.stem for path in RENDERED.iterdir()) == sorted(MANIFESTS)
