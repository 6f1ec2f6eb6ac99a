"""What must hold of all that the chart makes, whatever is asked for: it is safe, it drains, it fits together."""

import copy
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from scripts.render_k8s import example

from tests.deploy.chart import NAMES, Object, Objects, Pod, objects

MARGIN_S = 10
SECRET = re.compile(r"sk-|hf_|password|://[^/]*:[^/]*@", re.IGNORECASE)
UNITS = {"": 1, "m": 1e-3, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}

Finding = Iterator[str]
Rule = Callable[[Objects], Finding]


def quantity(text: str | int) -> float:
    number, unit = re.fullmatch(r"([0-9.]+)(\w*)", str(text)).groups()  # type: ignore[union-attr]
    return float(number) * UNITS[unit]


def no_privileges(made: Objects) -> Finding:
    for pod in made.pods():
        spec, of_pod = pod.spec, pod.spec["securityContext"]
        if not of_pod["runAsNonRoot"] or of_pod["runAsUser"] < 10_000:
            yield f"{pod} may run as root"
        if of_pod["seccompProfile"]["type"] != "RuntimeDefault":
            yield f"{pod} has no seccomp profile"
        if any(spec.get(name) for name in ("hostNetwork", "hostPID", "hostIPC")):
            yield f"{pod} shares a namespace of its host"
        for one in pod.containers:
            own = one["securityContext"]
            if own["allowPrivilegeEscalation"] or own["capabilities"] != {"drop": ["ALL"]} or own.get("privileged"):
                yield f"{pod}: {one['name']} has privileges"


def gateways_cannot_write_to_their_image(made: Objects) -> Finding:
    for pod in made.selected({"app.kubernetes.io/component": "gateway"}):
        yield from (f"{pod}: {c['name']}" for c in pod.containers if not c["securityContext"]["readOnlyRootFilesystem"])


def only_gateways_have_a_token(made: Objects) -> Finding:
    for pod in made.pods():
        is_gateway = pod.labels["app.kubernetes.io/component"] == "gateway"
        if pod.spec["automountServiceAccountToken"] is not is_gateway:
            yield f"{pod} has a token, or none"
    for role in made.of("Role"):
        if any(set(rule["verbs"]) - {"list", "watch"} for rule in role["rules"]):
            yield f"{role['metadata']['name']} may do more than look"


def limits_are_set(made: Objects) -> Finding:
    for pod in made.pods():
        for one in pod.containers:
            for kind in ("requests", "limits"):
                if missing := {"cpu", "memory"} - one["resources"].get(kind, {}).keys():
                    yield f"{pod}: {one['name']} has no {kind} of {missing}"


def images_are_told_apart(made: Objects) -> Finding:
    for pod in made.pods():
        for one in pod.containers:
            if not re.search(r"(:[^/:@]+|@sha256:[0-9a-f]{64})$", one["image"]) or one["image"].endswith(":latest"):
                yield f"{pod}: {one['image']}"


def probes_ask_ports_that_there_are(made: Objects) -> Finding:
    for pod in made.pods():
        if pod.is_worker:
            continue
        ports = {port["name"] for port in pod.main["ports"]}
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            if probe not in pod.main or pod.main[probe]["httpGet"]["port"] not in ports:
                yield f"{pod} has no {probe}"
        if pod.main["livenessProbe"]["httpGet"]["path"] == pod.main["readinessProbe"]["httpGet"]["path"]:
            yield f"{pod} is killed for not being ready"


def the_end_is_given_its_time(made: Objects) -> Finding:
    for pod in made.pods():
        if pod.is_worker:
            continue
        file = "forebay.toml" if pod.main["name"] == "gateway" else _variable(pod, "FOREBAY_CONFIG").rpartition("/")[2]
        settings = dict(re.findall(r"(?m)^(\w+) = (\d+)$", made.config(file)))
        stop_s = 10 if pod.main["name"] == "engine" else 0
        drain_s = int(settings["drain_delay_s"]) + int(settings["drain_timeout_s"]) + stop_s
        needed_s = pod.main["lifecycle"]["preStop"]["sleep"]["seconds"] + drain_s + MARGIN_S
        if pod.spec["terminationGracePeriodSeconds"] < needed_s:
            yield f"{pod} is killed after {pod.spec['terminationGracePeriodSeconds']} s of {needed_s}"


