"""The figures in words and columns, the same on a terminal and in a page. Pure."""

from collections.abc import Iterator, Sequence

from forebay.loadgen.figures import Spread, Summary
from forebay.loadgen.sweep import HEADROOM, Proposal, Trial

COLUMNS = ("mean", "median", "p90", "p95", "p99", "max")
NAMES = {
    "ttft_s": "TTFT (first token)",
    "itl_s": "ITL (between tokens)",
    "tpot_s": "TPOT (a token, after the first)",
    "e2e_s": "E2E (whole answer)",
}
MOST_FAILURES = 5


def rounded(value: float) -> str:
    """To three places, and never as a power of ten."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def lines(summary: Summary) -> Iterator[str]:
    """The figures that are one number each."""
    ended = f"{summary.completed} of {summary.planned} requests in {summary.duration_s:.1f} s, {summary.failed} failed"
    yield ended + (f", {summary.cut} cut off" if summary.cut else "")
    for failure, count in list(summary.failures.items())[:MOST_FAILURES]:
        yield f"  {count} x {failure}"
    yield f"{summary.requests_per_s:.2f} requests/s, {summary.mean_in_flight:.1f} under way on average"
    tokens = f"{summary.output_tokens_per_s:.1f} output tokens/s, {summary.total_tokens_per_s:.1f} with prompts"
    yield tokens + f" ({summary.prompt_tokens} prompt tokens, {summary.output_tokens} output tokens)"
    if summary.goodput_per_s is not None:
        share = summary.attainment or 0.0
        yield f"goodput {summary.goodput_per_s:.2f} requests/s: {share:.1%} within the objectives"


def cells(spread: Spread | None) -> list[str]:
    """One figure's columns, milliseconds."""
    if spread is None:
        return ["-"] * len(COLUMNS)
    return [f"{getattr(spread, column) * 1000:.2f}" for column in COLUMNS]


def verdicts(trials: Sequence[Trial]) -> tuple[tuple[str, ...], list[list[str]]]:
    """Columns and rows of a sweep, by rate."""
    rows = []
    for trial in sorted(trials, key=lambda one: one.rate):
        summary = trial.summary
        p95 = [f"{one.p95 * 1000:.1f}" if one else "-" for one in (summary.ttft_s, summary.tpot_s, summary.e2e_s)]
        tokens = f"{summary.output_tokens_per_s:.1f}"
        rows.append([rounded(trial.rate), "yes" if trial.met else "no", tokens, *p95, trial.verdict])
    return ("requests/s", "met", "output tokens/s", "TTFT p95 ms", "TPOT p95 ms", "E2E p95 ms", "why"), rows


def proposal_lines(proposal: Proposal) -> Iterator[str]:
    """What to set, and why."""
    yield f"engine_concurrency = {proposal.max_concurrency}  # an engine: requests/s x E2E at p95 (Little's law)"
    yield f"max_queue_size = {proposal.max_queue_size}  # of the model: requests/s x what the objective leaves to wait"
    yield f"queue_timeout_s = {proposal.queue_timeout_s:g}  # who waits longer misses the objective anyway"
    share = f"{HEADROOM:.0%} of what was measured"
    under_way, rate = rounded(proposal.target_in_flight), rounded(proposal.target_requests_per_s)
    yield f"# autoscaling target: {under_way} requests in flight, or {rate} requests/s, an engine ({share})"
