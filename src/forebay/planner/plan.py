"""A model, devices and a goal → how to run it. Pure.

Every way to place the model (`parallel.shapes`) is tried with every size of the steps that prompts are read in, and
reckoned to the byte; the best is taken: first the one that serves most of the sequences asked for, then the one the
goal prefers. So more memory never gives less. A plan's own sum is always what the device has to give: what weights,
activations, graphs and the rest leave is the KV cache.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, floor

from forebay.planner.formats import Formats, formats_for
from forebay.planner.gpus import Device
from forebay.planner.memory import GIB, Cache, activation_bytes, cache_of, graph_bytes, other_bytes
from forebay.planner.parallel import Shape, shapes
from forebay.planner.profiles import HABITS, Goal, Habits
from forebay.planner.source import Model
from forebay.planner.weights import FP8_ON_LOAD, Weights, weights_of

LEAST_CONTEXT = 2048  # a default context is made shorter down to this, before a model is said not to fit
ALONE_SHARE, TOGETHER_SHARE = 0.92, 0.90  # vLLM 0.32's default; with several GPUs NCCL takes some later
LEFT_BYTES = 1.25 * GIB  # of a small device, for its driver and the CUDA context
CPU_LEFT_SHARE, CPU_LEFT_BYTES, CPU_OTHER_BYTES = 0.10, 2 * GIB, 3 * GIB
MOST_ON_CPU = 32  # sequences at a time, where nobody says how many: the arithmetic, not the memory, is scarce there
SMALLEST_CHUNK = 2048
LINK_S = {True: 8e-6, False: 25e-6}  # one all-reduce of a few kilobytes, over NVLink and PCIe
STAGE_S = 100e-6  # from one pipeline stage to the next


@dataclass(frozen=True, slots=True)
class Ask:
    """What a plan is wanted for. None: whatever the goal and the model suggest."""

    device: Device
    count: int = 1
    nodes: int = 1
    context: int | None = None
    concurrency: int | None = None
    goal: Goal = Goal.throughput
    on_load: str | None = None
    kv_dtype: str = "auto"

    @property
    def gpus(self) -> int:
        return self.count * self.nodes


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on the device that holds most. `budget` is what vLLM may take of it, and all of the others together."""

    weights: int
    activations: int
    graphs: int
    other: int
    cache: int
    budget: int

    @property
    def total(self) -> int:
        return self.weights + self.activations + self.graphs + self.other + self.cache


@dataclass(frozen=True, slots=True)
class Plan:
    """How to run a model. `sequences` are those of one copy at a time; `full_sequences` those of the whole context."""

    model: Model
    ask: Ask
    formats: Formats
    weights: Weights
    cache: Cache
    shape: Shape
    memory: Memory
    share: float
    context: int
    chunk: int
    sequences: int
    full_sequences: int
    cache_tokens: int
    step_s: float | None

    @property
    def served(self) -> int:
        """Sequences of all copies together."""
        return self.sequences * self.shape.replicas

    @property
    def is_enough(self) -> bool:
        """Whether it does all that was asked for."""
        return self.ask.concurrency is None or self.served >= self.ask.concurrency


@dataclass(frozen=True, slots=True)
class Misfit:
    """No plan: what one device must hold at the least, and what it has for it. `longest` is the context that fits."""

    model: Model
    ask: Ask
    formats: Formats
    weights: Weights
    shape: Shape
    needed: int
    budget: int
    context: int
    longest: int


def make_plan(model: Model, ask: Ask) -> Plan | Misfit:
    """The best plan, or why there is none. Raises `CannotRun`."""
    formats = formats_for(model, ask.device, ask.kv_dtype, ask.on_load)
    weights = weights_of(model.facts, FP8_ON_LOAD if ask.on_load else None, model.weight_block, formats.dtype_bytes)
    tries = [_Try(model, ask, formats, weights, shape) for shape in shapes(model, ask.count, ask.nodes)]
    for context in _contexts(model, ask):
        plans = [plan for one in tries for plan in one.plans(context)]
        if plans:
            return max(plans, key=_merit)
    return _misfit(tries, _contexts(model, ask)[-1])


