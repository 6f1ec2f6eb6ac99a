"""Whether `forebay bench` and vLLM's own benchmark make the same figures of the same times.

usage: ENGINE_PYTHON bench/agreement.py REPORT.json

REPORT.json is what `forebay bench throughput|latency … --detailed --json REPORT.json` wrote; it runs with the engine's
Python, where vLLM is. The times of the requests are given to `vllm.benchmarks.serve.calculate_metrics`, and its figures
are laid beside ours. Exit status 1 where one differs by more than the rounding of the report.
"""

import json
import sys

from vllm.benchmarks.lib.endpoint_request_func import RequestFuncOutput
from vllm.benchmarks.serve import calculate_metrics

PERCENTILES = [90.0, 95.0, 99.0]
ROUNDING_MS = 0.002
NAMES = {"ttft": "ttft_s", "itl": "itl_s", "tpot": "tpot_s", "e2el": "e2e_s"}


def output_of(row: dict) -> RequestFuncOutput:
    """A request as vLLM's client would have noted it."""
    return RequestFuncOutput(
        success=row["failure"] is None,
        latency=row["e2e_s"] or 0.0,
        output_tokens=row["output_tokens"],
        ttft=row["ttft_s"] or 0.0,
        itl=row["itl_s"],
        prompt_len=row["prompt_tokens"],
        start_time=row["sent_s"],
        error=row["failure"] or "",
    )


def pairs(report: dict) -> list[tuple[str, float, float]]:
    """Each figure's name, theirs and ours; times in milliseconds."""
    ours = report["summary"]
    slo = {"e2el" if name == "e2e" else name: 1000 * s for name, s in (report["slo"] or {}).items() if s is not None}
    outputs = [output_of(row) for row in report["requests"]]
    theirs, _ = calculate_metrics(outputs, outputs, ours["duration_s"], None, PERCENTILES, slo)
    found = [
        ("requests/s", theirs.request_throughput, ours["requests_per_s"]),
        ("output tokens/s", theirs.output_throughput, ours["output_tokens_per_s"]),
        ("total tokens/s", theirs.total_token_throughput, ours["total_tokens_per_s"]),
        ("goodput/s", theirs.request_goodput, ours["goodput_per_s"] or 0.0),
    ]
    for name, own in NAMES.items():
        figures = ours[own]
        found += [
            (f"{name} {kind}", getattr(theirs, f"{kind}_{name}_ms"), figures[kind] * 1000)
            for kind in ("mean", "median", "std")
        ]
        found += [
            (f"{name} p{int(percent)}", value, figures[f"p{int(percent)}"] * 1000)
            for percent, value in getattr(theirs, f"percentiles_{name}_ms")
        ]
    return found


def main() -> None:
    with open(sys.argv[1]) as file:
        report = json.load(file)
    found = pairs(report)
    for name, theirs, ours in found:
        print(f"{name:16} vLLM {theirs:12.4f}   Forebay {ours:12.4f}")
    worst = max(abs(theirs - ours) for _, theirs, ours in found)
    print(f"largest difference {worst:.6f} in {len(found)} figures")
    sys.exit(1 if worst > ROUNDING_MS else 0)


if __name__ == "__main__":
    main()
