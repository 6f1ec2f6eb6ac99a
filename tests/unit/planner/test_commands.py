"""What is printed can be typed: our options are those of `forebay serve`, the others vLLM's, the values YAML."""

import json
import shlex

import pytest
from typer.testing import CliRunner

from forebay.cli.main import app
from forebay.generate.cli_reference import commands
from forebay.planner.commands import as_yaml, chart_values, engine_args, serve_line, serve_words
from forebay.planner.plan import Plan
from forebay.planner.profiles import PROFILES, Goal
from forebay.planner.report import report
from forebay.planner.words import reasons, steps, warnings
from tests.unit.planner.asking import planned

# vLLM 0.32, engine/arg_utils.py
VLLM = {
    "--max-num-batched-tokens",
    "--pipeline-parallel-size",
    "--distributed-executor-backend",
    "--kv-cache-dtype",
    "--attention-backend",
}
PLANS = [
    ("mistral-7b-awq", "T4", 1, 1, {}),
    ("llama-3-8b", "A100-40GB", 4, 1, {"concurrency": 256}),
    ("llama-3-70b", "H100", 4, 2, {}),
    ("deepseek-v3", "H100", 8, 2, {}),
    ("llama-3-8b", "L4", 1, 1, {"kv_dtype": "fp8", "on_load": "fp8"}),
    ("gemma-2-9b", "T4", 4, 1, {"goal": Goal.latency}),
]
runner = CliRunner()


@pytest.fixture(params=PLANS, ids=lambda param: f"{param[0]}-{param[1]}")
def plan(request: pytest.FixtureRequest) -> Plan:
    name, gpu, count, nodes, how = request.param
    return planned(name, gpu, count, nodes, **how)


def test_the_command_has_only_options_that_there_are(plan: Plan) -> None:
    words = serve_words(plan)
    ours, theirs = words[3 : words.index("--")], words[words.index("--") + 1 :]
    known = {option for parameter in commands()["forebay serve"].params for option in parameter.opts}
    assert {word for word in ours if word.startswith("--")} <= known
    assert {word for word in theirs if word.startswith("--")} <= VLLM
    assert shlex.split(serve_line(plan)) == words


def test_the_values_for_the_chart_say_the_same_as_the_command(plan: Plan) -> None:
    (model,) = chart_values(plan)["models"]
    words = serve_words(plan)
    for name, value in model["settings"].items():
        assert words[words.index("--" + name.replace("_", "-")) + 1] == str(value)
    between = ("--pipeline-parallel-size", "--distributed-executor-backend")  # nodes, which the chart says itself
    args = engine_args(plan)
    assert model["args"] == (args[: args.index(between[0])] if plan.shape.nodes > 1 else args)
    assert model["gpus"] * model["replicas"] * plan.shape.nodes <= plan.ask.gpus
    assert model["settings"].get("tensor_parallel_size", model["gpus"]) == plan.shape.tensor


def test_a_plan_is_told_whole(plan: Plan) -> None:
    told = report(plan, [])
    assert json.loads(json.dumps(told)) == told
    assert told["reasons"] == list(reasons(plan))
    assert len(told["reasons"]) >= 5


def test_two_nodes_are_joined_by_ray_before_it_is_started() -> None:
    plan = planned("deepseek-v3", "H100", 8, 2)
    assert "ray start --head" in " ".join(steps(plan))
    assert serve_line(plan).endswith("--pipeline-parallel-size 2 --distributed-executor-backend ray")


def test_copies_on_two_nodes_stand_behind_one_gateway() -> None:
    plan = planned("llama-3-70b", "H100", 8, 2)
    assert "--replicas 2" in serve_line(plan)
    assert "forebay gateway --upstream" in " ".join(steps(plan))


def test_gpus_with_nothing_to_do_are_named_with_the_reason() -> None:
    plan = planned("llama-3-70b", "H100", 7)
    assert "3 of the 7 GPUs have nothing to do: 64 attention heads do not divide by 7" in list(warnings(plan))


def test_plain_data_becomes_yaml() -> None:
    value = {"a": [{"b": "x: y", "c": {"d": 1}}, {"b": "it's"}], "e": ["1", "on"], "f": 0.9}
    expected = "a:\n  - b: 'x: y'\n    c:\n      d: 1\n  - b: 'it''s'\ne:\n  - '1'\n  - 'on'\nf: 0.9\n"
    assert as_yaml(value) == expected


