"""What `forebay deploy render` makes: the chart takes it, and who reads it has the settings that were given."""

import json
import re
import stat
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from typer.testing import CliRunner, Result

from forebay.cli.main import app
from forebay.config.settings import Settings
from forebay.config.sources import load_settings
from forebay.deploy import toml_text
from forebay.deploy.chart import SECRET_KEYS, chart
from forebay.deploy.compose import compose
from forebay.deploy.names import MOST, labels_of
from forebay.deploy.sides import CannotRender, sides
from forebay.generate import yaml_text
from forebay.generate.fields import is_secret
from forebay.generate.helm_schema import schema
from forebay.planner.advice import proposals
from forebay.planner.commands import chart_values
from forebay.planner.report import report
from tests.unit.planner.asking import planned

PROPERTIES: dict[str, Any] = Settings.model_json_schema()["properties"]
CHART = Draft202012Validator(schema())
LABEL = CHART.schema["properties"]["models"]["items"]["properties"]["name"]
LAPTOP = {"model": "default", "max_queue_size": 50, "log_level": "debug", "max_model_len": 4096}
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=12,
)


def drawn(name: str) -> st.SearchStrategy[Any] | None:
    """Values of a setting, where one field alone says which there are."""
    told = PROPERTIES[name]
    kind = next((one for one in told.get("anyOf", [told]) if one.get("type") != "null"), {})
    if name == "tensor_parallel_size":
        return st.integers(1, 64)
    least, most = kind.get("minimum", kind.get("exclusiveMinimum", 1)), kind.get("maximum", 100_000_000)
    if "enum" in kind:
        return st.sampled_from(kind["enum"])
    if kind.get("type") == "boolean":
        return st.booleans()
    if kind.get("type") == "integer":
        return st.integers(least, most)
    return st.floats(least + 0.01, most) if kind.get("type") == "number" else None


# What is checked beside other settings, and what has words of its own in the chart.
TOGETHER = {
    "allow_anonymous",
    "cache_shared",
    "metrics_port",
    "metrics_port_public",
    "default_rate_limit",
    "input_token_weight",
}
DRAWN = {
    name: values
    for name in PROPERTIES
    if name not in TOGETHER and not is_secret(Settings.model_fields[name]) and (values := drawn(name)) is not None
}
WORDS = st.text(st.characters(codec="utf-8", exclude_characters=","), min_size=1, max_size=20)
GIVEN = st.builds(
    lambda some, more: {"model": "org/m", **some, **more},
    st.lists(st.sampled_from(sorted(DRAWN)), max_size=12, unique=True).flatmap(
        lambda names: st.fixed_dictionaries({name: DRAWN[name] for name in names})
    ),
    st.fixed_dictionaries(
        {},
        optional={
            "model_aliases": st.dictionaries(WORDS, WORDS, max_size=2),
            "warmup_prompts": st.lists(WORDS, min_size=1, max_size=2),
            "engine_args": st.lists(WORDS, max_size=2),
            "prices": st.dictionaries(WORDS, st.just({"prompt": 0.5, "completion": "1.5"}), max_size=2),
        },
    ),
)


def settings_of(values: dict[str, Any]) -> Settings | None:
    """Those values as settings; None where they do not go together."""
    try:
        return Settings(**values)
    except ValueError:
        return None


def as_read(text: str) -> dict[str, Any]:
    """A rendered file, as the process that it is for has it."""
    return dict(Settings(**tomllib.loads(text)))


@given(PLAIN.map(lambda value: {"key": value}) | st.dictionaries(st.text(), PLAIN, max_size=4))
def test_yaml_is_read_as_what_was_written(table: dict[str, Any]) -> None:
    assert yaml.safe_load(yaml_text.dump(table)) == table


@given(GIVEN)
def test_toml_is_read_as_what_was_written(values: dict[str, Any]) -> None:
    assert tomllib.loads(toml_text.dump(values)) == values


