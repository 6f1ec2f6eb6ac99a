"""Whose turn is it? Requests of one connection are answered one after the other, in the order they came.

A turn is an `Exchange`, which the pipeline is given, or uvicorn's ASGI cycle, which the application is. It begins when
those before it are over, and the client has taken what was written for them: answers that nobody reads do not pile up.
While turns wait, nothing more is read, so that the kernel has to be asked whether the client is still there.
"""

import select
from time import monotonic

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from forebay.gateway.answering import Answering, Phase
from forebay.gateway.exchange import Exchange

_IDLE, _, _, _DEAF = Phase
_CLOSED = getattr(select, "POLLRDHUP", select.POLLHUP)  # by the other side; Linux alone tells of its FIN


class AnsweringInOrder(Answering):
    """The sending half, in turns. The receiving half calls `_received`; whoever answers says when a turn is over, the
    pipeline by `exchange_over`, uvicorn's cycle by `on_response_complete`."""

    _advancing = False
    _served = 0
    _unread_since = 0.0  # 0 while the client takes what is written
    _unread_bytes = 0
    _unread_counted = 0

    def _received(self, turn: Exchange | RequestResponseCycle, now: float) -> None:
        """A request may be answered: now, or after those before it."""
        if self.current is None and not self._waiting and not self.flow.write_paused:
            self._start(turn, now)
        else:
            self._waiting.append(turn)
            self.flow.pause_reading()

    def _start(self, turn: Exchange | RequestResponseCycle, now: float) -> None:
        self.current = turn
        if isinstance(turn, Exchange):
            self.policies.begin(turn, now)
        else:
            self._outbox.flush()  # uvicorn's cycle writes at once
            turn.keep_alive = turn.keep_alive and not self.policies.draining
            self._start_asgi_task(turn, self.app)

    def exchange_over(self, exchange: Exchange, now: float) -> None:
        """The pipeline is done with the exchange: the next request's turn."""
        if self.current is exchange:
            self._turn_over(now)

    def on_response_complete(self) -> None:
        if not self._waiting:
            self.flow.resume_reading()  # the rest of a body that the application did not want
        self._turn_over(monotonic())

    def _turn_over(self, now: float) -> None:
        self.current = None
        self._served += 1
        self.server_state.total_requests += 1
        if self._phase is _IDLE:
            self._since = now
        if self._waiting:
            self._advance()
        elif self._last_words is not None:
            refusal, self._last_words = self._last_words, None
            self._answer_raw(refusal)
        elif self._phase is _DEAF and not self._closing_gently:
            self._close_gently()

    def _advance(self) -> None:
        """Start waiting requests in a loop, not a recursion: a client may pipeline thousands. Not while it does not
        read its answers, which would pile up."""
        if self._advancing:
            return
        self._advancing = True
        while self._waiting and self.current is None and not self.flow.write_paused:
            self._start(self._waiting.popleft(), monotonic())
        self._advancing = False
        if not self._waiting:
            self.flow.resume_reading()

    def _check_there(self) -> None:
        """Nobody is there to be answered where the client has closed behind requests that wait: they are not read."""
        asked = select.poll()
        asked.register(self.transport.get_extra_info("socket").fileno(), _CLOSED)
        if asked.poll(0):
            self.transport.abort()

    # A client that is slow to read
    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread_since = monotonic()
        self._unread_bytes = self.transport.get_write_buffer_size()
        self._count_unread(self._unread_bytes)
        if isinstance(self.current, Exchange) and self.current.relay is not None:
            self.current.relay.pause()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unread_since = 0.0
        self._count_unread(0)
        if isinstance(self.current, Exchange) and self.current.relay is not None:
            self.current.relay.resume()
        self._advance()

    def _check_unread(self, now: float) -> None:
        """The client has left its answer unread for long: cut it off, unless it reads, however slowly."""
        unread = self.transport.get_write_buffer_size()
        if unread < self._unread_bytes:
            self._unread_since, self._unread_bytes = now, unread
        else:
            self.transport.abort()

    def _count_unread(self, count: int) -> None:
        """So much is written and not taken by the client."""
        self.gateway.room.add(count - self._unread_counted)
        self._unread_counted = count

    # Turns that come to nothing
    def shutdown(self) -> None:
        """The server is going down: close once what was received has been answered."""
        if self.current is None and not self._waiting and self._phase is _IDLE:
            self._outbox.flush()
            self.transport.close()
        elif isinstance(self.current, RequestResponseCycle):
            self.current.keep_alive = False

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._phase = _DEAF
        self._count_unread(0)
        turns = [self.current, *self._waiting]
        self.current = None
        self._waiting.clear()
        for turn in turns:
            if isinstance(turn, RequestResponseCycle):
                _tell_gone(turn)
            elif turn is not None:
                self.policies.client_gone(turn, monotonic())

    def _withdraw(self, cycle: RequestResponseCycle) -> None:
        """The rest of its request will not come: the application is told that its client has gone."""
        _tell_gone(cycle)
        if self.current is cycle:
            self.current = None
        else:
            self._waiting.remove(cycle)


def _tell_gone(cycle: RequestResponseCycle) -> None:
    cycle.disconnected = True
    cycle.message_event.set()
