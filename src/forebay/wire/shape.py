"""The shape of a JSON text that a decoder has taken: how deep it is, of how many parts, and whether a name comes twice.

Decoders do not tell any of it, and walking through the text in Python would cost more than all else that is done for a
request. So the text is counted instead: strings are cut out, and what is left are brackets, colons and commas.
"""

from itertools import accumulate

import msgspec
from msgspec import Raw

from forebay.refusals import InvalidJSON

TEXTS_PER_PART = 50  # a part (an object, an array) with more texts than this on average is taken for an attack
_OTHERS = bytes(set(range(256)) - set(b"[]{}"))
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")  # one level down, one up
_members = msgspec.json.Decoder(dict[str, Raw])


def check_parts(text: bytes, most_deep: int, most_parts: int) -> None:
    """Refuse a text that nests too deeply or has too many objects and arrays. Raises `InvalidJSON`."""
    bare = text.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in text else text
    if bare.count(b'"') > 2 * TEXTS_PER_PART * most_parts:
        raise InvalidJSON(f"The body has more than {TEXTS_PER_PART * most_parts} texts.")
    brackets = b"".join(bare.split(b'"')[::2]).translate(_STEPS, _OTHERS)
    if len(brackets) > 2 * most_parts:
        raise InvalidJSON(f"The body has more than {most_parts} objects and arrays.")
    if max(accumulate(memoryview(brackets).cast("b"))) > most_deep:
        raise InvalidJSON(f"The body is nested deeper than {most_deep} levels.")


def members_of(text: bytes | Raw) -> dict[str, Raw]:
    """The members of an object; of those with one name the last."""
    return _members.decode(text)


def has_doubled_name(text: bytes | Raw) -> bool:
    """Whether an object has a name twice; what is within its members is not looked at.

    Each member brings a colon, and those of its name and value: colons beyond these are of a member that was dropped.
    """
    members = members_of(text)
    values = b"".join(map(bytes, members.values()))
    return bytes(text).count(b":") > len(members) + "".join(members).count(":") + values.count(b":")