@examples(max_examples=40)
@given(GIVEN)
def test_the_chart_takes_the_values_and_every_setting_is_in_them_or_told_to_be_left_out(values: dict[str, Any]) -> None:
    if (settings := settings_of(values)) is None:
        return
    made = chart(sides(settings))
    told = yaml.safe_load(yaml_text.dump(made.values))
    CHART.validate(told)
    engine = {**told.get("modelDefaults", {}).get("settings", {}), **told["models"][0].get("settings", {})}
    gateway = told.get("settings", {})
    read = Settings(**gateway), Settings(**engine)
    for name, side in ((name, side) for side, names in zip(read, (gateway, engine), strict=True) for name in names):
        assert getattr(side, name) == getattr(settings, name), name
    translated = {"engine_start_timeout_s", "drain_delay_s", "drain_timeout_s", "tensor_parallel_size", "replicas"}
    of_models = {"model", "served_model_name", "engine_args", "model_group"}
    assert settings.model_fields_set <= {*gateway, *engine, *made.left_out, *translated, *of_models}


@examples(max_examples=40)
@given(GIVEN)
def test_the_files_of_compose_are_read_as_the_settings_that_were_given(values: dict[str, Any]) -> None:
    if (settings := settings_of(values)) is None:
        return
    files = compose(sides(settings))
    yaml.safe_load(files.texts["compose.yaml"])
    gateway, engine = as_read(files.texts["gateway.toml"]), as_read(files.texts["m.toml"])
    told = {**tomllib.loads(files.texts["gateway.toml"]), **tomllib.loads(files.texts["m.toml"])}
    for name in told.keys() - {"upstream"}:
        assert getattr(settings, name) in (gateway[name], engine[name]), name
    assert settings.model_fields_set - {"model", "engine_args", "replicas"} <= {
        *told,
        *files.left_out,
        "tensor_parallel_size",
    }


def test_secrets_are_named_and_never_written() -> None:
    hidden = {name for name, field in Settings.model_fields.items() if is_secret(field)}
    values = dict.fromkeys(hidden, "sk-canary-canary-canary-canary-canary") | {
        "api_keys": ["sk-canary"],
        "admin_keys": ["sk-canary-2"],
        "api_key_limits": ["sk-canary:5"],
        "database_url": "postgresql://u:canary@h/d",
        "redis_url": "redis://:canary@h/0",
    }
    found = sides(Settings(model="m", **values))
    made, files = chart(found), compose(found)
    assert "canary" not in json.dumps([made.values, dict(made.left_out), dict(files.texts), dict(files.left_out)])
    assert set(made.keys) == set(SECRET_KEYS.values())
    assert made.values["database"] == made.values["redis"] == {"enabled": True}
    assert set(made.left_out) == hidden - SECRET_KEYS.keys()
    for name in hidden:
        assert f"FOREBAY_{name.upper()}=\n" in files.texts[".env"]


def test_a_key_is_asked_for_where_the_settings_have_none_and_do_not_say_that_none_is_needed() -> None:
    assert chart(sides(Settings(model="m"))).keys == ("api-keys", "upstream-api-key")
    open_to_all = chart(sides(Settings(model="m", allow_anonymous=True)))
    assert open_to_all.keys == ("upstream-api-key",)
    assert open_to_all.values["auth"]["allowAnonymous"] is True


def test_what_the_chart_calls_otherwise_is_said_in_its_words() -> None:
    values = chart(
        sides(
            Settings(model="m", drain_timeout_s=30.5, drain_delay_s=0, engine_start_timeout_s=5, tensor_parallel_size=4)
        )
    ).values
    assert values["gateway"]["drain"] == {"delaySeconds": 0, "timeoutSeconds": 31}
    assert values["modelDefaults"] == {"drain": {"delaySeconds": 0, "timeoutSeconds": 31}, "startupSeconds": 60}
    assert values["models"] == [{"name": "m", "model": "m", "replicas": 1, "gpus": 4}]


