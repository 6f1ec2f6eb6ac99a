"""What a server said, in a line."""

from forebay.loadgen.target import said_of


def test_refusals_that_differ_only_in_the_seconds_to_wait_are_named_alike() -> None:
    told = {said_of(503, b'{"error": {"message": "The queue is full (1). Try again in %d s."}}' % n) for n in (2, 3)}
    assert told == {"status 503: The queue is full (1)."}
    assert said_of(502, b"<html>") == "status 502"
    assert said_of(400, b'{"error": "%s"}' % (b"word " * 90)).endswith("word …")
