"""What a gateway makes of its settings and may swap while requests run: made beforehand, swapped in one step."""

from dataclasses import dataclass, replace
from math import inf

from forebay.config.settings import Settings
from forebay.gateway.caching import CacheLimits
from forebay.gateway.sending import RelayLimits
from forebay.policy.attempts import Attempts
from forebay.policy.auth import ANONYMOUS, Authenticator, KeyLimits, fixed_keys
from forebay.policy.line import AdmissionRules
from forebay.policy.presets import Presets
from forebay.policy.routing import Routing
from forebay.policy.salts import Salts
from forebay.replicas.discovery.named import discovery_sources
from forebay.replicas.discovery.source import Source
from forebay.store.directory import KeyDirectory
from forebay.store.tokens import Tokens
from forebay.wire.body import BodyLimits

OWN_PREFILL_S = 0.5


@dataclass(frozen=True, slots=True)
class Tuning:
    """Making one may take a while, with very many keys; it may be done in a thread."""

    auth: Authenticator
    routing: Routing
    admission_rules: AdmissionRules
    body_limits: BodyLimits
    relay_limits: RelayLimits
    cache_limits: CacheLimits
    presets: Presets
    salts: Salts | None
    most_compiling: int
    sources: list[Source] | None  # None where they stay those that there are

    @classmethod
    def of(
        cls,
        settings: Settings,
        upstream: tuple[str, ...] | None = None,
        *,
        keys: KeyDirectory | None = None,
        tokens: Tokens | None = None,
        attempts: Attempts | None = None,
    ) -> "Tuning":
        """By these settings, where the engines are `upstream` now, and keys and tokens are looked up in these. Raises
        ValueError or OSError."""
        same = upstream is None or upstream == settings.upstream
        return cls(
            sources=None if same else discovery_sources(settings),
            auth=make_authenticator(settings, keys, tokens, attempts),
            routing=Routing(settings.routing),
            admission_rules=AdmissionRules(
                most_under_way=settings.max_active_requests,
                most_queued=settings.max_queue_size,
                patience_s=settings.queue_timeout_s,
                target_s=inf if settings.queue_target_s is None else settings.queue_target_s,
                fair=settings.queue_order == "fair",
                input_weight=settings.input_token_weight,
                output_weight=settings.output_token_weight,
                prefill_s=_prefill_s(settings) or inf,
                reading_s=settings.request_timeout_s,
            ),
            body_limits=BodyLimits(
                max_n=settings.max_n,
                max_logprobs=settings.max_logprobs,
                max_stop=settings.max_stop,
                max_output_tokens=settings.max_output_tokens,
                max_json_depth=settings.max_json_depth,
                max_json_parts=settings.max_json_parts,
                max_prompts=settings.max_prompts,
                max_inputs=settings.max_inputs,
                max_tools=settings.max_tools,
                max_schema_bytes=settings.max_schema_bytes,
                max_grammar_bytes=settings.max_grammar_bytes,
                media_hosts=frozenset(settings.media_hosts),
            ),
            relay_limits=RelayLimits(
                request_timeout_s=settings.request_timeout_s,
                first_byte_timeout_s=settings.first_byte_timeout_s,
                stall_timeout_s=settings.stall_timeout_s,
                max_answer_bytes=settings.max_answer_bytes,
                max_event_bytes=settings.max_event_bytes,
                max_attempts=settings.retry_attempts,
                max_takeovers=settings.takeover_attempts,
                takeover_wait_s=settings.takeover_wait_s,
                hide_timings=settings.engine_timings,
            ),
            cache_limits=CacheLimits(
                models=frozenset(settings.cache_models),
                sampled=settings.cache_sampled,
                ttl_s=settings.cache_ttl_s,
                max_bytes=settings.cache_max_bytes,
                wait_s=settings.cache_wait_s,
            ),
            presets=Presets(settings.presets),
            salts=make_salts(settings),
            most_compiling=settings.max_structured_requests if settings.has_tenants else 0,
        )


def make_authenticator(
    settings: Settings, keys: KeyDirectory | None, tokens: Tokens | None, attempts: Attempts | None = None
) -> Authenticator:
    """Who may call, as the settings say; everybody where they ask for no key."""
    default = KeyLimits(requests_per_minute=settings.default_rate)
    fixed = fixed_keys(
        [key.get_secret_value() for key in settings.api_keys],
        [key.get_secret_value() for key in settings.admin_keys],
        settings.key_rates,
        default,
    )
    anonymous = None if settings.asks_for_keys else replace(ANONYMOUS, limits=default)
    return Authenticator(fixed, anonymous=anonymous, keys=keys, tokens=tokens, attempts=attempts)


def make_salts(settings: Settings) -> Salts | None:
    """What keeps tenants apart in engines' prefix caches; None where there is one tenant, or they are not to be."""
    if not settings.tenant_cache_salt or not settings.has_tenants:
        return None
    return Salts(settings.secret_key.get_secret_value() if settings.secret_key is not None else "")


def _prefill_s(settings: Settings) -> float:
    """Only of engines that this process starts is it known that they are vLLM, which reads prompts in turn."""
    if settings.prefill_target_s is not None:
        return settings.prefill_target_s
    return 0.0 if settings.upstream else OWN_PREFILL_S