def _contexts(model: Model, ask: Ask) -> list[int]:
    """The lengths to try: the one asked for, else from the goal's downwards."""
    longest = model.facts.context_tokens or ask.context or LEAST_CONTEXT
    if ask.context is not None:
        return [min(ask.context, longest)]
    first = min(HABITS[ask.goal].context or longest, longest)
    tried = {first}
    while first > LEAST_CONTEXT:
        first = max(first // 2, LEAST_CONTEXT)
        tried.add(first)
    return sorted(tried, reverse=True)


def _merit(plan: Plan) -> tuple[float, ...]:
    """What makes a plan better than another, the most important first."""
    wanted = plan.ask.concurrency or HABITS[plan.ask.goal].per_gpu * plan.ask.gpus
    serves = min(plan.served, wanted)
    if plan.ask.goal is Goal.latency:
        return serves, -(plan.step_s or 0), plan.shape.replicas, plan.chunk
    return serves, -plan.shape.pipeline, -plan.shape.tensor, plan.chunk


@dataclass(frozen=True, slots=True)
class _Try:
    """A model on one shape."""

    model: Model
    ask: Ask
    formats: Formats
    weights: Weights
    shape: Shape

    @property
    def share(self) -> float:
        """Of a device's memory for vLLM, in whole hundredths."""
        memory = self.ask.device.memory_gib * GIB
        most = TOGETHER_SHARE if self.shape.gpus > 1 else ALONE_SHARE
        return floor(100 * min(most, max(1 - LEFT_BYTES / memory, 0.01))) / 100

    @property
    def budget(self) -> int:
        memory = self.ask.device.memory_gib * GIB
        if self.ask.device.is_cpu:
            return max(floor(memory - max(CPU_LEFT_SHARE * memory, CPU_LEFT_BYTES)), 0)
        return floor(self.share * memory)

    @property
    def cache(self) -> Cache:
        return cache_of(self.model.facts, self.shape.tensor, self.shape.pipeline, self.formats.kv_bytes)

    def plans(self, context: int) -> Iterator[Plan]:
        """A plan for each size of step in which one sequence fits at least."""
        habits = HABITS[self.ask.goal]
        unasked = min(habits.most, MOST_ON_CPU) if self.ask.device.is_cpu else habits.most
        target = ceil(self.ask.concurrency / self.shape.replicas) if self.ask.concurrency else unasked
        for chunk in self.chunks:
            at_most = min(target, chunk)
            if self.holds(1, context, chunk, habits):
                yield self._plan(self._most(at_most, context, chunk, habits), context, chunk)

    @property
    def chunks(self) -> list[int]:
        """Tokens of a step: the device's own size for prompts, fewer where answers must not wait for them."""
        first = SMALLEST_CHUNK if self.ask.goal is Goal.latency else self.ask.device.chunk_tokens
        return [size for size in (16384, 8192, 4096, SMALLEST_CHUNK) if size <= first]

    def holds(self, sequences: int, context: int, chunk: int, habits: Habits) -> bool:
        """Whether there is room for so many, and for one of the whole context."""
        cache, room = self.cache, self.room(sequences, chunk)
        average = max(ceil(context * habits.fill), 1)
        one = cache.sequence_bytes(context, chunk)
        return room >= max(one, sequences * cache.sequence_bytes(average, chunk))

    def room(self, sequences: int, chunk: int) -> int:
        """What is left for the KV cache; on a CPU vLLM is told whole GiB."""
        left = self.budget - sum(self._taken(sequences, chunk))
        return left // GIB * GIB if self.ask.device.is_cpu else left

    def _most(self, at_most: int, context: int, chunk: int, habits: Habits) -> int:
        low, high = 1, at_most
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.holds(middle, context, chunk, habits) else (low, middle - 1)
        return low

    def _taken(self, sequences: int, chunk: int) -> tuple[int, int, int, int]:
        facts, shape = self.model.facts, self.shape
        held = self.weights.on_one_gpu(shape.tensor, shape.pipeline)
        active = activation_bytes(facts, shape.tensor, chunk, sequences, self.formats.dtype_bytes)
        if self.ask.device.is_cpu:
            return held, active, 0, CPU_OTHER_BYTES
        largest = 1024 if self.ask.device.capability[0] == 10 else 512
        return (
            held,
            active,
            graph_bytes(ceil(facts.layers / shape.pipeline), sequences, largest),
            other_bytes(shape.gpus),
        )

    def _plan(self, sequences: int, context: int, chunk: int) -> Plan:
        cache, taken = self.cache, self._taken(sequences, chunk)
        room = self.room(sequences, chunk)
        one = cache.sequence_bytes(context, chunk)
        if self.ask.device.is_cpu:  # no more than is of use: the rest of the machine's memory is others'
            average = max(ceil(context * HABITS[self.ask.goal].fill), 1)
            wanted = max(one, sequences * cache.sequence_bytes(average, chunk))
            room = min(room, ceil(wanted / GIB) * GIB)
        return Plan(
            model=self.model,
            ask=self.ask,
            formats=self.formats,
            weights=self.weights,
            cache=cache,
            shape=self.shape,
            memory=Memory(*taken, cache=room, budget=self.budget),
            share=self.share,
            context=context,
            chunk=chunk,
            sequences=sequences,
            full_sequences=room // one,
            cache_tokens=room // one * context + cache.longest(room % one, chunk, context),
            step_s=self._step_s(),
        )

    def _step_s(self) -> float | None:
        """One token of one sequence at the very best: reading the weights once, and the GPUs' talk."""
        device, shape = self.ask.device, self.shape
        if not device.bandwidth_gb_s:
            return None
        read = self.weights.total * self.weights.active_share / (shape.tensor * device.bandwidth_gb_s * 1e9)
        talk = 2 * self.model.facts.layers * LINK_S[device.nvlink] if shape.tensor > 1 else 0.0
        return read + talk + (shape.pipeline - 1) * STAGE_S

    def needed(self, context: int) -> int:
        """The least that one device must have: for one sequence, in the smallest steps."""
        return sum(self._taken(1, SMALLEST_CHUNK)) + self.cache.sequence_bytes(context, SMALLEST_CHUNK)


def _misfit(tries: list[_Try], context: int) -> Misfit:
    """The shape that comes nearest."""
    best = min(tries, key=lambda one: (one.needed(context) - one.budget, one.shape.gpus))
    longest = max(one.cache.longest(one.room(1, SMALLEST_CHUNK), SMALLEST_CHUNK, context) for one in tries)
    return Misfit(
        best.model,
        best.ask,
        best.formats,
        best.weights,
        best.shape,
        best.needed(context),
        best.budget,
        context,
        longest,
    )
