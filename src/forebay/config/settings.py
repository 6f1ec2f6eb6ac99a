"""Every setting of Forebay, once: its meaning, unit, range, default, and the plain names it also answers to.

Command-line options, environment variables, `forebay.example.toml` and the settings reference are all made from
the fields of the groups in `config/groups/`; nothing is typed twice. A value is validated when the process starts, and
a wrong one is refused with the name of its key. The environment variable of a field is `FOREBAY_` and its name in
capitals; `aliases` are the unprefixed names that vLLM services commonly use. Secrets are no command-line options: a
process list shows those.
"""

from typing import Any, Self, cast

from pydantic import ConfigDict, ValidationError, model_validator

from forebay.config.groups.access import AccessSettings
from forebay.config.groups.admission import AdmissionSettings
from forebay.config.groups.agent import AgentSettings
from forebay.config.groups.batches import BatchSettings
from forebay.config.groups.cache import CacheSettings
from forebay.config.groups.conversations import ConversationSettings
from forebay.config.groups.drain import DrainSettings
from forebay.config.groups.engine import EngineSettings
from forebay.config.groups.keys import KeySettings
from forebay.config.groups.limits import LimitSettings
from forebay.config.groups.native import NativeSettings
from forebay.config.groups.requests import RequestSettings
from forebay.config.groups.server import ServerSettings
from forebay.config.groups.shared import SharedSettings
from forebay.config.groups.telemetry import TelemetrySettings
from forebay.config.groups.tokens import TokenSettings
from forebay.config.groups.tracing import TracingSettings
from forebay.config.groups.upstream import UpstreamSettings
from forebay.config.groups.usage import UsageSettings
from forebay.config.groups.warmup import WarmupSettings

LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})


# pydantic takes the fields of the last first, so the references read from the bottom up: server, access, keys, …
class Settings(
    TracingSettings,
    TelemetrySettings,
    DrainSettings,
    AgentSettings,
    WarmupSettings,
    EngineSettings,
    UpstreamSettings,
    LimitSettings,
    SharedSettings,
    BatchSettings,
    CacheSettings,
    AdmissionSettings,
    NativeSettings,
    RequestSettings,
    TokenSettings,
    ConversationSettings,
    UsageSettings,
    KeySettings,
    AccessSettings,
    ServerSettings,
):
    """The whole configuration of one Forebay process, immutable. Here stands what looks at more than one group."""

    model_config = ConfigDict(defer_build=False)

    @property
    def keeps_usage(self) -> bool:
        return self.usage_ledger and self.uses_database

    @property
    def asks_for_keys(self) -> bool:
        """Whether callers must say who they are."""
        return bool(self.api_keys) or self.uses_database or self.uses_tokens

    @property
    def has_tenants(self) -> bool:
        """Whether callers may be of more than one tenant: each configured key is one."""
        return len(set(self.api_keys)) > 1 or self.uses_database or self.uses_tokens

    @property
    def metrics_address(self) -> str:
        """Where the metrics port listens."""
        return self.metrics_host or self.host

    @model_validator(mode="after")
    def _refuse_an_open_metrics_port(self) -> Self:
        if self.metrics_port is None:
            if self.metrics_host is not None or self.metrics_port_public:
                raise ValueError("metrics_port: is not set, so nothing listens at metrics_host")
            return self
        said_so = self.metrics_port_public or self.metrics_public or self.allow_anonymous
        if not self.asks_for_keys and self.metrics_address not in LOOPBACK_HOSTS and not said_so:
            raise ValueError(
                f"metrics_host: listening on {self.metrics_address} without a key would show the metrics to anybody; "
                "set API_KEYS, name a loopback address, or say --metrics-port-public"
            )
        return self

    @model_validator(mode="after")
    def _refuse_open_doors(self) -> Self:
        if not self.asks_for_keys and self.host not in LOOPBACK_HOSTS and not self.allow_anonymous:
            raise ValueError(
                f"host: listening on {self.host} without a key would let anybody in; set API_KEYS, "
                "keep host 127.0.0.1, or say --allow-anonymous"
            )
        if not self.has_upstream_key and self.engine_host not in LOOPBACK_HOSTS and not self.allow_anonymous:
            raise ValueError(
                f"engine_host: an engine that listens on {self.engine_host} without a key would let anybody in; set "
                "FOREBAY_UPSTREAM_API_KEY (upstream_api_key), keep engine_host 127.0.0.1, or say --allow-anonymous"
            )
        return self

    @model_validator(mode="after")
    def _refuse_administrators_in_the_clear(self) -> Self:
        behind_tls = self.tls_cert_file is not None or self.trusted_proxies or self.allow_plain_admin
        if self.admin_keys and self.host not in LOOPBACK_HOSTS and not behind_tls:
            raise ValueError(
                f"admin_keys: listening on {self.host} without TLS would send them over the network in the clear; "
                "set tls_cert_file and tls_key_file, name the proxies with TLS in trusted_proxies, or say "
                "--allow-plain-admin"
            )
        return self

    @model_validator(mode="after")
    def _refuse_limits_that_cannot_hold(self) -> Self:
        if self.address_limits and self.asks_for_keys:
            raise ValueError("address_limits: where keys are asked for nobody calls without one; use key_limits")
        if self.default_rate_limit is not None and "requests_per_minute" in self.key_limits:
            raise ValueError("key_limits: requests_per_minute would be default_rate_limit's; set one of them")
        return self

    @model_validator(mode="after")
    def _refuse_a_cache_shared_nowhere(self) -> Self:
        if self.cache_shared and self.redis_url is None:
            raise ValueError("cache_shared: needs redis_url (REDIS_URL)")
        return self

    @model_validator(mode="after")
    def _check_models(self) -> Self:
        if self.models and self.model is not None:
            raise ValueError("models: set either models or model, not both")
        self.each_model()
        return self

    def each_model(self) -> "list[Settings]":
        """The settings of each model to serve; these alone where there is one model. Raises ValueError."""
        return [self._with(number, entry) for number, entry in enumerate(self.models)] or [self]

    def _with(self, number: int, entry: dict[str, Any]) -> "Settings":
        if "model" not in entry:
            raise ValueError(f"models[{number}].model: name the model to serve")
        if unknown := sorted(entry.keys() - PER_MODEL):
            raise ValueError(f"models[{number}].{unknown[0]}: no setting that a model may have of its own")
        common = {name: getattr(self, name) for name in self.model_fields_set - {"models"}}
        try:
            return Settings(**{**common, **entry})
        except ValidationError as invalid:
            first = invalid.errors(include_url=False, include_input=False, include_context=False)[0]
            raise ValueError(f"models[{number}].{first['loc'][0]}: {first['msg']}") from None


PER_MODEL = frozenset(
    name for name, field in Settings.model_fields.items() if cast(dict[str, Any], field.json_schema_extra)["per_model"]
)
