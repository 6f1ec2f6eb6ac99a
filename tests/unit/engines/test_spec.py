"""The command line and environment that an engine is started with."""

from pathlib import Path
from typing import Any

import pytest

from forebay.config.sources import load_settings
from forebay.engines.spec import EngineSpec, NotEnoughDevices, cache_key, engine_spec, misplaced, share_devices


def a_spec(*theirs: str, gpus: tuple[str, ...] = (), env: dict[str, str] | None = None, **flags: Any) -> EngineSpec:
    settings, _ = load_settings({"engine_args": theirs, **flags}, env={})
    return engine_spec(
        settings, model="org/m", served_model="m", python="py", uds="/run/e.sock", devices=gpus, env=env or {}
    )


def value_of(spec: EngineSpec, flag: str) -> str:
    return spec.argv[spec.argv.index(flag) + 1]


def test_settings_become_vllms_own_options() -> None:
    spec = a_spec(max_model_len=2048, tensor_parallel_size=2, dtype="bfloat16")
    assert spec.argv[:3] == ("py", "-m", "vllm.entrypoints.openai.api_server")
    assert value_of(spec, "--uds") == "/run/e.sock"
    assert value_of(spec, "--max-model-len") == "2048"
    assert value_of(spec, "--tensor-parallel-size") == "2"
    assert "--quantization" not in spec.argv


def test_the_engine_s_spans_go_where_the_gateway_s_do() -> None:
    spec = a_spec(otlp_endpoint="http://collector:4318/otlp/", otlp_protocol="http/protobuf")
    assert value_of(spec, "--otlp-traces-endpoint") == "http://collector:4318/otlp/v1/traces"
    assert spec.env["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] == "http/protobuf"
    assert spec.env["OTEL_SERVICE_NAME"] == "vllm"
    spec = a_spec(otlp_endpoint="http://collector:4317", otlp_traces_endpoint="http://other:4317")
    assert value_of(spec, "--otlp-traces-endpoint") == "http://other:4317"
    assert "--otlp-traces-endpoint" not in a_spec().argv
    assert "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL" not in a_spec().env
    traced = ("--dtype", "half", "--otlp-traces-endpoint", "http://c:4317")
    assert cache_key("m", "1", traced) == cache_key("m", "1", traced[:2]), "what was compiled is good for both"


def test_an_engine_fetches_from_no_host_that_is_not_allowed() -> None:
    """C14: the gateway looks first; this holds for whoever reaches the engine past it."""
    assert value_of(a_spec(), "--allowed-media-domains") == "none.invalid"
    named = a_spec(media_hosts=("a.test", "b.test"))
    at = named.argv.index("--allowed-media-domains")
    assert named.argv[at + 1 : at + 3] == ("a.test", "b.test")
    assert "--allowed-media-domains" not in a_spec(media_hosts=("*.b.test",)).argv, "vLLM knows no suffixes"
    assert a_spec().env["VLLM_MEDIA_URL_ALLOW_REDIRECTS"] == "0"
    own = a_spec("--allowed-media-domains", "c.test", env={"VLLM_MEDIA_URL_ALLOW_REDIRECTS": "1"})
    assert own.argv.count("--allowed-media-domains") == 1
    assert own.env["VLLM_MEDIA_URL_ALLOW_REDIRECTS"] == "1"


def test_engines_tell_timings_where_that_is_asked() -> None:
    assert "--enable-per-request-metrics" not in a_spec().argv
    assert "--enable-per-request-metrics" in a_spec(engine_timings=True).argv


def test_what_the_user_says_wins_however_it_is_written() -> None:
    spec = a_spec("--max_model_len=512", "--no-enforce-eager", max_model_len=2048)
    assert "--max-model-len" not in spec.argv
    assert "--enforce-eager" not in spec.argv
    assert "2048" not in spec.argv
    assert spec.argv[-2:] == ("--max_model_len=512", "--no-enforce-eager")


def test_without_a_gpu_it_starts_quickly_and_small() -> None:
    assert "--enforce-eager" in a_spec().argv
    assert "--enforce-eager" not in a_spec(gpus=("0",)).argv
    assert a_spec().env["VLLM_CPU_KVCACHE_SPACE"] == "2"
    assert a_spec(env={"VLLM_CPU_KVCACHE_SPACE": "9"}).env["VLLM_CPU_KVCACHE_SPACE"] == "9"


def test_the_engine_gets_its_own_secrets_and_none_of_ours() -> None:
    env = {"API_KEYS": "sk-canary", "FOREBAY_UPSTREAM_API_KEY": "sk-canary", "HF_TOKEN": "hf-1", "PATH": "/bin"}
    spec = a_spec(env=env)
    assert spec.env["HF_TOKEN"] == "hf-1"
    assert "canary" not in str(spec.env)
    assert "hf-1" not in repr(spec)


def test_an_agents_engine_listens_where_the_settings_say_and_asks_for_their_key() -> None:
    settings, _ = load_settings({"engine_host": "0.0.0.0"}, env={"VLLM_API_KEY": "sk-canary"})
    spec = engine_spec(settings, model="m", served_model="m", python="py", uds=None, devices=(), env={})
    assert (value_of(spec, "--host"), value_of(spec, "--port")) == ("0.0.0.0", "8000")
    assert "--uds" not in spec.argv
    assert spec.api_key == spec.env["VLLM_API_KEY"] == "sk-canary"
    assert "canary" not in repr(spec) + str(spec.argv)
    assert a_spec().api_key is None


def test_compiled_code_is_kept_for_model_version_and_options_and_wherever_it_listens() -> None:
    def key(*theirs: str, version: str = "1", uds: str | None = "/run/e.sock", env: Any = None, **flags: Any) -> Any:
        settings, _ = load_settings({"engine_args": theirs, **flags}, env={})
        spec = engine_spec(
            settings, model="m", served_model="m", python="py", uds=uds, devices=(), env=env or {},
            version=version, cache_root=Path("/c"),
        )  # fmt: skip
        assert spec.cache_dir is None or spec.env["VLLM_CACHE_ROOT"] == spec.cache_dir
        return spec.cache_dir

    assert key().startswith("/c/")
    assert key() == key(uds="/elsewhere") == key(uds=None) == key(uds=None, engine_port=9)
    assert len({key(), key(version="2"), key("--seed", "1"), key(dtype="float32")}) == 4
    assert key(env={"VLLM_CACHE_ROOT": "/own"}) is None
    assert a_spec().cache_dir is None


def test_what_the_agent_must_say_itself_is_refused_however_it_is_written() -> None:
    assert "--engine-port" in (misplaced(["--max-num-seqs", "1", "--port=1"]) or "")
    assert "FOREBAY_UPSTREAM_API_KEY" in (misplaced(["--api_key", "x"]) or "")
    assert misplaced(["--hostile", "--max-num-seqs", "--"]) is None


def test_gpus_are_shared_out_and_too_few_are_refused() -> None:
    assert share_devices(["0", "1", "2", "3"], [2, 2]) == [["0", "1"], ["2", "3"]]
    assert share_devices(["4", "7"], [1]) == [["4", "7"]]
    assert share_devices([], [1, 1, 1]) == [[], [], []]
    with pytest.raises(NotEnoughDevices, match="lower --replicas"):
        share_devices(["0", "1", "2"], [2, 2])
    assert a_spec(gpus=("4", "7")).env["CUDA_VISIBLE_DEVICES"] == "4,7"
