"""What reads the bytes of callers and engines, under a fuzzer that follows which code each input reaches.

usage: make fuzz, or python -m bench.fuzz [--runs 20000] [--seconds 120] [--seed 1] [TARGET ...]

Each target (`fuzz_targets.py`) is run by atheris (libFuzzer) in a process of its own, from the tests' own seeds, until
so many inputs or seconds. It fails where an input raises what is no refusal, breaks an invariant, or takes more than
50 ms; the input is shown then, and so is what was raised.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import process_time

MOST_S = 0.05
MOST_BYTES = 4096
NAMES = ("body", "plain", "answer", "headers", "pattern", "framing")
_SO_FAR = re.compile(r"#(\d+)\s+\w+\s+cov: (\d+) ft: (\d+)")


def bounded(target: Callable[[bytes], None]) -> Callable[[bytes], None]:
    """The target, which may not take long: not even at its best of three, where it did."""

    def run(data: bytes) -> None:
        def took() -> float:
            began = process_time()
            target(data)
            return process_time() - began

        if took() > MOST_S:
            assert min(took() for _ in range(3)) < MOST_S, "it takes too long"

    return run


def child(name: str, arguments: list[str]) -> None:
    """Fuzz one target; libFuzzer ends the process."""
    import atheris

    ours = ["forebay.wire", "forebay.gateway.server", "forebay.gateway.in_order", "forebay.policy.auth"]
    with atheris.instrument_imports(include=ours):
        from bench.fuzz_targets import TARGETS
    target, _ = TARGETS[name]
    atheris.Setup([sys.argv[0], *arguments], bounded(target))
    atheris.Fuzz()


def fuzz(name: str, options: argparse.Namespace) -> tuple[str, int]:
    """Run one target; a row of the table, and how many inputs it had; 0 where it failed."""
    from bench.fuzz_targets import TARGETS

    with tempfile.TemporaryDirectory() as scratch:
        corpus, found = Path(scratch, "corpus"), Path(scratch, "found")
        for directory in (corpus, found):
            directory.mkdir()
        for number, seed in enumerate(TARGETS[name][1]()):
            (corpus / str(number)).write_bytes(seed)
        limits = [f"-runs={options.runs}", f"-max_total_time={options.seconds}", f"-seed={options.seed}"]
        limits += [f"-max_len={MOST_BYTES}", f"-artifact_prefix={found}/", "-timeout=20", "-print_final_stats=0"]
        command = [sys.executable, "-m", "bench.fuzz", "--child", name, "--", *limits, str(corpus)]
        ran = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        told = _SO_FAR.findall(ran.stderr)
        inputs, edges, features = (int(number) for number in told[-1]) if told else (0, 0, 0)
        if ran.returncode:
            shown = [file.read_bytes() for file in found.iterdir()]
            print(ran.stdout[-3000:], ran.stderr[-3000:], *map(repr, shown), sep="\n", file=sys.stderr)
    row = f"{name:<8} {inputs:>9,} {edges:>6} {features:>9}  {'FAILED' if ran.returncode else 'ok'}"
    return row, 0 if ran.returncode else inputs


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20_000, help="inputs a target")
    parser.add_argument("--seconds", type=int, default=120, help="at most so long a target")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(NAMES))
    options = parser.parse_args()
    if options.child:
        child(options.child, options.targets)
    if unknown := set(options.targets) - set(NAMES):
        parser.error(f"no target: {', '.join(unknown)}")
    print("target      inputs  edges  features", flush=True)
    total, failed = 0, False
    for name in options.targets or NAMES:
        row, inputs = fuzz(name, options)
        print(row, flush=True)
        total += inputs
        failed = failed or not inputs
    print(f"{total:,} inputs")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
