"""Asking a running gateway from the command line: one blocking call at a time, its answer whole or event by event.

A stream is read as it comes. Whoever leaves it early, by Ctrl-C too, closes the connection, and so the gateway has the
engine stop. A redirect is not followed: the key is for the gateway that was named, and nobody else.
"""

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from forebay.wire.sse import EventSplitter, EventTooLarge, data_of, events_in

MAX_EVENT_BYTES = 4 * 1024 * 1024
MAX_ANSWER_BYTES = 64 * 1024 * 1024
_BLOCK_BYTES = 64 * 1024
_WHAT_TO_DO = {
    401: "set FOREBAY_API_KEY to a key that this gateway knows",
    403: "use a key that may do this",
}


class NoAnswer(Exception):
    """There is no answer, or not a whole one; the message says why and what to do, on one line."""


class NotAsked(ValueError):
    """A URL or a key with which nothing can be asked."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


@dataclass(frozen=True)
class Caller:
    """Who asks: where the gateway is, the key, and the longest pause in an answer. Raises `NotAsked`."""

    url: str
    key: str | None
    timeout_s: float

    @classmethod
    def of(cls, url: str, key: str | None, timeout_s: float) -> "Caller":
        """Read `http://host:port`, `https://…` or `host:port`; a `/v1` at the end is dropped."""
        parts = _split(url if "://" in url else f"http://{url}")
        if key is not None and not is_key(key):
            raise NotAsked("key: has characters that no key has")
        path = parts.path.rstrip("/").removesuffix("/v1")
        return cls(f"{parts.scheme}://{parts.netloc}{path}", key, timeout_s)

    def get(self, path: str) -> bytes:
        """What the gateway answers. Raises `NoAnswer`."""
        with self._asked(path) as answer:
            return _whole(answer)

    def get_json(self, path: str) -> dict[str, Any]:
        return _object(self.get(path))

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """What the gateway answers to a JSON body. Raises `NoAnswer`."""
        with self._asked(path, body) as answer:
            return _object(_whole(answer))

    def events(self, path: str, body: Mapping[str, Any]) -> Generator[dict[str, Any], None, None]:
        """The events of a streamed answer, each as soon as it is whole. Raises `NoAnswer`, for half an answer too."""
        splitter = EventSplitter(MAX_EVENT_BYTES)
        with self._asked(path, {**body, "stream": True}) as answer:
            while block := answer.read1(_BLOCK_BYTES):
                for event in events_in(splitter.push(block)):
                    data = data_of(event)
                    if data == b"[DONE]":
                        return
                    if data:
                        yield _event(data)
        raise NoAnswer("the answer was cut off; ask again")

    def date(self) -> str | None:
        """The time as the other side has it, in HTTP's form, whatever it answers. Raises `NoAnswer`."""
        try:
            with _OPENER.open(self.url + "/health", timeout=self.timeout_s) as answer:
                return str(answer.headers["date"] or "") or None
        except urllib.error.HTTPError as refused:
            with refused:
                return str(refused.headers["date"] or "") or None
        except (OSError, http.client.HTTPException) as failure:
            raise NoAnswer(str(failure)) from None

    def models(self) -> list[str]:
        """The models that the key may use, the gateway's first one first. Raises `NoAnswer`."""
        cards = self.get_json("/v1/models").get("data")
        try:
            return [str(card["id"]) for card in cards or ()]
        except (TypeError, KeyError):
            raise NoAnswer(f"{self.url} is no OpenAI-compatible endpoint: its /v1/models lists no models") from None

    @contextmanager
    def _asked(self, path: str, body: Mapping[str, Any] | None = None) -> Iterator[http.client.HTTPResponse]:
        headers = {"accept": "*/*", "user-agent": "forebay"}
        headers |= {"authorization": f"Bearer {self.key}"} if self.key is not None else {}
        headers |= {"content-type": "application/json"} if body is not None else {}
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(self.url + path, data, headers)  # noqa: S310
        try:
            with _OPENER.open(request, timeout=self.timeout_s) as answer:
                yield answer
        except urllib.error.HTTPError as refused:
            with refused:
                raise NoAnswer(_refusal(refused)) from None
        except TimeoutError:
            raise NoAnswer(f"{self.url} says nothing for {self.timeout_s:g} s") from None
        except urllib.error.URLError as failure:
            raise NoAnswer(f"no answer from {self.url}: {_reason(failure)}; is a gateway running there?") from None
        except (OSError, http.client.HTTPException) as failure:
            raise NoAnswer(f"the connection to {self.url} broke ({type(failure).__name__}); ask again") from None
        except EventTooLarge as failure:
            raise NoAnswer(f"{self.url} sent no answer that can be read: {failure}") from None


def is_key(text: str) -> bool:
    """Whether a header can carry it."""
    return text.isascii() and text.isprintable() and " " not in text


def _split(url: str) -> Any:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as wrong:
        raise NotAsked(f"url: {wrong}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.username is not None:
        raise NotAsked("url: not http://host:port or https://host:port")
    return parts


def _whole(answer: http.client.HTTPResponse) -> bytes:
    body = answer.read(MAX_ANSWER_BYTES + 1)
    if len(body) > MAX_ANSWER_BYTES:
        raise NoAnswer(f"the answer is larger than {MAX_ANSWER_BYTES} bytes")
    return body


def _object(text: bytes) -> dict[str, Any]:
    try:
        told = json.loads(text)
    except ValueError:
        told = None
    if not isinstance(told, dict):
        raise NoAnswer("the answer is no JSON object; is there a gateway at this URL?")
    return told


def _event(data: bytes) -> dict[str, Any]:
    event = _object(data)
    if error := event.get("error"):
        words = error.get("message") if isinstance(error, dict) else error
        raise NoAnswer(f"the answer failed: {words}")
    return event


def _refusal(refused: urllib.error.HTTPError) -> str:
    """What a refusal says, and what to do."""
    try:
        error = json.loads(refused.read(_BLOCK_BYTES))["error"]
        said = f"{error['message']} ({refused.code} {error['code']})"
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        said = f"answered with status {refused.code}"
    what_to_do = _WHAT_TO_DO.get(refused.code)
    if refused.code in (429, 503) and (seconds := refused.headers.get("retry-after")):
        what_to_do = f"try again in {seconds} s"
    return f"{said}; {what_to_do}" if what_to_do else said


def _reason(failure: urllib.error.URLError) -> str:
    reason = failure.reason
    return reason.strerror or str(reason) if isinstance(reason, OSError) else str(reason)