def test_each_of_several_models_has_its_own_settings_and_all_the_common_ones() -> None:
    models = (
        {"model": "org/a", "max_model_len": 1024, "engine_concurrency": 4},
        {"model": "org/b", "replicas": 2, "tensor_parallel_size": 2},
    )
    made = chart(sides(Settings(models=models, gpu_memory_utilization=0.8, dtype="half")))
    assert made.values["modelDefaults"]["settings"] == {"gpu_memory_utilization": 0.8, "dtype": "half"}
    first, second = made.values["models"]
    assert first == {"name": "a", "model": "org/a", "replicas": 1, "gpus": 1, "settings": {"max_model_len": 1024}}
    assert second == {"name": "b", "model": "org/b", "replicas": 2, "gpus": 2}
    assert made.left_out == {"models[].engine_concurrency": "gateways have one for all models"}


@pytest.mark.parametrize(
    ("model", "gpu", "count", "nodes"),
    [
        ("mistral-7b-awq", "T4", 1, 1),
        ("llama-3-70b", "H100", 4, 2),
        ("deepseek-v3", "H100", 8, 2),
    ],
)
def test_the_chart_takes_what_a_plan_says(model: str, gpu: str, count: int, nodes: int) -> None:
    plan = planned(model, gpu, count, nodes)
    CHART.validate(chart_values(plan))
    told = json.loads(json.dumps(report(plan, proposals(plan))))
    made = chart(sides(Settings(model="org/other", max_num_seqs=4), [told])).values
    CHART.validate(made)
    other, entry = made["models"]
    assert other["model"] == "org/other"
    assert entry["replicas"] * entry["gpus"] * entry.get("nodes", 1) == (plan.shape.gpus * plan.shape.replicas)
    assert entry["settings"]["max_num_seqs"] == plan.sequences


def test_a_plan_for_the_cpu_asks_for_no_gpu() -> None:
    words = ("plan", "default", "--gpu", "cpu", "--memory", "16", "--json")
    told = json.loads(CliRunner().invoke(app, words).stdout)
    (entry,) = chart(sides(Settings(), [told])).values["models"]
    assert (entry["gpus"], entry["image"]) == (0, {"repository": "forebay-engine-cpu"})
    assert [one["name"] for one in entry["env"]] == ["VLLM_CPU_KVCACHE_SPACE"]


def test_a_plan_goes_before_the_settings_of_its_model() -> None:
    plan = planned("mistral-7b-awq", "T4", 1, 1)
    told = report(plan, [])
    made = chart(sides(Settings(model=plan.model.name, max_model_len=7, served_model_name="mistral"), [told])).values
    (entry,) = made["models"]
    assert (entry["name"], entry["servedName"]) == ("mistral", "mistral")
    assert entry["settings"]["max_model_len"] == plan.context != 7


def test_engines_of_compose_have_gpus_of_their_own_and_the_gateway_knows_them_all() -> None:
    models = (
        {"model": "a", "replicas": 2, "tensor_parallel_size": 2},
        {"model": "b", "served_model_name": "a", "model_group": "next"},
    )
    texts = compose(sides(Settings(models=models, port=9000))).texts
    services = yaml.safe_load(texts["compose.yaml"])["services"]
    devices = {
        name: service["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"]
        for name, service in services.items()
        if name != "gateway"
    }
    assert devices == {"engine-a": ["0", "1"], "engine2-a": ["2", "3"], "engine-a-2": ["4"]}
    assert services["gateway"]["ports"] == ["${FOREBAY_BIND:-127.0.0.1}:9000:8000"]
    upstream = tomllib.loads(texts["gateway.toml"])["upstream"]
    assert {url.partition("#")[0] for url in upstream} == {
        f"http://{name}:8001" for name in services if name != "gateway"
    }
    assert [url for url in upstream if "#" in url]


def test_dollars_are_no_variables_of_compose() -> None:
    texts = compose(sides(Settings(model="m", engine_args=("--chat-template", "$HOME ${X}")))).texts
    assert yaml.safe_load(texts["compose.yaml"])["services"]["engine-m"]["command"][-1] == "$$HOME $${X}"


