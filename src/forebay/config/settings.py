"""Every setting of Forebay, once: its meaning, unit, range, default, and the plain names it also answers to.

Command-line options, environment variables, `forebay.example.toml` and the settings reference are all made from
the fields below; nothing is typed twice. A value is validated when the process starts, and a wrong one is refused
with the name of its key. The environment variable of a field is `FOREBAY_` and its name in capitals; `aliases` are
the unprefixed names that vLLM services commonly use. Secrets are no command-line options: a process list shows those.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from forebay.policy.prices import Price

MIB = 1024 * 1024
REDIS_SCHEMES = ("redis://", "rediss://", "unix://", "valkey://", "valkeys://")
MIN_SECRET_BYTES = 32
LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})


def setting(
    default: Any,
    help: str,
    *,
    group: str,
    aliases: tuple[str, ...] = (),
    roles: tuple[str, ...] = ("serve", "gateway"),
    separator: str = ",",
    per_model: bool = False,
    hot: bool = False,
    **constraints: Any,
) -> Any:
    """Declare one setting. `help` says meaning and unit; `roles` are the commands that take it as an option.

    `separator` stands between a list's parts in the environment; `per_model` tells that each of several models may have
    its own; `hot` that a running process follows a change of it.
    """
    extra: dict[str, Any] = {"group": group, "aliases": list(aliases), "roles": list(roles), "separator": separator}
    extra |= {"per_model": per_model, "hot": hot}
    return Field(default, description=help, json_schema_extra=extra, **constraints)


Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
SecondsOrZero = Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)]
LimitName = Literal["requests_per_minute", "tokens_per_minute", "concurrency", "tokens_per_day", "tokens_per_month"]
Limits = dict[LimitName, Annotated[int, Field(ge=1, le=10**15)]]
SERVE = ("serve",)
GATEWAY = ("gateway",)
ENGINE = ("engine",)
ENGINES = ("serve", "engine")
ALL = ("serve", "gateway", "engine")


class Settings(BaseModel):
    """The whole configuration of one Forebay process, immutable."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, hide_input_in_errors=True)

    # Where callers reach us
    host: str = setting("127.0.0.1", "Address to listen on.", group="server")
    port: int = setting(8000, "Port to listen on; 0 takes a free one.", group="server", ge=0, le=65_535)
    tls_cert_file: Path | None = setting(None, "PEM certificate chain; turns TLS on.", group="server")
    tls_key_file: Path | None = setting(None, "PEM private key of the certificate.", group="server")
    max_connections: int = setting(
        10_000, "Client connections held at once; further ones are answered 503.", group="server", ge=1, hot=True
    )
    max_url_bytes: int = setting(8192, "Longest request target, bytes.", group="server", ge=256, le=MIB, hot=True)
    max_header_bytes: int = setting(
        32_768, "Largest request header section, bytes.", group="server", ge=1024, le=MIB, hot=True
    )
    max_headers: int = setting(100, "Most header fields in a request.", group="server", ge=8, le=1000, hot=True)
    max_body_bytes: int = setting(
        32 * MIB, "Largest request body, bytes.", group="server", ge=1024, le=1024 * MIB, hot=True
    )
    max_json_depth: int = setting(64, "Deepest nesting of a JSON body.", group="server", ge=4, le=256, hot=True)
    max_json_parts: int = setting(
        10_000, "Most objects and arrays in a JSON body.", group="server", ge=100, le=1_000_000, hot=True
    )
    header_timeout_s: Seconds = setting(
        10.0, "Time for a request's header section to arrive, seconds.", group="server", hot=True
    )
    body_timeout_s: Seconds = setting(
        30.0, "Longest pause in a request body, seconds; it must also average 1 KiB/s.", group="server", hot=True
    )
    write_timeout_s: Seconds = setting(
        30.0, "Time a client may leave its answer unread before it is cut off, seconds.", group="server", hot=True
    )
    keepalive_timeout_s: Seconds = setting(
        75.0, "Time an idle client connection is kept, seconds.", group="server", hot=True
    )
    cors_origins: tuple[str, ...] = setting(
        (),
        "Origins that browsers may call from; empty turns CORS off.",
        group="server",
        aliases=("CORS_ORIGINS", "ALLOWED_ORIGINS"),
    )

    # Who may call
    api_keys: tuple[SecretStr, ...] = setting(
        (),
        "Keys that callers present, comma-separated in the environment.",
        group="access",
        roles=(),
        aliases=("API_KEYS",),
        hot=True,
    )
    api_key_limits: tuple[SecretStr, ...] = setting(
        (),
        "Requests a minute for some of api_keys, as key:number, comma-separated in the environment.",
        group="access",
        roles=(),
        aliases=("API_KEY_LIMITS",),
    )
    default_rate_limit: int | None = setting(
        None,
        "Requests within the window below for each key (and for all anonymous callers together) that has no number of "
        "its own; made into requests a minute, rounded down.",
        group="access",
        aliases=("DEFAULT_RATE_LIMIT", "RATE_LIMIT_REQUESTS"),
        ge=1,
        le=10**12,
    )
    rate_limit_window_s: Seconds = setting(
        60.0, "The window of default_rate_limit, seconds.", group="access", aliases=("RATE_LIMIT_WINDOW",)
    )
    rate_limit_window_minutes: int | None = setting(
        None, "The same window, minutes.", group="access", aliases=("RATE_LIMIT_WINDOW_MINUTES",), ge=1, le=1440
    )
    admin_keys: tuple[SecretStr, ...] = setting(
        (),
        "Keys for /admin, besides those with the scope admin in the database; without any it answers nobody.",
        group="access",
        roles=(),
        aliases=("ADMIN_KEYS",),
        hot=True,
    )
    allow_anonymous: bool = setting(
        False,
        "Listen beyond loopback without any key. Anybody who reaches the port can use it.",
        group="access",
        roles=ALL,
    )
    metrics_public: bool = setting(False, "Serve /metrics without a key.", group="access", aliases=("METRICS_PUBLIC",))

    # The database, and keys in it
    database_url: SecretStr | None = setting(
        None,
        "Database for keys and what else is kept: postgresql://user:password@host/name or sqlite:///path; a SQLite "
        "file below FOREBAY_HOME, else ~/.local/share/forebay, where it is not set.",
        group="keys",
        roles=(),
        aliases=("DATABASE_URL",),
    )
    keys_database: bool = setting(
        False, "Look keys up in the database (`forebay keys`), which database_url turns on too.", group="keys"
    )
    database_timeout_s: Seconds = setting(
        5.0, "Time to connect to the database, and for a statement, seconds.", group="keys"
    )
    key_cache_size: int = setting(
        20_000, "Keys, and as many tokens, remembered; about 1 KiB each.", group="keys", ge=16, le=10_000_000
    )

    # Who used how much
    usage_ledger: bool = setting(
        True, "Keep a ledger of usage, by key, model and day, where there is a database for keys.", group="usage"
    )
    usage_flush_s: float = setting(
        1.0,
        "Longest time for which usage is in memory only, and lost if the process is killed, seconds.",
        group="usage",
        ge=0.1,
        le=60,
        allow_inf_nan=False,
    )
    usage_spool_dir: Path | None = setting(
        None,
        "Where usage is kept until the database has it; a directory below FOREBAY_HOME, else ~/.local/share/forebay, "
        "where it is not set. Gateways of one machine may share it.",
        group="usage",
    )
    max_usage_spool_bytes: int = setting(
        256 * MIB,
        "Most that one gateway spools while the database is away, bytes; then usage stays in memory.",
        group="usage",
        ge=64 * 1024,
    )
    usage_spool_days: int = setting(
        30,
        "Time after which spooled usage is too old for the database and dropped, days.",
        group="usage",
        ge=1,
        le=3650,
    )
    prices: dict[str, Price] = setting(
        {},
        "What a million tokens of a model cost, as a table: prices.'model' = {prompt = 0.15, completion = 0.6}, and "
        "cached_prompt where that differs; JSON in the environment. Any currency, for the column cost.",
        group="usage",
        roles=(),
    )

    # Tokens (JWT) instead of keys
    secret_key: SecretStr | None = setting(
        None,
        "Secret of at least 32 bytes that signs tokens (HS256); turns them on.",
        group="tokens",
        roles=(),
        aliases=("SECRET_KEY",),
    )
    jwks: str | None = setting(
        None,
        "Key set (JWKS) of who signs tokens: a file, or an https:// URL (http:// on loopback); turns tokens on.",
        group="tokens",
        aliases=("JWKS_URL",),
    )
    jwks_ca_file: Path | None = setting(
        None, "PEM bundle that signs the certificate of that URL; the system's by default.", group="tokens"
    )
    jwks_algorithms: tuple[Literal["RS256", "ES256"], ...] = setting(
        ("RS256", "ES256"), "Algorithms that keys of the set are taken for.", group="tokens", min_length=1
    )
    jwks_refresh_s: Seconds = setting(600.0, "Time after which the set is read again, seconds.", group="tokens")
    jwt_audience: str | None = setting(
        None, "What a token's `aud` must hold; where not set, a token must have none.", group="tokens"
    )
    jwt_issuer: str | None = setting(None, "What a token's `iss` must be.", group="tokens")
    jwt_leeway_s: float = setting(
        30.0, "Difference of clocks allowed for, seconds.", group="tokens", ge=0, le=60, allow_inf_nan=False
    )

    # What a request may ask
    model_aliases: dict[str, str] = setting(
        {},
        "Other names for models: alias=model, comma-separated in the environment. "
        "An alias to '*' means the only model.",
        group="requests",
        aliases=("MODEL_ALIASES",),
        hot=True,
    )
    max_n: int = setting(8, "Most answers (n, best_of) in one request.", group="requests", ge=1, le=16_384, hot=True)
    max_logprobs: int = setting(20, "Most logprobs, top_logprobs or prompt_logprobs.", group="requests", ge=0, hot=True)
    max_stop: int = setting(16, "Most stop sequences in a request.", group="requests", ge=1, le=1024, hot=True)
    max_output_tokens: int = setting(
        10_000_000,
        "Most tokens that a request may ask for (max_tokens, max_completion_tokens, max_output_tokens); what does not "
        "fit a model's context its engine refuses.",
        group="requests",
        ge=1,
        le=10**12,
        hot=True,
    )
    # Who is served when
    max_active_requests: int = setting(
        2048,
        "Requests under way at once, those that wait included; further ones are refused with 503.",
        group="admission",
        ge=1,
        hot=True,
    )
    engine_concurrency: int | None = setting(
        None,
        "Requests that one engine has at once; further ones wait in a queue. max_num_seqs by default, else 256.",
        group="admission",
        ge=1,
        le=100_000,
        per_model=True,
    )
    max_queue_size: int = setting(
        1024,
        "Requests that wait for one model's engines; where more come, those of the tenant that has most waiting give "
        "way, or are refused with 503.",
        group="admission",
        aliases=("MAX_QUEUE_SIZE",),
        ge=0,
        le=1_000_000,
        hot=True,
    )
    queue_timeout_s: Seconds = setting(
        30.0,
        "Longest time that a request waits, seconds; the header x-request-timeout-ms may say less.",
        group="admission",
        aliases=("QUEUE_TIMEOUT",),
        hot=True,
    )
    queue_order: Literal["fair", "fifo"] = setting(
        "fair",
        "Who goes next: the tenant that was served the fewest tokens by its weight, or (fifo) who came first. Higher "
        "priorities go before in both.",
        group="admission",
    )
    input_token_weight: float = setting(
        1.0,
        "What a token of a prompt counts for in that.",
        group="admission",
        ge=0,
        le=1000,
        allow_inf_nan=False,
        hot=True,
    )
    output_token_weight: float = setting(
        2.0,
        "What a generated token counts for in that.",
        group="admission",
        gt=0,
        le=1000,
        allow_inf_nan=False,
        hot=True,
    )
    forward_priority: bool = setting(
        False,
        "Tell engines each request's priority (X-Vllm-Priority); for those that run with --scheduling-policy priority, "
        "others refuse it.",
        group="admission",
        hot=True,
    )

    # Answers that are known already
    cache_models: tuple[str, ...] = setting(
        (),
        "Models whose answers are cached, by the name that engines know them by; '*' for all. For others a request may "
        "ask with the header x-forebay-cache: use.",
        group="cache",
        aliases=("CACHE_MODELS",),
        hot=True,
    )
    cache_sampled: bool = setting(
        False,
        "Cache answers that are drawn at random too, not only those with temperature 0 or a seed.",
        group="cache",
        hot=True,
    )
    cache_ttl_s: Seconds = setting(300.0, "Time a cached answer is given out, seconds.", group="cache", hot=True)
    cache_max_bytes: int = setting(
        64 * MIB,
        "Memory for cached answers in each gateway, bytes; no answer longer than a sixteenth of it is kept, and 0 "
        "turns the cache off.",
        group="cache",
        ge=0,
        le=64 * 1024 * MIB,
        hot=True,
    )
    cache_wait_s: Seconds = setting(
        60.0,
        "Longest time a request waits for the answer to an identical one that is under way, before it is sent on its "
        "own, seconds.",
        group="cache",
        hot=True,
    )
    cache_shared: bool = setting(False, "Share cached answers among gateways; needs redis_url.", group="cache")

    # What gateways share
    redis_url: SecretStr | None = setting(
        None,
        "Redis or Valkey for what several gateways share, counts for limits and cached answers: redis://host:port/0, "
        "rediss:// or unix://. Without it each counts alone, and from its start.",
        group="shared",
        roles=(),
        aliases=("REDIS_URL",),
    )
    redis_timeout_s: Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)] = setting(
        0.02, "Time that Redis has for an answer before the gateway does without, seconds.", group="shared"
    )

    # How much they may use
    key_limits: Limits = setting(
        {},
        "What each key may use that has no limits of its own: requests_per_minute, tokens_per_minute, concurrency, "
        "tokens_per_day, tokens_per_month; name=number, comma-separated in the environment. Callers without a key are "
        "one key and one tenant together.",
        group="limits",
        hot=True,
    )
    tenant_limits: Limits = setting(
        {}, "What each tenant may use, all its keys together, that has no limits of its own.", group="limits", hot=True
    )
    address_limits: Limits = setting(
        {},
        "What each client address may use, where no keys are set; an IPv6 address counts as its /64.",
        group="limits",
        hot=True,
    )
    global_limits: Limits = setting({}, "What all callers together may use.", group="limits", hot=True)
    default_max_tokens: int = setting(
        256,
        "Tokens reserved for an answer where the request does not say how many it may have; what is generated is what "
        "counts in the end.",
        group="limits",
        ge=1,
        le=1_000_000,
        hot=True,
    )
    # Engines elsewhere
    upstream: tuple[str, ...] = setting(
        (),
        "Where running engines are; repeat for several. One engine: http://host:port, https://host:port or "
        "unix:///path. All addresses of a name, asked for again and again: dns://host:port or dns+https://host:port. "
        "The ready pods of a Service, by the pods' own port, number or name: kubernetes://namespace/service:port or "
        "kubernetes+https://namespace/service:port. '#name' at the end puts it into a group: another version of a "
        "model, a canary.",
        group="upstream",
        roles=GATEWAY,
        aliases=("UPSTREAMS",),
        hot=True,
    )
    upstream_api_key: SecretStr | None = setting(
        None,
        "Key sent to the engines as a bearer token; `forebay engine` starts its engine with it.",
        group="upstream",
        roles=(),
        aliases=("VLLM_API_KEY",),
    )
    upstream_ca_file: Path | None = setting(
        None,
        "PEM bundle that signs the engines' certificates; the system's by default.",
        group="upstream",
        roles=GATEWAY,
    )
    discovery_interval_s: Seconds = setting(
        5.0, "Time between two look-ups of a dns:// name, seconds.", group="upstream", roles=GATEWAY
    )
    routing: Literal["round_robin", "least_outstanding", "prefix"] = setting(
        "prefix",
        "How a replica is chosen: each in turn, the fewest tokens outstanding, or (prefix) the one that a conversation "
        "was with before, unless it is much busier than the rest.",
        group="upstream",
        hot=True,
    )
    group_weights: dict[str, Annotated[int, Field(ge=0, le=1_000_000)]] = setting(
        {},
        "Shares of a model's groups of replicas: group=weight, comma-separated in the environment; 100 where not said, "
        "0 only when no other group can serve.",
        group="upstream",
        hot=True,
    )
    show_replica: Literal["never", "always"] = setting(
        "never", "Name the replica that answered in the header x-forebay-replica.", group="upstream", hot=True
    )
    connect_timeout_s: Seconds = setting(
        2.0, "Time to connect to an engine, seconds.", group="upstream", roles=ALL, hot=True
    )
    first_byte_timeout_s: Seconds = setting(
        300.0, "Time an engine has until the first byte of its answer, seconds.", group="upstream", hot=True
    )
    request_timeout_s: Seconds = setting(
        600.0, "Time after which no further attempt at a request is made, seconds.", group="upstream", hot=True
    )
    stall_timeout_s: Seconds = setting(
        60.0, "Longest pause between two blocks of an engine's answer, seconds.", group="upstream", hot=True
    )
    engine_stall_s: Seconds = setting(
        20.0,
        "Time an engine may have work and make no progress before it is taken out of rotation (and restarted, if it is "
        "ours), seconds; six times as long while an engine of ours is seen computing. Longer than the longest step of "
        "engines elsewhere: a few seconds will do on GPUs, a CPU's prefill can take ten.",
        group="upstream",
        roles=ALL,
    )
    upstream_idle_s: Seconds = setting(
        4.0,
        "Time an idle engine connection is kept, seconds; shorter than the engine's own.",
        group="upstream",
        hot=True,
    )
    max_upstream_connections: int = setting(4096, "Connections to one engine.", group="upstream", ge=1, hot=True)
    max_answer_bytes: int = setting(
        64 * MIB, "Largest answer held whole (anything but a stream), bytes.", group="upstream", ge=1024, hot=True
    )
    max_event_bytes: int = setting(MIB, "Largest event in a stream, bytes.", group="upstream", ge=1024, hot=True)
    health_interval_s: Seconds = setting(
        2.0, "Time between two checks of an engine, seconds.", group="upstream", roles=ALL
    )
    health_timeout_s: Seconds = setting(
        5.0, "Time an engine has to answer a check, seconds.", group="upstream", roles=ALL
    )
    retry_attempts: int = setting(
        2, "Attempts for a request of which nothing has reached the client.", group="upstream", ge=1, le=5, hot=True
    )
    takeover_attempts: int = setting(
        3,
        "Times that a request whose engine died or stalled is taken over by another.",
        group="upstream",
        ge=0,
        le=16,
        hot=True,
    )
    takeover_wait_s: SecondsOrZero = setting(
        120.0,
        "Time such a request waits for an engine to be ready, a restarted one too, seconds.",
        group="upstream",
        hot=True,
    )
    breaker_failures: int = setting(
        5, "Failures in a row after which an engine is left alone for a while.", group="upstream", ge=1, hot=True
    )
    breaker_ratio: float = setting(
        0.5,
        "Share of failed attempts within half a minute that has the same effect.",
        group="upstream",
        gt=0,
        le=1,
        hot=True,
    )
    breaker_pause_s: Seconds = setting(
        5.0,
        "How long it is left alone before one trial; doubled up to a minute while trials fail, seconds.",
        group="upstream",
        hot=True,
    )

    # The engine we start
    model: str | None = setting(
        None,
        "Model to serve: a Hugging Face id, a directory, or 'default' for the packaged small one.",
        group="engine",
        roles=(),
        aliases=("MODEL_NAME", "MODEL_PATH"),
        per_model=True,
    )
    replicas: int = setting(
        1,
        "Engines to run side by side; GPUs are shared out among them.",
        group="engine",
        roles=SERVE,
        ge=1,
        le=64,
        per_model=True,
    )
    models: tuple[dict[str, Any], ...] = setting(
        (),
        "Several models instead of one: a table [[models]] for each, with `model` and any of the settings that each "
        "may have of its own; the others hold for all. JSON in the environment.",
        group="engine",
        roles=(),
    )
    model_group: str = setting(
        "default",
        "Group that a model's engines are in; two entries with one served_model_name and different groups are versions "
        "side by side, which group_weights shares the requests out among.",
        group="engine",
        roles=(),
        per_model=True,
        min_length=1,
    )
    served_model_name: str | None = setting(
        None, "Name that callers use for the model.", group="engine", roles=ENGINES, per_model=True
    )
    engine_python: Path | None = setting(
        None,
        "Python that has vLLM installed; by default .venv/engine beside Forebay's own, else Forebay's own.",
        group="engine",
        roles=ENGINES,
    )
    engine_args: tuple[str, ...] = setting(
        (), "More options for vLLM, as on its command line (also after `--`).", group="engine", roles=(), per_model=True
    )
    max_model_len: int | None = setting(
        None,
        "Context length, tokens (vLLM --max-model-len).",
        group="engine",
        roles=ENGINES,
        aliases=("MAX_MODEL_LEN",),
        ge=1,
        per_model=True,
    )
    max_num_seqs: int | None = setting(
        None,
        "Sequences in a batch (vLLM --max-num-seqs).",
        group="engine",
        roles=ENGINES,
        aliases=("MAX_NUM_SEQS",),
        ge=1,
        per_model=True,
    )
    gpu_memory_utilization: float | None = setting(
        None,
        "Share of GPU memory to use (vLLM --gpu-memory-utilization).",
        group="engine",
        roles=ENGINES,
        aliases=("GPU_MEMORY_UTILIZATION",),
        gt=0,
        le=1,
        per_model=True,
    )
    tensor_parallel_size: int | None = setting(
        None,
        "GPUs one model is split over (vLLM --tensor-parallel-size).",
        group="engine",
        roles=ENGINES,
        aliases=("TENSOR_PARALLEL_SIZE",),
        ge=1,
        per_model=True,
    )
    quantization: str | None = setting(
        None,
        "Quantisation method (vLLM --quantization).",
        group="engine",
        roles=ENGINES,
        aliases=("QUANTIZATION",),
        per_model=True,
    )
    dtype: str | None = setting(
        None, "Number format of weights (vLLM --dtype).", group="engine", roles=ENGINES, per_model=True
    )
    engine_start_timeout_s: Seconds = setting(
        1800.0,
        "Time from starting the engine to its first healthy answer, seconds.",
        group="engine",
        roles=ENGINES,
    )
    engine_warm_timeout_s: Seconds = setting(
        600.0, "Time for the warm-up after that, seconds.", group="engine", roles=ENGINES
    )
    engine_stop_timeout_s: Seconds = setting(
        10.0, "Time between asking the engine to end and killing it, seconds.", group="engine", roles=ENGINES
    )
    engine_backoff_max_s: Seconds = setting(
        60.0, "Longest pause before a crashed engine is started again, seconds.", group="engine", roles=ENGINES
    )
    engine_crash_limit: int = setting(
        5,
        "Crashes within engine_crash_window_s after which it is left stopped.",
        group="engine",
        roles=ENGINES,
        ge=1,
        le=1000,
    )
    engine_crash_window_s: Seconds = setting(
        600.0, "Window over which crashes are counted, seconds.", group="engine", roles=ENGINES
    )
    runtime_dir: Path | None = setting(
        None, "Directory for sockets; a private temporary one by default.", group="engine", roles=SERVE
    )

    idle_probe_s: Seconds = setting(
        30.0,
        "Time an engine may have nothing to do before it is asked for one token, to see that it still works, seconds.",
        group="engine",
        roles=ALL,
    )
    engine_sleep: bool = setting(
        False,
        "Start engines with vLLM's sleep mode (GPUs): replaced in place, the old one sleeps, its memory given back, "
        "until the new one is ready, and is awake again within seconds where that fails.",
        group="engine",
        roles=SERVE,
        per_model=True,
    )
    rollout: Literal["auto", "surge", "in_place"] = setting(
        "auto",
        "How an engine is replaced by one with other options: the new one beside the old one first (surge), or in its "
        "place once it has drained (in_place); auto is surge where memory allows it, and in_place on GPUs.",
        group="engine",
        roles=SERVE,
    )

    # Before it is ready
    warmup_prompts: tuple[str, ...] = setting(
        ("The capital of France is",),
        "Prompts generated before the engine is ready, one a line in the environment. What real ones have in common "
        "belongs here: it will be in the prefix cache.",
        group="warmup",
        roles=ENGINES,
        separator="\n",
        min_length=1,
        per_model=True,
    )
    warmup_tokens: int = setting(
        8, "Tokens generated for each of them.", group="warmup", roles=ENGINES, ge=1, le=4096, per_model=True
    )
    warmup_cache_dir: Path | None = setting(
        None,
        "Directory where engines keep compiled code between starts (VLLM_CACHE_ROOT is a directory in it for each "
        "model, version of vLLM and set of options); by default below FOREBAY_HOME, else ~/.cache/forebay/warmup.",
        group="warmup",
        roles=ENGINES,
    )

    # The agent, and where its engine listens
    agent_host: str = setting("127.0.0.1", "Address of the agent's own pages.", group="agent", roles=ENGINE)
    agent_port: int = setting(
        9000, "Port of the agent's own pages; 0 takes a free one.", group="agent", roles=ENGINE, ge=0, le=65_535
    )
    engine_host: str = setting(
        "127.0.0.1",
        "Address that the agent's engine listens on; beyond loopback it needs upstream_api_key.",
        group="agent",
        roles=ENGINE,
    )
    engine_port: int = setting(
        8000, "Port that the agent's engine listens on.", group="agent", roles=ENGINE, ge=1, le=65_535
    )

    # Ending
    drain_delay_s: SecondsOrZero = setting(
        0.0,
        "Time to go on accepting after SIGTERM while readiness already says 503, seconds.",
        group="drain",
        roles=ALL,
        hot=True,
    )
    drain_timeout_s: SecondsOrZero = setting(
        60.0, "Time for running requests to finish after that, seconds.", group="drain", roles=ALL, hot=True
    )

    # What operators see
    log_level: Literal["debug", "info", "warning", "error"] = setting(
        "info", "Least severe log line written.", group="telemetry", aliases=("LOG_LEVEL",), roles=ALL, hot=True
    )
    log_format: Literal["auto", "json", "text"] = setting(
        "auto", "Log lines as JSON or as text; auto is text on a terminal.", group="telemetry", roles=ALL
    )
    log_file: Path | None = setting(
        None,
        "File that log lines go to instead of standard error.",
        group="telemetry",
        aliases=("LOG_FILE",),
        roles=ALL,
    )
    access_log: bool = setting(True, "One log line a request.", group="telemetry", hot=True)

    @property
    def uses_database(self) -> bool:
        """Whether keys are looked up in the database."""
        return self.keys_database or self.database_url is not None

    @property
    def keeps_usage(self) -> bool:
        return self.usage_ledger and self.uses_database

    @property
    def uses_tokens(self) -> bool:
        return self.secret_key is not None or self.jwks is not None

    @property
    def asks_for_keys(self) -> bool:
        """Whether callers must say who they are."""
        return bool(self.api_keys) or self.uses_database or self.uses_tokens

    @property
    def key_rates(self) -> dict[str, int]:
        """Requests a minute of keys that have their own. Raises ValueError."""
        return dict(_key_and_rate(number, entry) for number, entry in enumerate(self.api_key_limits, 1))

    @property
    def default_rate(self) -> int | None:
        """Requests a minute of whoever has no number of its own. Raises ValueError."""
        if self.default_rate_limit is None:
            return None
        minutes = self.rate_limit_window_minutes or self.rate_limit_window_s / 60
        if (rate := int(self.default_rate_limit / minutes)) < 1:
            raise ValueError("default_rate_limit: less than one request a minute cannot be enforced")
        return rate

    @property
    def has_upstream_key(self) -> bool:
        return self.upstream_api_key is not None and self.upstream_api_key.get_secret_value() != ""

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_truth_for_a_number(cls, value: Any, field: ValidationInfo) -> Any:
        """Else `true` would be a limit of 1."""
        named = cls.model_fields[field.field_name or ""].annotation
        if named is not bool and any(type(one) is bool for one in (value.values() if type(value) is dict else [value])):
            raise ValueError("true and false are no values of this")
        return value

    @field_validator("upstream", "jwks")
    @classmethod
    def _refuse_passwords(cls, value: tuple[str, ...] | str | None) -> tuple[str, ...] | str | None:
        """These are shown, in logs and on command lines."""
        for url in value if isinstance(value, tuple) else (value or "",):
            if "@" in url.partition("://")[2].partition("/")[0]:
                raise ValueError("a user or password in a URL would be shown; give engines a key by upstream_api_key")
        return value

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
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError("tls_cert_file: needs tls_key_file too, and the other way round")
        short = [key for key in self.api_keys if len(key.get_secret_value()) < 1]
        if short:
            raise ValueError("api_keys: a key is empty")
        return self

    @model_validator(mode="after")
    def _refuse_limits_that_cannot_hold(self) -> Self:
        if self.address_limits and self.asks_for_keys:
            raise ValueError("address_limits: where keys are asked for nobody calls without one; use key_limits")
        return self

    @model_validator(mode="after")
    def _check_shared(self) -> Self:
        if self.redis_url is not None:
            _check_redis(self.redis_url.get_secret_value())
        if self.cache_shared and self.redis_url is None:
            raise ValueError("cache_shared: needs redis_url (REDIS_URL)")
        return self

    @model_validator(mode="after")
    def _check_keys(self) -> Self:
        if stray := self.key_rates.keys() - {key.get_secret_value() for key in self.api_keys}:
            raise ValueError(f"api_key_limits: api_keys does not have {len(stray)} of these keys")
        if self.rate_limit_window_minutes is not None and "rate_limit_window_s" in self.model_fields_set:
            raise ValueError("rate_limit_window_minutes: set either this or rate_limit_window_s, not both")
        _ = self.default_rate
        if self.secret_key is not None and len(self.secret_key.get_secret_value().encode()) < MIN_SECRET_BYTES:
            raise ValueError(f"secret_key: needs at least {MIN_SECRET_BYTES} bytes")
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


def _check_redis(url: str) -> None:
    """Refuse what is no URL of Redis; nothing of it is said again, for there may be a password in it."""
    if not url.startswith(REDIS_SCHEMES):
        raise ValueError(f"redis_url: must begin with {', '.join(REDIS_SCHEMES)}")
    try:
        _ = urlsplit(url).port
    except ValueError:
        raise ValueError("redis_url: its host or port is not valid") from None


def _key_and_rate(number: int, entry: SecretStr) -> tuple[str, int]:
    """One of api_key_limits. What is wrong is said without the key."""
    key, colon, rate = entry.get_secret_value().rpartition(":")
    if not colon or not key or not rate.isascii() or not rate.isdigit() or not 1 <= int(rate[:20]) <= 10**12:
        raise ValueError(f"api_key_limits: entry {number} is not key:number with a number from 1 to 10^12")
    return key, int(rate)


PER_MODEL = frozenset(
    name for name, field in Settings.model_fields.items() if cast(dict[str, Any], field.json_schema_extra)["per_model"]
)
