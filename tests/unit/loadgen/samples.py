"""Samples with known times."""

from itertools import pairwise

from forebay.loadgen.figures import Measured, Sample


def sample(
    sent: float, *tokens: float, output_tokens: int | None = None, prompt_tokens: int = 10, failure: str | None = None
) -> Sample:
    """A request sent at a time, whose tokens arrived at these times."""
    made = Sample(sent)
    made.first, made.last = (tokens[0], tokens[-1]) if tokens else (0.0, 0.0)
    made.ended = tokens[-1] if tokens else sent
    made.gaps.extend(after - before for before, after in pairwise(tokens))
    made.events = len(tokens)
    made.output_tokens = len(tokens) if output_tokens is None else output_tokens
    made.prompt_tokens = prompt_tokens
    made.failure = failure
    return made


def run_of(*samples: Sample, ended: float | None = None) -> Measured:
    """A run from 0 on."""
    return Measured(list(samples), 0.0, ended or max(one.ended for one in samples), len(samples))
