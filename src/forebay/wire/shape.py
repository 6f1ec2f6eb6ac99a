"""The shape of a JSON text: how deep it is, of how many parts, and whether a name comes twice.

Decoders do not tell any of it, and walking through the text in Python would cost more than all else that is done for a
request. So the text is counted instead: strings are cut out, and what is left are brackets, colons and commas. That is
done slice by slice, so that a long text is given up early, and a thread that counts lets others run in between.
"""

from collections.abc import Iterator
from itertools import accumulate

import msgspec
from msgspec import Raw

from forebay.refusals import InvalidJSON

# A part is an object or an array; with more than this on average a text is taken for an attack.
TEXTS_PER_PART = 10
VALUES_PER_PART = 100
MOST_BARE_BYTES = 8 * 1024 * 1024  # outside of texts; decoders are slow there,
MOST_ESCAPES = 4 * 1024 * 1024  # and at these
_SLICE_BYTES = 256 * 1024
_OTHERS = bytes(set(range(256)) - set(b"[]{}"))
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")  # one level down, one up
_members = msgspec.json.Decoder(dict[str, Raw])


def check_parts(text: bytes, most_deep: int, most_parts: int) -> None:
    """Refuse a text that nests too deeply or has too many objects, arrays, texts or values. Raises `InvalidJSON`."""
    inside = texts = values = brackets = bare_bytes = level = escapes = 0
    for piece in slices(text):
        escapes += piece.count(b"\\")
        strings = _without_escapes(piece).split(b'"')
        bare = b"".join(strings[inside::2])
        inside = (inside + len(strings) - 1) % 2
        steps = bare.translate(_STEPS, _OTHERS)
        texts += len(strings) - 1
        values += bare.count(b",")
        brackets += len(steps)
        bare_bytes += len(bare)
        _refuse_above(most_parts, brackets // 2, "objects and arrays")
        _refuse_above(TEXTS_PER_PART * most_parts, texts // 2, "texts")
        _refuse_above(VALUES_PER_PART * most_parts, values, "values")
        _refuse_above(MOST_BARE_BYTES, bare_bytes, "bytes outside of texts")
        _refuse_above(MOST_ESCAPES, escapes, "escapes")
        if steps:
            levels = memoryview(steps).cast("b")
            if max(accumulate(levels, initial=level)) > most_deep:
                raise InvalidJSON(f"The body is nested deeper than {most_deep} levels.")
            level += sum(levels)


def slices(text: bytes) -> Iterator[bytes]:
    """A text piece by piece, none of which ends within an escape."""
    at = 0
    while at < len(text):
        piece = text[at : at + _SLICE_BYTES]
        if piece.endswith(b"\\") and at + len(piece) < len(text) and (len(piece) - len(piece.rstrip(b"\\"))) % 2:
            piece = piece[:-1]
        at += len(piece)
        yield piece


def texts_in(text: bytes) -> int:
    """How many texts there are."""
    return sum(_without_escapes(piece).count(b'"') for piece in slices(text)) // 2


def may_have_text_of(text: bytes, size: int) -> bool:
    """Whether a text in it may have so many bytes: somewhere no quote comes for half as many."""
    if b'\\"' in text:
        text = text.replace(b"\\\\", b"xx").replace(b'\\"', b"xx")
    half = size // 2
    return any(text.find(b'"', at, at + half) < 0 for at in range(0, len(text) - half, half))


def members_of(text: bytes | Raw) -> dict[str, Raw]:
    """The members of an object; of those with one name the last."""
    return _members.decode(text)


def has_doubled_name(text: bytes | Raw) -> bool:
    """Whether an object has a name twice; what is within its members is not looked at.

    Each member brings a colon, and those of its name and value: colons beyond these are of a member that was dropped.
    """
    members = members_of(text)
    colons = sum(bytes(value).count(b":") for value in members.values())
    return bytes(text).count(b":") > len(members) + "".join(members).count(":") + colons


def _without_escapes(piece: bytes) -> bytes:
    return piece.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in piece else piece


def _refuse_above(most: int, count: int, what: str) -> None:
    if count > most:
        raise InvalidJSON(f"The body has more than {most} {what}.")
