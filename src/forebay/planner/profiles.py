"""Sets of answers by name: what is not said on the command line is taken from here."""

from dataclasses import dataclass
from enum import StrEnum


class Goal(StrEnum):
    """What the plan is to be best at."""

    throughput = "throughput"
    latency = "latency"
    long_context = "long-context"


@dataclass(frozen=True, slots=True)
class Profile:
    """None: not said. `summary` is what `--help` and the documentation have."""

    summary: str
    gpu: str | None = None
    count: int | None = None
    context: int | None = None
    concurrency: int | None = None
    goal: Goal = Goal.throughput
    quantise: bool = False


PROFILES = {
    "small": Profile("one L4, 4,096 tokens, 32 at a time", "L4", 1, 4096, 32),
    "medium": Profile("two A100-80GB, 8,192 tokens, 128 at a time", "A100-80GB", 2, 8192, 128),
    "large": Profile("eight H100, 8,192 tokens, 256 at a time", "H100", 8, 8192, 256),
    "quantized": Profile("FP8 weights, made while loading where the model is not quantised yet", quantise=True),
    "t4": Profile("one T4, 8,192 tokens, 16 at a time", "T4", 1, 8192, 16),
    "throughput": Profile("most tokens a second in all: as many copies of the model as serve the load"),
    "latency": Profile("fewest milliseconds a token: one copy over as many GPUs as make it faster", goal=Goal.latency),
    "long-context": Profile("the longest texts that fit, few at a time", goal=Goal.long_context),
}


@dataclass(frozen=True, slots=True)
class Habits:
    """What a goal means in figures. None of them is asked for by name, so each is said in the plan.

    `context` is None for as long as the model goes; `fill` is the share of it that a sequence takes on average;
    `per_gpu` and `most` are sequences at a time, to plan for and to allow, where nobody says how many.
    """

    context: int | None
    fill: float
    per_gpu: int
    most: int


HABITS = {
    Goal.throughput: Habits(8192, 0.25, 32, 256),
    Goal.latency: Habits(8192, 0.5, 8, 64),
    Goal.long_context: Habits(None, 1.0, 1, 16),
}
