"""What `forebay bench` found, and the JSON of it. `words.py` has it for people, `report.py` for a browser."""

from typing import Any

import msgspec

from forebay import __version__
from forebay.loadgen.figures import Measured, Slo, Summary, meets
from forebay.loadgen.sweep import CLIENT_BUSY, LATE_S, Proposal, Trial


class Outcome(msgspec.Struct):
    """One run, or for a sweep the trials, of which `run` and `summary` are those of the best one."""

    kind: str
    url: str
    model: str
    started_at: str  # wall clock, ISO 8601
    options: dict[str, Any]
    slo: Slo | None
    run: Measured | None = None
    summary: Summary | None = None
    trials: list[Trial] = []
    proposal: Proposal | None = None
    stopped: bool = False

    @property
    def warnings(self) -> list[str]:
        """What the figures must not be taken for."""
        found = []
        if any(trial.client_bound for trial in self.trials):
            found.append("rates beyond these failed at this client, not at the server, which may take more")
        if self.trials and not self.stopped and all(trial.met for trial in self.trials):
            found.append("every rate that was tried is met: the server may take more (--max-rate)")
        if (summary := self.summary) is None:
            return found
        if summary.client_cpu_share > CLIENT_BUSY:
            share = f"{summary.client_cpu_share:.0%}"
            found.append(f"this client used {share} of a processor: it may be its own limit that was measured")
        if summary.late_p99_s > LATE_S:
            found.append(
                f"requests went out up to {summary.late_p99_s * 1000:.0f} ms late (p99): the load was less even"
            )
        if self.run is not None and any(s.failure is None and not s.prompt_tokens for s in self.run.samples):
            found.append("the server told no usage: tokens are counted by events, prompts not at all")
        return found


def as_json(outcome: Outcome) -> bytes:
    """Everything; the single gaps between tokens only where `detailed` says so. Times are seconds from the start."""
    known = {name: getattr(outcome, name) for name in outcome.__struct_fields__ if name not in ("run", "trials")}
    told: dict[str, Any] = {"forebay": __version__, **known, "warnings": outcome.warnings}
    if outcome.kind == "sweep":
        told["trials"] = outcome.trials
    told["requests"] = (
        [] if outcome.run is None else _rows(outcome.run, outcome.slo, detailed=bool(outcome.options.get("detailed")))
    )
    return msgspec.json.format(msgspec.json.encode(told), indent=1) + b"\n"


def _rows(run: Measured, slo: Slo | None, *, detailed: bool) -> list[dict[str, Any]]:
    return [
        {
            "sent_s": round(one.sent - run.started, 6),
            "ttft_s": None if one.failure else round(one.ttft, 6),
            "tpot_s": None if one.failure or one.tpot is None else round(one.tpot, 6),
            "e2e_s": None if one.failure else round(one.e2e, 6),
            "prompt_tokens": one.prompt_tokens,
            "output_tokens": one.output_tokens,
            "failure": one.failure,
            "good": meets(one, slo) if slo else None,
            **({"itl_s": [round(gap, 6) for gap in one.gaps]} if detailed else {}),
        }
        for one in run.samples
    ]
