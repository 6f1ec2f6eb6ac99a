"""Once more? Only where the engine cannot have begun an answer, so that no work is done twice.

Two cases: no connection came about (another engine, or the same one again, may do), and a kept-alive connection was
closed by the engine while our request was on its way (it had idled; a fresh one will do). The second does not count
as an attempt, because it says nothing about the engine, but it happens once only.
"""

from forebay.failures import Failure


def may_retry(failure: Failure, attempts: int, max_attempts: int, *, refreshed: bool) -> bool:
    """Whether to send again after `attempts` attempts; `refreshed` if that was done for a stale connection."""
    if failure.kind == "connect":
        return attempts < max_attempts
    return is_stale_connection(failure) and not refreshed


def is_stale_connection(failure: Failure) -> bool:
    """Whether the failure is the race of keep-alive: a reused connection closed before any answer."""
    return failure.kind == "closed" and failure.reused and failure.before_answer
