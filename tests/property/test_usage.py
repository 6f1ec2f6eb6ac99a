"""However batches of usage are kept, sent, sent again, cut off by crashes and taken over: each counts once."""

import tempfile
from pathlib import Path
from time import time

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from forebay.policy.usage import Counts, Entries, cut, join
from forebay.store import usage
from forebay.store.spool import Spool, open_spool, orphans, read
from forebay.store.usage import Question, sums
from tests.store.databases import made

entries = st.dictionaries(
    st.tuples(st.sampled_from(["2030-01-01", "2030-01-02"]), *[st.sampled_from("ab")] * 3),
    st.builds(Counts, st.integers(1, 9), st.integers(0, 9)),
    min_size=1,
    max_size=4,
)


class Ledgers(RuleBasedStateMachine):
    """Several gateways, one database. `kept` is what has been put into spools: all that must be counted."""

    writers = Bundle("writers")

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.root = Path(self.directory.name) / "spool"
        self.database = made(f"sqlite:///{self.directory.name}/forebay.db")
        self.kept = 0
        self.alive: list[Spool] = []

    @rule(target=writers)
    def start(self) -> Spool:
        self.alive.append(open_spool(self.root, 1 << 20))
        return self.alive[-1]

    @rule(writer=writers, used=entries)
    def keep(self, writer: Spool, used: Entries) -> None:
        writer.put(used, time())
        self.kept += sum(counts.requests for counts in used.values())

    @rule(writer=writers, sent=st.integers(1, 5), removed=st.integers(0, 2))
    def send(self, writer: Spool, sent: int, removed: int) -> None:
        """Some of the oldest batches; fewer may be removed than were sent, as where a crash cuts in."""
        self.bring(writer, sent, min(sent, removed))

    @rule(writer=consumes(writers))
    def die(self, writer: Spool) -> None:
        self.alive.remove(writer)
        writer.close()

    @rule()
    def take_over(self) -> None:
        for orphan in orphans(self.root):
            self.bring(orphan, 10**6, 10**6)
            with self.database.engine.begin() as connection:
                usage.forget(connection, orphan.writer)
            orphan.discard()
            orphan.close()

    def bring(self, spool: Spool, sent: int, removed: int) -> None:
        paths = spool.waiting()[:sent]
        with self.database.engine.begin() as connection:
            usage.add(connection, spool.writer, [(int(path.stem), read(path)) for path in paths])
        for path in paths[:removed]:
            spool.remove(path)

    def counted(self) -> int:
        return sum(line.counts.requests for line in sums(self.database, Question(by=("model",)), {}))

    @invariant()
    def nothing_counts_twice(self) -> None:
        assert self.counted() <= self.kept

    def teardown(self) -> None:
        for writer in self.alive:
            writer.close()
        self.take_over()
        assert self.counted() == self.kept
        assert list(self.root.glob("*")) == []
        self.database.close()
        self.directory.cleanup()


TestLedgers = Ledgers.TestCase
TestLedgers.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)


def test_joining_is_adding_and_cutting_tells_how_many_requests_go() -> None:
    first, second = ("2030-01-01", "a", "k", "m"), ("2030-01-01", "a", "k", "n")
    some: Entries = {first: Counts(1, 1, 1, 1, 1, 1, 1)}
    more: Entries = {first: Counts(2, 0, 3), second: Counts(5)}
    join(some, more)
    assert some == {first: Counts(3, 1, 4, 1, 1, 1, 1), second: Counts(5)}
    some[second].requests += 1
    assert more[second].requests == 5
    assert cut(some, 2) == 0
    assert cut(some, 1) == 6
    assert list(some) == [first]