def a_start_is_given_its_time(made: Objects) -> Finding:
    for pod in made.selected({"app.kubernetes.io/component": "engine"}):
        probe = pod.main["startupProbe"]
        budget_s = probe["periodSeconds"] * probe["failureThreshold"]
        config = made.config(_variable(pod, "FOREBAY_CONFIG").rpartition("/")[2])
        if budget_s < int(re.search(r"engine_start_timeout_s = (\d+)", config)[1]):  # type: ignore[index]
            yield f"{pod} is killed while it loads"
        if pod.owner["kind"] == "Deployment" and pod.owner["spec"]["progressDeadlineSeconds"] <= budget_s:
            yield f"{pod}: its rollout is given up before it may be ready"


def gateways_are_always_there(made: Objects) -> Finding:
    for one in made.of("Deployment"):
        update = one["spec"]["strategy"]["rollingUpdate"]
        if one["metadata"]["name"].endswith("-gateway") and update != {"maxSurge": 1, "maxUnavailable": 0}:
            yield f"{one['metadata']['name']} is not always there"


def selectors_select(made: Objects) -> Finding:
    for one in made.of("Deployment"):
        if not one["spec"]["selector"]["matchLabels"].items() <= one["spec"]["template"]["metadata"]["labels"].items():
            yield f"{one['metadata']['name']} does not select its pods"
    selecting = {"PodDisruptionBudget": "selector", "NetworkPolicy": "podSelector", "PodMonitor": "selector"}
    for one in made.of(*selecting):
        if not made.selected(one["spec"][selecting[one["kind"]]]["matchLabels"]):
            yield f"{one['kind']} {one['metadata']['name']} selects nothing"
    for one in made.of("ServiceMonitor"):
        labels = one["spec"]["selector"]["matchLabels"]
        found = [service for service in made.of("Service") if labels.items() <= service["metadata"]["labels"].items()]
        ports = {port["name"] for service in found for port in service["spec"]["ports"]}
        if len(found) != 1 or {each["port"] for each in one["spec"]["endpoints"]} - ports:
            yield f"ServiceMonitor {one['metadata']['name']} selects {len(found)} services"


def two_workloads_have_no_pod_in_common(made: Objects) -> Finding:
    for one in made.of("Deployment"):
        if len(found := made.selected(one["spec"]["selector"]["matchLabels"])) != 1:
            yield f"{one['metadata']['name']} selects {[str(pod) for pod in found]}"


def ports_are_there(made: Objects) -> Finding:
    for service in made.of("Service"):
        for pod in made.selected(service["spec"]["selector"]):
            named = {port["name"] for port in pod.main["ports"]}
            yield from (
                f"{service['metadata']['name']}: {p}" for p in service["spec"]["ports"] if p["targetPort"] not in named
            )
        if not made.selected(service["spec"]["selector"]):
            yield f"{service['metadata']['name']} selects nothing"
    for policy in made.of("NetworkPolicy"):
        pods = made.selected(policy["spec"]["podSelector"]["matchLabels"])
        named = {port["name"] for pod in pods for port in pod.main.get("ports", ())}
        for rule in policy["spec"]["ingress"]:
            yield from (f"{policy['metadata']['name']}: {p}" for p in rule.get("ports", ()) if p["port"] not in named)


def every_pod_has_a_network_policy(made: Objects) -> Finding:
    covered = [policy["spec"]["podSelector"]["matchLabels"].items() for policy in made.of("NetworkPolicy")]
    yield from (f"{pod} is open" for pod in made.pods() if not any(labels <= pod.labels.items() for labels in covered))


def who_is_autoscaled_is_not_told_how_many(made: Objects) -> Finding:
    for scaler in made.of("ScaledObject", "HorizontalPodAutoscaler"):
        target = scaler["spec"]["scaleTargetRef"]
        if "replicas" in made.named(target["kind"], target["name"])["spec"]:
            yield f"{target['name']} is set back at every upgrade"


def shared_memory_is_there_and_paid_for(made: Objects) -> Finding:
    for pod in made.pods():
        if pod.main["name"] != "engine":
            continue
        (shm,) = [volume["emptyDir"] for volume in pod.spec["volumes"] if volume["name"] == "shm"]
        if shm["medium"] != "Memory" or "/dev/shm" not in {mount["mountPath"] for mount in pod.main["volumeMounts"]}:
            yield f"{pod} has no shared memory"
        if quantity(shm["sizeLimit"]) >= quantity(pod.main["resources"]["limits"]["memory"]):
            yield f"{pod}: its shared memory is all of its memory"