# `forebay plan`


@pytest.mark.parametrize("profile", PROFILES)
def test_each_profile_plans_a_small_model(profile: str) -> None:
    done = runner.invoke(app, ["plan", "llama-3-8b", "--profile", profile, *_gpu(profile)])
    assert done.exit_code == (1 if profile == "t4" else 0), done.output  # 16 GB of weights on a T4
    assert "llama-3" in done.output.lower()


def _gpu(profile: str) -> list[str]:
    return [] if PROFILES[profile].gpu else ["--gpu", "L40S"]


def test_what_is_said_wins_over_the_profile() -> None:
    said = [
        "--profile",
        "t4",
        "--gpu",
        "H100",
        "--context",
        "4096",
        "--concurrency",
        "7",
        "--goal",
        "latency",
        "--json",
    ]
    told = json.loads(runner.invoke(app, ["plan", "llama-3-8b", *said]).stdout)
    assert (told["asked"]["gpu"], told["asked"]["count"], told["asked"]["goal"]) == ("H100", 1, "latency")
    assert (told["plan"]["max_model_len"], told["plan"]["max_num_seqs"]) == (4096, 7)


def test_the_quantized_profile_leaves_a_quantised_model_as_it_is() -> None:
    told = json.loads(
        runner.invoke(app, ["plan", "mistral-7b-awq", "--profile", "quantized", "--gpu", "L4", "--json"]).stdout
    )
    assert "quantization" not in told["settings"]
    told = json.loads(
        runner.invoke(app, ["plan", "mistral-7b", "--profile", "quantized", "--gpu", "L4", "--json"]).stdout
    )
    assert told["settings"]["quantization"] == "fp8_per_tensor"  # vLLM 0.32 refuses `fp8` for it


def test_what_does_not_fit_ends_with_status_1_and_what_would() -> None:
    done = runner.invoke(app, ["plan", "llama-2-70b", "--gpu", "A100-40GB"])
    assert done.exit_code == 1
    assert "does not fit on 1 × A100-40GB" in done.output
    assert "--count 8" in done.output
    assert "forebay serve" not in done.output


def test_what_is_tight_is_planned_and_says_so() -> None:
    words = ["--gpu", "A100-40GB", "--count", "4", "--context", "4096", "--concurrency", "256"]
    done = runner.invoke(app, ["plan", "llama-2-70b", *words])
    assert done.exit_code == 0
    assert "is tight on 4 × A100-40GB: room for 20 of the 256 sequences asked for" in done.output
    assert "--gpu A100-80GB: 256 sequences" in done.output


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["llama-3-8b"], 2, "gpu: name one, as in --gpu A100-40GB"),
        (["llama-3-8b", "--gpu", "A100"], 2, "name one of A100-40GB, A100-80GB"),
        (["llama-3-8b", "--gpu", "L4", "--goal", "speed"], 2, "goal: 'speed' is none of throughput, latency"),
        (["llama-3-8b", "--gpu", "L4", "--profile", "huge"], 2, "profile: 'huge' is none of small, medium"),
        (["llama-3-8b", "--gpu", "cpu", "--count", "2"], 2, "count: a CPU is planned for as one"),
        (["nobody/nothing", "--gpu", "L4"], 1, "nothing is known of 'nobody/nothing' here"),
        (["mistral-7b-awq", "--gpu", "V100"], 1, "awq needs compute capability 7.5"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(words: list[str], status: int, said: str) -> None:
    done = runner.invoke(app, ["plan", *words])
    assert done.exit_code == status
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_cpu_is_this_machine_unless_told_otherwise() -> None:
    told = json.loads(runner.invoke(app, ["plan", "qwen2.5-0.5b", "--gpu", "cpu", "--memory", "16", "--json"]).stdout)
    assert told["asked"]["gpu_memory_gib"] == 16
    assert told["environment"] == {"VLLM_CPU_KVCACHE_SPACE": "1"}
    assert told["command"].startswith("VLLM_CPU_KVCACHE_SPACE=1 forebay serve Qwen/Qwen2.5-0.5B-Instruct")
