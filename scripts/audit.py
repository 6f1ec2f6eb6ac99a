"""Look for known vulnerabilities in locked packages, by pip-audit: audit.py LOCK-FILE …

It asks PyPI, or the service of OSV's form at FOREBAY_OSV_URL, for where PyPI cannot be reached. Where neither answers,
that is said and is no failure: nothing was found out. Status 1: a package has a known vulnerability.

pip-audit calls it success when it could ask of no package at all, which is why its answer is read here.
"""

import json
import os
import subprocess
import sys
from typing import Any

TIMEOUT_S = 600


def audit(files: list[str]) -> tuple[list[dict[str, Any]], str]:
    """What pip-audit found of each package; and what it said."""
    words = [word for file in files for word in ("--requirement", file)]
    if url := os.environ.get("FOREBAY_OSV_URL"):
        words += ["--vulnerability-service", "osv", "--osv-url", url]
    fixed = ("--disable-pip", "--require-hashes", "--progress-spinner", "off", "--format", "json", "--timeout", "10")
    program = [sys.executable, "-m", "pip_audit", *fixed, *words]
    done = subprocess.run(program, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)  # noqa: S603
    try:
        return json.loads(done.stdout)["dependencies"], done.stderr
    except (ValueError, KeyError):
        return [], done.stderr


def main() -> int:
    packages, said = audit(sys.argv[1:])
    known = [one for one in packages if "vulns" in one]
    if not known:
        why = packages[0]["skip_reason"] if packages else said.strip().rpartition("\n")[2]
        print(f"SKIPPED: no database of vulnerabilities answers here: {why[:200]}")
        print("run this where PyPI's JSON API can be reached, or set FOREBAY_OSV_URL to a copy of OSV's service")
        return 0
    found = [(one, vulnerability) for one in known for vulnerability in one["vulns"]]
    for one, vulnerability in found:
        better = ", ".join(vulnerability["fix_versions"]) or "none yet"
        print(f"{one['name']} {one['version']}: {vulnerability['id']}; mended in: {better}")
    print(f"{len(known)} of {len(packages)} packages audited, {len(found)} known vulnerabilities")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
