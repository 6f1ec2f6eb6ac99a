"""Whatever is asked for, a plan's own sum is what the GPU has, and more memory never gives less."""

from dataclasses import replace

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from forebay.planner.formats import CannotRun
from forebay.planner.gpus import CPU, DEVICES
from forebay.planner.memory import GIB
from forebay.planner.parallel import why_not
from forebay.planner.plan import Ask, Misfit, Plan, make_plan
from forebay.planner.profiles import HABITS, Goal
from forebay.planner.source import Model, find_model, known_models

MODELS = [find_model(name, {"HF_HOME": "/nowhere", "FOREBAY_HOME": "/nowhere"}) for name in known_models()]
models = st.sampled_from(MODELS)
asks = st.builds(
    Ask,
    device=st.sampled_from([*DEVICES, replace(CPU, memory_gib=32.0)]),
    count=st.integers(1, 8),
    nodes=st.integers(1, 3),
    context=st.none() | st.integers(16, 200_000),
    concurrency=st.none() | st.integers(1, 3000),
    goal=st.sampled_from(Goal),
    on_load=st.sampled_from([None, None, "fp8"]),
    kv_dtype=st.sampled_from(["auto", "fp8"]),
)


def tried(model: Model, ask: Ask) -> Plan | Misfit:
    ask = replace(ask, count=1, nodes=1) if ask.device.is_cpu else ask
    try:
        return make_plan(model, ask)
    except CannotRun:
        assume(False)
        raise


@given(models, asks)
@settings(deadline=None)
def test_a_plan_is_within_the_memory_and_holds_what_it_promises(model: Model, ask: Ask) -> None:
    plan = tried(model, ask)
    assume(isinstance(plan, Plan))
    assert isinstance(plan, Plan)
    memory = plan.memory
    assert min(memory.weights, memory.activations, memory.cache) > 0
    assert memory.total <= memory.budget <= plan.ask.device.memory_gib * GIB
    assert plan.ask.device.is_cpu or memory.total == memory.budget
    average = max(int(plan.context * HABITS[ask.goal].fill), 1)
    assert plan.sequences * plan.cache.sequence_bytes(average, plan.chunk) <= memory.cache
    assert plan.full_sequences >= 1
    assert plan.sequences <= plan.chunk


@given(models, asks)
@settings(deadline=None)
def test_a_plan_is_one_that_vllm_would_start(model: Model, ask: Ask) -> None:
    plan = tried(model, ask)
    assume(isinstance(plan, Plan))
    assert isinstance(plan, Plan)
    shape = plan.shape
    assert why_not(model, shape.tensor) is None
    assert shape.tensor <= plan.ask.count
    assert shape.gpus * shape.replicas <= plan.ask.gpus
    assert plan.context <= model.facts.context_tokens
    assert plan.served <= (ask.concurrency or 10_000) + shape.replicas - 1


@given(models, asks, st.floats(1.0, 4.0))
@settings(deadline=None)
def test_more_memory_never_gives_less(model: Model, ask: Ask, factor: float) -> None:
    ask = replace(ask, concurrency=ask.concurrency or 100)
    less = tried(model, ask)
    more = tried(model, replace(ask, device=replace(ask.device, memory_gib=ask.device.memory_gib * factor)))
    if isinstance(less, Plan):
        assert isinstance(more, Plan)
        assert more.context >= less.context
        if more.context == less.context:
            assert min(more.served, ask.concurrency or 0) >= min(less.served, ask.concurrency or 0)
    elif isinstance(more, Misfit):
        assert more.longest >= less.longest


@given(models, asks)
@settings(deadline=None)
def test_what_does_not_fit_needs_more_than_there_is(model: Model, ask: Ask) -> None:
    found = tried(model, ask)
    assume(isinstance(found, Misfit))
    assert isinstance(found, Misfit)
    assert found.needed > found.budget
    assert found.longest < found.context
