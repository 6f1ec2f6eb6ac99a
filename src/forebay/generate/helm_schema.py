"""`deploy/helm/forebay/values.schema.json`: what the chart takes, every key named, so that a typing error is refused.

What the values mean stands in the chart's `values.yaml`; the settings below `settings` are Forebay's own, with their
ranges, less those that the chart says itself.
"""

import json
from typing import Any

from forebay.config.settings import Settings
from forebay.generate.fields import is_secret

Schema = dict[str, Any]

# What the chart says itself, of gateways and engines.
CHARTS_OWN = frozenset(
    {
        *("host", "port", "upstream", "group_weights", "metrics_port", "metrics_host", "metrics_port_public"),
        *("drain_delay_s", "drain_timeout_s", "allow_anonymous", "redis_url", "database_url", "cache_shared"),
        *("agent_host", "agent_port", "engine_host", "engine_port", "engine_start_timeout_s", "warmup_cache_dir"),
        *("model", "served_model_name", "tls_cert_file", "tls_key_file", "files_dir", "usage_spool_dir"),
    }
)

# Settings that are no options of a command.
_IN_FILES = frozenset({("gateway", "prices"), ("gateway", "presets")})
_UNTOLD = frozenset(
    {"title", "description", "default", "group", "aliases", "roles", "separator", "per_model", "hot", "format"}
)

TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
FREE: Schema = {"type": "object"}  # Kubernetes' own, which its API checks
TEXTS: Schema = {"type": "array", "items": {"type": "string", "minLength": 1}}
LABELS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}
SECONDS: Schema = {"type": "integer", "minimum": 0, "maximum": 86_400}
LABEL: Schema = {"type": "string", "pattern": "^[a-z]([a-z0-9-]*[a-z0-9])?$", "maxLength": 30}
QUANTITY: Schema = {"type": "string", "pattern": "^[0-9]+(\\.[0-9]+)?([KMGTPE]i?|[mk])?$"}
DIGEST: Schema = {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"}
WEIGHT: Schema = {"type": "integer", "minimum": 0, "maximum": 100}


def render() -> str:
    return json.dumps(schema(), indent=1) + "\n"


def schema() -> Schema:
    """The whole; `$comment` says where it comes from."""
    return {
        # The dialect that all of Helm 3 and 4 know.
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$comment": "Generated from the code: `make generate`.",
        "title": "Values of Forebay's chart",
        **_table(
            **_what_runs(),
            **_what_is_asked_for(),
            **_who_reaches_it(),
            settings=_settings("gateway"),
            # 'global' is what a chart that this one is part of says to all of its charts.
            **{"global": FREE},
        ),
        "$defs": {**Settings.model_json_schema()["$defs"], "EngineSettings": _settings("engine")},
    }


def _what_runs() -> dict[str, Schema]:
    return {
        "image": _table(
            registry=TEXT,
            gateway=_image(),
            engine=_image(),
            pullPolicy=_one_of("Always", "IfNotPresent", "Never"),
            pullSecrets=TEXTS,
        ),
        "gateway": _table(
            replicas=_whole(1),
            drain=_drain(),
            minReadySeconds=SECONDS,
            autoscaling=_table(enabled=FLAG, minReplicas=_whole(1), maxReplicas=_whole(1), cpuPercent=_whole(1, 100)),
            filesClaim=TEXT,
            service=_table(type=_one_of("ClusterIP", "NodePort", "LoadBalancer"), annotations=LABELS),
            **_pods(),
        ),
        "models": {
            "type": "array",
            "items": {**_table(name=LABEL, **_model(), canary=_canary()), "required": ["name", "model"]},
        },
        "modelDefaults": _table(**_model(), canary=_canary()),
        "autoscaling": _table(**_autoscaling()),
    }


def _what_is_asked_for() -> dict[str, Schema]:
    return {
        "auth": _table(
            existingSecret=TEXT,
            apiKeys=TEXTS,
            adminKeys=TEXTS,
            upstreamApiKey=TEXT,
            secretKey={"type": "string", "pattern": "^(.{32,})?$"},
            hfToken=TEXT,
            allowAnonymous=FLAG,
        ),
        "database": _table(enabled=FLAG, url=TEXT),
        "redis": _table(enabled=FLAG, url=TEXT, sharedCache=FLAG),
        "cache": _table(
            kind=_one_of("ephemeral", "claim", "node"),
            mountPath={"type": "string", "pattern": "^/.+"},
            size=QUANTITY,
            claim=_table(existing=TEXT, storageClass=TEXT, accessModes=TEXTS),
            nodePath={"type": "string", "pattern": "^/.+"},
            download=FLAG,
        ),
    }


def _who_reaches_it() -> dict[str, Schema]:
    return {
        "ingress": _table(enabled=FLAG, className=TEXT, host=TEXT, tlsSecret=TEXT, annotations=LABELS),
        "gatewayApi": _table(
            enabled=FLAG,
            parents={"type": "array", "items": FREE},
            hostnames=TEXTS,
            inferencePool=_table(enabled=FLAG, endpointPicker=TEXT, endpointPickerPort=_whole(1, 65_535)),
        ),
        "networkPolicy": _table(
            enabled=FLAG, callers={"type": "array", "items": FREE}, prometheusNamespace=TEXT, engineEgress=FLAG
        ),
        "monitoring": _table(
            serviceMonitor=FLAG,
            podMonitor=FLAG,
            prometheusRule=FLAG,
            dashboards=FLAG,
            interval={"type": "string", "pattern": "^[0-9]+s$"},
            labels=LABELS,
            dashboardLabels=LABELS,
        ),
        "serviceAccount": _table(create=FLAG, name=TEXT, annotations=LABELS),
    }


def _model() -> dict[str, Schema]:
    return {
        "model": {"type": "string", "minLength": 1},
        "servedName": TEXT,
        "revision": TEXT,
        "replicas": _whole(1),
        "gpus": _whole(0, 64),
        "gpuResource": TEXT,
        "gpuProducts": TEXTS,
        "nodes": _whole(1, 64),
        "executor": _one_of("mp", "ray"),
        "settings": {"$ref": "#/$defs/EngineSettings"},
        "args": TEXTS,
        "env": {"type": "array", "items": {**FREE, "required": ["name"]}},
        "image": _image(),
        "shm": QUANTITY,
        "startupSeconds": _whole(60, 86_400),
        "drain": _drain(),
        "rollout": _table(maxSurge=_whole(0), maxUnavailable=_whole(0)),
        "runtimeClassName": TEXT,
        "readOnlyRootFilesystem": FLAG,
        "autoscaling": _table(**_autoscaling()),
        **_pods(),
    }


def _canary() -> Schema:
    """A model's, less what both versions have together."""
    shared = ("servedName", "autoscaling")
    own = {name: told for name, told in _model().items() if name not in shared}
    return _table(enabled=FLAG, weight=WEIGHT, **own)


def _autoscaling() -> dict[str, Schema]:
    pace = _table(windowSeconds=_whole(0, 3600), pods=_whole(1), periodSeconds=_whole(1, 1800))
    return {
        "kind": _one_of("none", "keda", "hpa"),
        "minReplicas": _whole(0),
        "maxReplicas": _whole(1),
        "demandPerReplica": _whole(1),
        "waitingPerReplica": _whole(1),
        "prometheusUrl": {"type": "string", "pattern": "^https?://"},
        "selector": TEXT,
        "pollingSeconds": _whole(1, 3600),
        "cooldownSeconds": SECONDS,
        "scaleUp": pace,
        "scaleDown": pace,
        "fallback": _table(failures=_whole(1), replicas=_whole(1)),
    }


def _pods() -> dict[str, Schema]:
    """What Kubernetes takes as it is, of gateways and of engines."""
    return {
        "resources": _table(requests=FREE, limits=FREE),
        "podAnnotations": LABELS,
        "nodeSelector": LABELS,
        "tolerations": {"type": "array", "items": FREE},
        "affinity": FREE,
        "priorityClassName": TEXT,
    }


def _settings(role: str) -> Schema:
    """Those of a role that a file may have, with their types and ranges."""
    found: dict[str, Schema] = Settings.model_json_schema()["properties"]
    return _table(
        **{
            name: {key: value for key, value in told.items() if key not in _UNTOLD}
            for name, told in found.items()
            if name not in CHARTS_OWN
            and (role in told["roles"] or (role, name) in _IN_FILES)
            and not is_secret(Settings.model_fields[name])
        }
    )


def _drain() -> Schema:
    return _table(preStopSeconds=SECONDS, delaySeconds=SECONDS, timeoutSeconds=SECONDS)


def _image() -> Schema:
    return _table(repository=TEXT, tag={"type": "string", "not": {"const": "latest"}}, digest=DIGEST)


def _table(**fields: Schema) -> Schema:
    return {"type": "object", "additionalProperties": False, "properties": fields}


def _one_of(*words: str) -> Schema:
    return {"enum": list(words)}


def _whole(least: int, most: int | None = None) -> Schema:
    return {"type": "integer", "minimum": least, **({"maximum": most} if most is not None else {})}
