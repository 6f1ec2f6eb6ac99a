"""E6: an attacker who tries a prompt learns nothing by the time to its first token; whose prompt it is, finds it again.

The engine's own prefix cache is asked: by its figures in `usage`, and by the clock.
"""

import json
import math
import random
import time
import urllib.request
from typing import Any

import pytest

from tests.e2e.conftest import ADMIN_KEY, KEY, MODEL, Service

pytestmark = pytest.mark.engine

ROUNDS = 14
BY_CHANCE = 1e-4
WORDS = ("river", "turbine", "basin", "stone", "cloud", "valley", "bridge", "window", "garden", "letter")


def ask(service: Service, key: str, path: str, body: dict[str, Any]) -> Any:
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    request = urllib.request.Request(service.url + path, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


def first_token(service: Service, key: str, prompt: str) -> tuple[float, int]:
    """The time until an answer's only token, ms, and how many of the prompt's tokens the engine had."""
    body = {"model": MODEL, "prompt": prompt, "max_tokens": 1, "temperature": 0}
    began = time.perf_counter()
    usage = ask(service, key, "/v1/completions", body)["usage"]
    return (time.perf_counter() - began) * 1e3, (usage["prompt_tokens_details"] or {}).get("cached_tokens") or 0


def mann_whitney(ones: list[float], others: list[float]) -> float:
    """The chance of two samples of one distribution to lie as far apart, by ranks (normal approximation)."""
    n, m = len(ones), len(others)
    wins = sum((a > b) + (a == b) / 2 for a in ones for b in others)
    z = (wins - n * m / 2) / math.sqrt(n * m * (n + m + 1) / 12)
    return math.erfc(abs(z) / math.sqrt(2))


def test_the_rank_test_tells_what_is_apart_from_what_is_not() -> None:
    seeded = random.Random(1)
    ones = [seeded.gauss(100, 10) for _ in range(ROUNDS)]
    assert mann_whitney(ones, [seeded.gauss(100, 10) for _ in range(ROUNDS)]) > 0.01
    assert mann_whitney(ones, [seeded.gauss(70, 10) for _ in range(ROUNDS)]) < BY_CHANCE


def test_the_clock_does_not_tell_a_prompt_that_another_tenant_has_sent_from_a_new_one(service: Service) -> None:
    other = ask(service, ADMIN_KEY, "/admin/v1/keys", {"tenant": "prober"})["key"]
    drawn = random.Random(6)

    def new() -> str:
        return " ".join(drawn.choice(WORDS) for _ in range(300))

    first_token(service, other, new())  # its key is known now
    times: dict[str, list[float]] = {"own again": [], "another's": [], "new": []}
    cached: dict[str, list[int]] = {name: [] for name in times}
    for _ in range(ROUNDS):
        theirs = new()
        first_token(service, KEY, theirs)
        tries = [("own again", KEY, theirs), ("another's", other, theirs), ("new", other, new())]
        for name, key, prompt in drawn.sample(tries, 3):
            took_ms, found = first_token(service, key, prompt)
            times[name].append(took_ms)
            cached[name].append(found)
    medians = {name: round(sorted(taken)[ROUNDS // 2], 1) for name, taken in times.items()}
    told, control = mann_whitney(times["another's"], times["new"]), mann_whitney(times["own again"], times["new"])
    print(f"median ms to the first token: {medians}; p {told:.3f}, of the control {control:.1e}; found {cached}")
    assert set(cached["another's"]) == set(cached["new"]) == {0}, "the engine found nothing of another's"
    assert min(cached["own again"]) > 0, "and each time its own"
    assert control < BY_CHANCE, "the clock would tell, if there were anything to tell"
    assert told > BY_CHANCE