def secrets_are_in_secrets(made: Objects) -> Finding:
    for pod in made.pods():
        for one in pod.containers:
            yield from (f"{pod}: {v['name']}" for v in one.get("env", ()) if SECRET.search(str(v.get("value", ""))))
    for one in made.of("ConfigMap"):
        if one["metadata"]["name"].endswith("-config") and SECRET.search(str(one["data"])):
            yield "a secret is in the settings"


def what_is_mounted_is_there(made: Objects) -> Finding:
    for pod in made.pods():
        volumes = {volume["name"] for volume in pod.spec["volumes"]}
        mounted = {mount["name"] for one in pod.containers for mount in one.get("volumeMounts", ())}
        if volumes != mounted:
            yield f"{pod}: {volumes ^ mounted}"
        for volume in pod.spec["volumes"]:
            if "configMap" in volume and (keys := {item["key"] for item in volume["configMap"]["items"]}):
                data = made.named("ConfigMap", volume["configMap"]["name"])["data"]
                yield from (f"{pod}: no {key}" for key in keys - data.keys())


def upgrades_of_the_chart_alone_restart_nobody(made: Objects) -> Finding:
    for pod in made.pods():
        yield from (f"{pod}: {label}" for label in pod.labels if "chart" in label or "version" in label)


def names_are_unique(made: Objects) -> Finding:
    named = [(one["kind"], one["metadata"]["name"]) for one in made.all]
    yield from (f"{kind} {name}" for kind, name in {one for one in named if named.count(one) > 1})
    yield from (f"{name} is too long" for _, name in named if len(name) > 63)


def _variable(pod: Pod, name: str) -> str:
    value: str = next(one["value"] for one in pod.main["env"] if one["name"] == name)
    return value


