"""What must not be in a log line, taken out on its way there: secrets, and the texts of errors that a request caused.

Three nets, one behind the other. The secrets that this process was given are known, and are not told wherever they
stand. What looks like a secret (a key, a token, a password in a URL, a private key) is not told either; nor is what
stands after a name such as `password` or `api_key`, or in a field of that name.
"""

import os
import re
import traceback
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, SecretStr

HIDDEN = "***"
SHORTEST = 6  # a shorter secret stands in many words
VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "VLLM_API_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
WITHHELD = "(its text is not shown: it may repeat what the request says)"
MOST_CAUSES = 10

_NAME = (
    r"(?:[\w-]{0,40}[_-])?(?:(?:api|secret|access|private|auth|signing)[_-]?keys?|token"
    r"|passw(?:or)?ds?|passphrase|secrets?|credentials?|(?:proxy-)?authorization|(?:set-)?cookie)"
)
_QUOTED = r"\"(?:[^\"\\]|\\.)*\"?|'(?:[^'\\]|\\.)*'?|\[[^\]]*\]?|(?:Bearer|Basic|Digest)\s+\S+"
_WORD = r"[^\s,;&}\])]+"
_LAST = r"(?=[\s\"']*(?:[,;&}\])\n]|$))"  # else it is a sentence: "api_keys: there is none"
_VALUE = rf"(?:{_QUOTED}|{_WORD})"
_AFTER_COLON = rf"(?:{_QUOTED}|(?=\S{{0,200}}[\d_/+=]){_WORD}|{_WORD}{_LAST})"
_SECRET_FIELD = re.compile(_NAME, re.IGNORECASE)
_NAMED = re.compile(
    rf"(?<![\w-])((?:--?)?{_NAME}[\"']?\s*(?:=\s*(?!None\b|null\b|\*\*\*)|:\s*(?!None\b|null\b|\*\*\*)(?={_AFTER_COLON}))){_VALUE}",
    re.IGNORECASE,
)
_OPTION = re.compile(rf"(?<![\w-])(--?{_NAME}[\"']?,?\s+){_VALUE}", re.IGNORECASE)
_SHAPES = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|\beyJ[\w-]{6,}\.[\w-]{4,}(?:\.[\w-]*)?"  # a JWT
    r"|\bfb-\w+-[\w-]{20,}"  # a key of our database
    r"|\b(?:sk|rk|pk)-[\w-]{8,}"
    r"|\bhf_\w{8,}"
    r"|\bgh[pousr]_\w{20,}|\bgithub_pat_\w{20,}|\bglpat-[\w-]{16,}|\bxox[abprs]-[\w-]{10,}"
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    re.DOTALL,
)
_HEADER = re.compile(r"((?:\bset-cookie|\bcookie|\b(?:proxy-)?authorization)[\"']?\s*:)[^\n]*", re.IGNORECASE)
_BEARER = re.compile(r"\b(Bearer|Basic)\s+[\w.~+/=-]{12,}", re.IGNORECASE)
_USERINFO = re.compile(r"(?<=://)[^/@\s\"'<>]*@")
_HINTS = re.compile(  # found fast, in nearly no line
    r"key|token|passw|passphrase|secret|credential|authoriz|cookie|bearer|basic|BEGIN|eyJ|fb-|[srp]k-|hf_|gh|glpat|xox|A[KS]IA|://",
    re.IGNORECASE,
)


class Redactor:
    """Takes out what must not be told; it may learn of more secrets at any time."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._known: tuple[str, ...] = ()
        self.learn(secrets)

    def learn(self, secrets: Iterable[str]) -> None:
        """Tell these no longer. What was learned before is not forgotten: it may still be used somewhere."""
        known = {*self._known, *(one for one in secrets if len(one) >= SHORTEST)}
        self._known = tuple(sorted(known, key=len, reverse=True))

    def text(self, text: str) -> str:
        for secret in self._known:
            if secret in text:
                text = text.replace(secret, HIDDEN)
        return without_shapes(text) if _HINTS.search(text) else text

    def field(self, name: str, value: Any) -> Any:
        """A field's value as it may be told."""
        if isinstance(value, bool | int | float) or value is None:
            return value
        if _SECRET_FIELD.fullmatch(name):
            return HIDDEN
        if isinstance(value, Mapping):
            return {self.text(str(key)): self.field(str(key), one) for key, one in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self.field("", one) for one in value]
        return self.text(str(value))


def without_shapes(text: str) -> str:
    """The text less what looks like a secret."""
    text = _SHAPES.sub(HIDDEN, text)
    text = _HEADER.sub(rf"\1 {HIDDEN}", text)
    text = _USERINFO.sub(f"{HIDDEN}@", text)
    text = _NAMED.sub(rf"\1{HIDDEN}", text)
    text = _OPTION.sub(rf"\1{HIDDEN}", text)
    return _BEARER.sub(rf"\1 {HIDDEN}", text)


def secrets_of(settings: BaseModel, env: Mapping[str, str] = os.environ) -> list[str]:
    """The secrets that a process was given."""
    return [*_secrets_in(settings), *(env[name] for name in VARIABLES if env.get(name))]


def _secrets_in(value: Any) -> Iterator[str]:
    if isinstance(value, SecretStr):
        yield value.get_secret_value()
        yield from _password(value.get_secret_value())
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _secrets_in(getattr(value, name))
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield from _secrets_in(key)
            yield from _secrets_in(one)
    elif isinstance(value, tuple | list):
        for one in value:
            yield from _secrets_in(one)
    elif isinstance(value, str):
        yield from _password(value)


def _password(url: str) -> Iterator[str]:
    """The password in a URL, as it is written and as it is meant."""
    if "://" in url and "@" in url:
        try:
            password = urlsplit(url).password
        except ValueError:
            return
        if password:
            yield password
            yield unquote(password)


def places_of(error: BaseException) -> str:
    """An exception without its text: what it is, and where it was raised; those that it came of as well."""
    told: list[str] = []
    one: BaseException | None = error
    while one is not None and len(told) < MOST_CAUSES:
        kind = f"{type(one).__module__}.{type(one).__qualname__}"
        told.append("".join(traceback.format_tb(one.__traceback__)) + f"{kind}: {WITHHELD}")
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
    return "\n\nwhich came of:\n".join(told)
