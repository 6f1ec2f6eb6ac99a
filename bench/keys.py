"""`python bench/keys.py`: 1,000,000 keys in a SQLite file. How long until a gateway serves, what does a look-up cost?

Prints the time from the start of `forebay gateway` to its first answer with a key, median and p99 of a look-up that
is not in memory and of one that is, what memory grew by, and how long `keys create` takes among so many. Two figures
have a bar: 5 s to serving, and 20 microseconds for a look-up. Only figures of one run on one machine compare.
"""

import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import tracemalloc
import urllib.error
import urllib.request
from hashlib import sha256
from random import Random

from pydantic import SecretStr

from forebay.config.settings import Settings
from forebay.policy.auth import UNLIMITED, Authenticator, Principal
from forebay.policy.grants import NewKey
from forebay.store.database import Database, open_database
from forebay.store.directory import KeyDirectory
from forebay.store.keys import Keys

KEYS = int(os.environ.get("KEYS", "1000000"))
LOOK_UPS = 20_000
START_BAR_S, LOOK_UP_BAR_US = 5.0, 20.0


def secret(number: int) -> str:
    """The text of a key, the same in every run."""
    return f"fb-{number:016x}-{sha256(b'%d' % number).hexdigest()[:43]}"


def fill(database: Database) -> None:
    """All keys, of a thousand tenants, by the shortest way."""
    connection = database.engine.raw_connection()
    connection.execute("BEGIN")
    connection.executemany("INSERT INTO tenants (id, changed) VALUES (?, 1)", ((f"t{n}",) for n in range(1000)))
    connection.executemany(
        "INSERT INTO keys (id, tenant, name, scopes, priority, weight, requests_per_minute, created_at, changed) "
        "VALUES (?, ?, 'bench', 'inference', 0, 1.0, ?, 0, 1)",
        ((f"{n:016x}", f"t{n % 1000}", n % 600 + 1) for n in range(KEYS)),
    )
    digests = sorted((sha256(secret(n).encode()).digest(), f"{n:016x}") for n in range(KEYS))
    connection.executemany("INSERT INTO key_secrets (digest, key_id) VALUES (?, ?)", digests)
    connection.execute("UPDATE changes SET number = 1")
    connection.execute("COMMIT")
    connection.close()


def start(url: str) -> float:
    """Seconds from the start of a gateway to its first answer to a key of the database."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = "from forebay.cli.main import main; main()"
    command = [sys.executable, "-c", code, "gateway", "--upstream", "http://127.0.0.1:9", "--port", str(port)]
    begun = time.monotonic()
    environment = {**os.environ, "DATABASE_URL": url}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    headers = {"authorization": f"Bearer {secret(KEYS // 2)}"}
    try:
        while True:
            try:
                with urllib.request.urlopen(
                    urllib.request.Request(f"http://127.0.0.1:{port}/v1/models", None, headers)
                ):
                    return time.monotonic() - begun
            except urllib.error.URLError:
                time.sleep(0.01)
    finally:
        process.terminate()
        process.wait()


def look_ups(directory: KeyDirectory, numbers: list[int]) -> list[float]:
    """What each costs, from the header's bytes to the principal, microseconds."""
    auth, costs = Authenticator({}, keys=directory), []
    for header in [b"Bearer " + secret(number).encode() for number in numbers]:
        begun = time.perf_counter_ns()
        principal = auth.authenticate(header, None, 1.0)
        costs.append((time.perf_counter_ns() - begun) / 1000)
        assert isinstance(principal, Principal)
    return costs


def figures(name: str, costs: list[float]) -> float:
    ordered = sorted(costs)
    median, p99 = ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.99)]
    print(f"{name:34} median {median:6.1f} us   p99 {p99:6.1f} us")
    return median


def memory_mib(database: Database, numbers: list[int]) -> float:
    """What as many known keys take in memory."""
    keys = KeyDirectory(database, len(numbers), UNLIMITED)
    tracemalloc.start()
    look_ups(keys, numbers)
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return taken / 1024 / 1024


def main() -> int:
    with tempfile.TemporaryDirectory() as directory:
        url = f"sqlite:///{directory}/forebay.db"
        database = open_database(Settings(database_url=SecretStr(url)))
        begun = time.monotonic()
        fill(database)
        assert database.file is not None
        print(f"{KEYS} keys, {database.file.stat().st_size >> 20} MiB, made in {time.monotonic() - begun:.1f} s")
        begun = time.monotonic()
        Keys(database).create(NewKey(tenant="t1"), time.time())
        print(f"{'one more':34} {(time.monotonic() - begun) * 1000:6.1f} ms")
        started = min(start(url) for _ in range(3))
        print(f"{'start to serving':34} {started:6.2f} s")
        keys = KeyDirectory(database, 20_000, UNLIMITED)
        numbers = Random(1).sample(range(KEYS), min(LOOK_UPS, KEYS // 2))
        look_ups(keys, Random(2).sample(range(KEYS), min(LOOK_UPS, KEYS // 2)))  # the page cache warm
        median = figures("a look-up in the database", look_ups(keys, numbers))
        figures("a look-up in memory", look_ups(keys, numbers))
        unknown = [sha256(secrets.token_bytes(8)).digest() for _ in range(1000)]
        costs = []
        for digest in unknown:
            at = time.perf_counter_ns()
            assert keys.find(b"", digest, 1.0, "") is None
            costs.append((time.perf_counter_ns() - at) / 1000)
        figures("an unknown key", costs)
        print(f"{'memory of as many known keys':34} {memory_mib(database, numbers):6.1f} MiB")
    return 0 if median <= LOOK_UP_BAR_US and started <= START_BAR_S else 1


if __name__ == "__main__":
    sys.exit(main())