RULES: tuple[Rule, ...] = (
    no_privileges,
    gateways_cannot_write_to_their_image,
    only_gateways_have_a_token,
    limits_are_set,
    images_are_told_apart,
    probes_ask_ports_that_there_are,
    the_end_is_given_its_time,
    a_start_is_given_its_time,
    gateways_are_always_there,
    selectors_select,
    two_workloads_have_no_pod_in_common,
    ports_are_there,
    every_pod_has_a_network_policy,
    who_is_autoscaled_is_not_told_how_many,
    shared_memory_is_there_and_paid_for,
    secrets_are_in_secrets,
    what_is_mounted_is_there,
    upgrades_of_the_chart_alone_restart_nobody,
    names_are_unique,
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("name", NAMES)
def test_what_must_hold_holds(name: str, rule: Rule) -> None:
    assert list(rule(objects(name))) == []


def _pod(made: Objects) -> Object:
    return next(made.pods()).spec


def _engine(made: Objects) -> Object:
    return made.selected({"app.kubernetes.io/component": "engine"})[0].spec


def _first(made: Objects, kind: str) -> Object:
    found: Object = made.of(kind)[0]["spec"]
    return found


# How each rule is broken: a rule that cannot be is worth nothing.
BROKEN: dict[Rule, Callable[[Objects], Any]] = {
    no_privileges: lambda made: _pod(made)["containers"][0]["securityContext"].update(privileged=True),
    gateways_cannot_write_to_their_image: lambda made: made.named("Deployment", "demo-gateway")["spec"]["template"][
        "spec"
    ]["containers"][0]["securityContext"].update(readOnlyRootFilesystem=False),
    only_gateways_have_a_token: lambda made: made.of("Role")[0]["rules"][0]["verbs"].append("patch"),
    limits_are_set: lambda made: _engine(made)["containers"][0]["resources"]["limits"].pop("memory"),
    images_are_told_apart: lambda made: _pod(made)["containers"][0].update(image="registry:5000/forebay"),
    probes_ask_ports_that_there_are: lambda made: _engine(made)["containers"][0]["ports"].pop(),
    the_end_is_given_its_time: lambda made: _engine(made).update(terminationGracePeriodSeconds=300),
    a_start_is_given_its_time: lambda made: _engine(made)["containers"][0]["startupProbe"].update(failureThreshold=9),
    gateways_are_always_there: lambda made: made.named("Deployment", "demo-gateway")["spec"]["strategy"][
        "rollingUpdate"
    ].update(maxUnavailable=1),
    selectors_select: lambda made: _first(made, "PodDisruptionBudget")["selector"]["matchLabels"].update(a="b"),
    two_workloads_have_no_pod_in_common: lambda made: [
        one["spec"]["selector"]["matchLabels"].pop("forebay.dev/track")
        for one in made.of("Deployment")
        if "forebay.dev/track" in one["spec"]["selector"]["matchLabels"]
    ],
    ports_are_there: lambda made: _first(made, "Service")["ports"][0].update(targetPort="web"),
    every_pod_has_a_network_policy: lambda made: made.all.remove(made.of("NetworkPolicy")[0]),
    who_is_autoscaled_is_not_told_how_many: lambda made: made.named("Deployment", "demo-qwen")["spec"].update(
        replicas=1
    ),
    shared_memory_is_there_and_paid_for: lambda made: _engine(made)["containers"][0]["volumeMounts"].pop(),
    secrets_are_in_secrets: lambda made: _pod(made)["containers"][0]["env"].append({"name": "K", "value": "sk-one"}),
    what_is_mounted_is_there: lambda made: _engine(made)["volumes"].pop(),
    upgrades_of_the_chart_alone_restart_nobody: lambda made: next(made.pods()).labels.update(
        {"helm.sh/chart": "forebay-1.2.3"}
    ),
    names_are_unique: lambda made: made.all.append(made.all[0]),
}
NEEDED = {two_workloads_have_no_pod_in_common: "canary", who_is_autoscaled_is_not_told_how_many: "keda-from-zero"}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_rule_that_is_broken_is_noticed(rule: Rule) -> None:
    made = Objects(example(NEEDED.get(rule, "one-gpu")))
    made.all = copy.deepcopy(made.all)
    BROKEN[rule](made)
    assert list(rule(made))


def test_engines_of_a_closed_release_reach_each_other_and_dns_only() -> None:
    values = {**example("multi-node"), "networkPolicy": {"engineEgress": False}}
    for policy in Objects(values).of("NetworkPolicy"):
        if policy["metadata"]["name"] == "demo-gateway":
            continue
        assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
        dns, nodes = policy["spec"]["egress"]
        assert {port["port"] for port in dns["ports"]} == {53}
        assert {one["podSelector"]["matchLabels"]["app.kubernetes.io/component"] for one in nodes["to"]} == {
            "engine",
            "engine-worker",
        }


def test_only_gateways_and_prometheus_reach_engines() -> None:
    policy = objects("one-gpu").named("NetworkPolicy", "demo-llama")["spec"]["ingress"]
    callers, watchers = policy
    assert callers["ports"] == [{"port": "engine"}]
    assert [one["podSelector"]["matchLabels"]["app.kubernetes.io/component"] for one in callers["from"]] == ["gateway"]
    assert [one["namespaceSelector"]["matchLabels"] for one in watchers["from"]] == [
        {"kubernetes.io/metadata.name": "monitoring"}
    ]


def test_all_nodes_of_an_engine_are_told_the_same() -> None:
    leader, worker = (pod.main for pod in objects("multi-node").pods() if pod.main["name"] == "engine")
    behind = leader["args"][leader["args"].index("--") + 1 :]
    assert set(behind) <= set(worker["args"])
    assert set(worker["args"]) - set(behind) == {
        *("deepseek-ai/DeepSeek-V3.1", "--headless", "--max-model-len=65536", "--tensor-parallel-size=8")
    }
    assert leader["resources"] == worker["resources"]


def test_nodes_may_go_by_ray() -> None:
    values = example("multi-node")
    values["models"][0]["executor"] = "ray"
    leader, worker = (pod.main for pod in Objects(values).pods() if pod.main["name"] == "engine")
    assert leader["command"][:2] == ["sh", "-c"]
    assert "--distributed-executor-backend=ray" in leader["args"]
    assert "--nnodes=2" not in leader["args"]
    assert worker["command"] == ["ray", "start", "--address=$(LWS_LEADER_ADDRESS):6379", "--block"]
    assert "args" not in worker
