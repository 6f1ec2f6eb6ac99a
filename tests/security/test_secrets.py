"""No file of the repository holds what looks like a secret, but for those of tests, which are made to be seen."""

import math
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# As gitleaks and detect-secrets know them: whose secret it is, and how it looks.
LOOKS = {
    "private key": re.compile(r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----"),
    "AWS": re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
    "GitHub": re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{82})\b"),
    "GitLab": re.compile(r"\bglpat-[A-Za-z0-9_-]{20}\b"),
    "Google": re.compile(r"\bAIza[A-Za-z0-9_-]{35}\b"),
    "Hugging Face": re.compile(r"\bhf_[A-Za-z0-9]{34,}\b"),
    "OpenAI or Anthropic": re.compile(r"\bsk-(?:ant-|proj-)?[A-Za-z0-9_-]{32,}\b"),
    "PyPI": re.compile(r"\bpypi-[A-Za-z0-9_-]{50,}\b"),
    "Slack": re.compile(r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}\b"),
    "token (JWT)": re.compile(r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\b"),
    "password in a URL": re.compile(r"\b[a-z][a-z0-9+]*://[^\s/:@\"'<>{}$]+:([^\s/:@\"'<>{}$]{8,})@"),
    "assigned": re.compile(
        r"(?i)\b(?:api[_-]?key|secret|token|passw(?:or)?d)\w*[\"']?\s*[:=]\s*[\"']([A-Za-z0-9+/_=-]{20,})[\"']"
    ),
}
RANDOM_BITS = 3.6  # a character, from which on a text that was assigned counts as random: words have less
# What only looks like one: a file, and what is in it. A reason for each.
KNOWN: dict[str, tuple[str, ...]] = {
    "tests/": ("",),  # secrets of tests are theirs alone, and are checked by other tests to be shown nowhere
    "": ("password", "FOREBAY_UPSTREAM_API_KEY"),  # the word itself in a URL, and a variable's name
}


def entropy(text: str) -> float:
    counts = Counter(text)
    return -sum(count / len(text) * math.log2(count / len(text)) for count in counts.values())


def found_in(text: str) -> Iterator[tuple[str, str]]:
    """Whose, and what."""
    for whose, look in LOOKS.items():
        for match in look.finditer(text):
            told = match[1] if look.groups else match[0]
            if whose != "assigned" or entropy(told) > RANDOM_BITS:
                yield whose, told


def tracked() -> list[Path]:
    told = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    return [ROOT / name for name in told.stdout.decode().split("\0") if name]


def is_known(name: str, told: str) -> bool:
    return any(
        name.startswith(place) and any(part == told or not part for part in parts) for place, parts in KNOWN.items()
    )


def test_no_file_holds_what_looks_like_a_secret() -> None:
    files = [file for file in tracked() if file.is_file()]
    assert len(files) > 300
    found = [
        (name, whose)
        for file in files
        for whose, told in found_in(file.read_text(errors="replace"))
        if not is_known(name := file.relative_to(ROOT).as_posix(), told)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("text", "whose"),
    [
        ("-----BEGIN RSA PRIVATE " + "KEY-----", "private key"),
        ("aws = AKIA" + "Q3EGR2HJ5KLM7NPQ", "AWS"),
        ("token: ghp_" + "a1B2" * 9, "GitHub"),
        ("hf_" + "aBcD" * 9, "Hugging Face"),
        ("sk-proj-" + "aB3_" * 10, "OpenAI or Anthropic"),
        ("postgresql://forebay:" + "correcthorse@db/forebay", "password in a URL"),
        ('secret_key = "' + "q8Zr1LkP0vXs7TnB4mYd" + '"', "assigned"),
        ("eyJhbGciOiJIUzI1NiJ9." + "eyJzdWIiOiJhZGEifQ." + "c2lnbmF0dXJlMDE", "token (JWT)"),
    ],
)
def test_a_secret_is_noticed(text: str, whose: str) -> None:
    assert whose in {name for name, _ in found_in(f"# a line\n{text}\n")}


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://user:password@host/name"[:22] + "…@host/name",
        "api_key = settings.upstream_api_key",
        'api_key = "your-key-goes-here-please"',
        "sk-test",
        "https://example.com:8000/v1",
    ],
)
def test_what_is_no_secret_is_let_pass(text: str) -> None:
    assert list(found_in(text)) == []
