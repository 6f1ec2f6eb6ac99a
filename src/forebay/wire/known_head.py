"""A message's head that has been read before: on a kept-alive connection the next one seldom differs in more than its
Content-Length, so there is no need to parse it again.

Only what the parser itself has accepted, byte for byte, is known; the one thing that may differ is the value of a plain
Content-Length, and the message is whole if as many bytes follow. Anything else is the parser's.
"""

from bisect import bisect
from typing import Generic, Self, TypeVar

T = TypeVar("T")

_LENGTH = b"\r\ncontent-length: "
_END = b"\r\n\r\n"
# How many bytes a length of two, three, … digits and the body that it tells of have together at least.
_LONGER = tuple(10**digits + digits + 1 for digits in range(1, 10))


class KnownHead(Generic[T]):
    """`read` is what was made of the head; `again` whether it has come again since."""

    __slots__ = ("_fixed", "_form", "again", "read")

    def __init__(self, before: bytes, after: bytes, read: T) -> None:
        """`before` goes up to the length's digits, `after` from behind them to the head's end."""
        self._form = b"%s%%d%s" % (before.replace(b"%", b"%%"), after.replace(b"%", b"%%"))
        self._fixed = len(before) + len(after)
        self.read = read
        self.again = False

    def __repr__(self) -> str:
        return f"<KnownHead {self.read!r}>"  # not the bytes: a key is among them

    @classmethod
    def of(cls, message: bytes, read: T) -> Self | None:
        """The head of a whole message that the parser has taken; None where it is not of the plain kind."""
        head = message[: message.find(_END) + len(_END)]
        folded = head.lower()
        at = folded.find(_LENGTH) + len(_LENGTH)
        if at < len(_LENGTH) or folded.count(b"content-length") != 1 or b"transfer-encoding" in folded:
            return None
        known = cls(head[:at], head[head.find(b"\r\n", at) :], read)
        return known if known.body_of(message) is not None else None

    def body_of(self, data: bytes) -> bytes | None:
        """The body, where the data are one whole message with this head; else None."""
        rest = len(data) - self._fixed  # the length's digits and the body, if they are
        length = rest - bisect(_LONGER, rest) - 1
        head = self._form % length
        if not data.startswith(head):
            return None
        body = data[len(head) :]
        # No body and its length have 11 bytes together, nor 102: 9 bytes would be taken for 10 there.
        return body if len(body) == length else None