@given(st.lists(WORDS, max_size=6))
def test_labels_are_such_as_kubernetes_takes_and_no_two_alike(models: list[str]) -> None:
    labels = labels_of(models)
    assert len(set(labels)) == len(models)
    for label in labels:
        assert len(label) <= MOST
        assert re.search(LABEL["pattern"], label)


@pytest.mark.parametrize(
    ("settings", "plans", "told"),
    [
        ({}, [], "models: there is none to serve; set model or models in the file, or give --plan"),
        ({"model": "m"}, [{"summary": "m does not fit on 1 × T4"}], "plan: m does not fit on 1 × T4; a plan that fits"),
        ({"model": "m"}, [{"plan": {}}], "plan: is no plan; make one with `forebay plan MODEL"),
        ({"model": "m"}, [[]], "plan: is no plan"),
        ({"models": ({"model": "m", "model_group": "next"},)}, [], "models[0].model_group: the chart has a version"),
    ],
)
def test_what_cannot_be_is_said_with_what_to_do(settings: dict[str, Any], plans: list[Any], told: str) -> None:
    with pytest.raises(CannotRender) as caught:
        chart(sides(Settings(**settings), plans))
    assert told in str(caught.value)


# The command


def forebay(directory: Path, *words: str, settings: str = 'model = "default"\n') -> Result:
    (directory / "forebay.toml").write_text(settings)
    words = ("deploy", "render", "--config", str(directory / "forebay.toml"), *words)
    return CliRunner().invoke(app, words, env=dict.fromkeys(("API_KEYS", "FOREBAY_API_KEYS"), ""))


def test_helms_values_are_printed_and_the_rest_is_said_beside(tmp_path: Path) -> None:
    done = forebay(tmp_path, "--target", "helm", "--gpus", "0", settings='model = "default"\nport = 8010\n')
    assert done.exit_code == 0
    values = yaml.safe_load(done.stdout)
    CHART.validate(values)
    assert values["models"][0]["gpus"] == 0
    assert done.stderr.splitlines() == [
        "forebay: left out: port: the chart says it",
        "forebay: make the Secret that has the keys: kubectl create secret generic forebay-keys "
        "--from-file=api-keys=FILE --from-file=upstream-api-key=FILE",
    ]


def test_compose_gets_its_files_and_an_env_that_was_filled_in_stays(tmp_path: Path) -> None:
    out = tmp_path / "there"
    assert forebay(tmp_path, "--target", "compose", "--out", str(out)).exit_code == 0
    assert {path.name for path in out.iterdir()} == {"compose.yaml", "gateway.toml", "default.toml", ".env"}
    assert stat.S_IMODE((out / ".env").stat().st_mode) == 0o600
    (out / ".env").write_text("FOREBAY_API_KEYS=sk-mine\n")
    assert forebay(tmp_path, "--target", "compose", "--out", str(out)).exit_code == 0
    assert (out / ".env").read_text() == "FOREBAY_API_KEYS=sk-mine\n"
    settings, _ = load_settings({}, env={}, file=out / "gateway.toml")
    assert settings.upstream == ("http://engine-default:8001",)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--target", "compose"], "out: name a directory for the files"),
        (["--target", "helm", "--plan", "/no/such"], "/no/such: cannot be read: No such file or directory"),
        (["--target", "helm", "--plan", "HERE/forebay.toml"], "is no JSON; make it with `forebay plan"),
        (["--target", "helm", "--out", "HERE/forebay.toml"], "is there already, and not made by this command"),
        (["--target", "helm", "--config", "/no/such.toml"], "/no/such.toml: cannot be read"),
    ],
)
def test_a_mistake_is_one_line_with_the_fix(words: list[str], told: str, tmp_path: Path) -> None:
    done = forebay(tmp_path, *(word.replace("HERE", str(tmp_path)) for word in words))
    assert done.exit_code in (1, 2)
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1
