"""Every "no" that Forebay says: its status, type, code, and what the caller should do about it.

    Refusal
    ├── BadRequest 400          the request itself is wrong
    │   ├── InvalidJSON             body is not the JSON object it must be
    │   ├── InvalidHeader           a header is malformed, doubled or not supported
    │   ├── UnsupportedMediaURL     a picture's, sound's or film's address that engines may not fetch
    │   ├── ContextTooLong          prompt and answer do not fit the model
    │   └── Unprocessable 422       what the request refers to cannot be taken in
    ├── Unauthorized 401        no key, or not one of ours
    ├── Forbidden 403           a key that does not open this
    ├── NotFound 404            no such path
    │   └── ModelNotFound           no such model, or not for this key
    ├── MethodNotAllowed 405    the path exists, the method does not
    ├── RequestTimeout 408      the request did not arrive in time
    ├── BodyTooLarge 413        ├── URLTooLong 414   ├── UnsupportedMediaType 415   └── HeadersTooLarge 431
    ├── RateLimited 429         more than this caller may
    │   ├── TokensLimited           the same, of tokens
    │   └── InsufficientQuota       the day's or the month's tokens are used up
    ├── InternalError 500       our bug
    ├── BadGateway 502          the engine answered with something that is no answer
    ├── Unavailable 503         not now
    │   ├── Overloaded              too much at once
    │   ├── EngineUnavailable       no engine is ready for this model
    │   └── Draining                this gateway is about to stop
    └── UpstreamTimeout 504     the engine took too long

Status, type and code follow what the official OpenAI clients act on: they retry 408, 409, 429 and every status from
500 up, unless `x-should-retry: false` says otherwise, and give up where `retry-after` exceeds a minute.
`gateway/errors.py` turns a refusal into bytes; nothing else does. A code that no class here declares is never sent:
`docs/reference/errors.md` is made from this file, and a test looks for others.
"""

from collections.abc import Mapping
from typing import Any, ClassVar


class Refusal(Exception):
    """A request is answered with an error. The message is shown to the caller: what was wrong and what to do.

    `retry_after_s` is sent as `retry-after` (1 to 60 s); `should_retry` as `x-should-retry` where it is not None;
    `close` ends the connection after the answer, because what follows on it cannot be trusted or is not wanted;
    `spread` has each caller wait up to twice as long, at random, so that not all come back at once.
    `also` are more precise codes that a class may be given, and what each says. `facts` are figures behind it, for who
    asks why (`forebay why ID`): ours alone, nothing that a caller or an engine wrote.
    """

    status = 500
    type = "server_error"
    code = "internal_error"
    also: ClassVar[dict[str, str]] = {}
    should_retry: bool | None = None
    close = False
    spread = False
    facts: Mapping[str, Any] | None = None

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
        should_retry: bool | None = None,
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or type(self).code
        self.retry_after_s = retry_after_s
        if should_retry is not None:
            self.should_retry = should_retry
        self.headers = headers

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.status} {self.code}: {self.message}>"


class BadRequest(Refusal):
    """The request itself is wrong; the message and `param` say what to change."""

    status, type, code = 400, "invalid_request_error", "invalid_value"


class InvalidJSON(BadRequest):
    """The body is not the JSON object it must be."""

    code = "invalid_json"


class InvalidHeader(BadRequest):
    """The request line or a header is malformed, doubled or not supported; the connection closes."""

    code = "invalid_header"
    also: ClassVar = {
        "invalid_http": "The request is not HTTP/1.1 or 1.0 as it must be written; the connection closes.",
        "invalid_host": "The Host header is missing, or neither a name nor an address; the connection closes.",
        "invalid_url": "The request target is no path that starts with '/'; the connection closes.",
    }
    close = True


class Unprocessable(BadRequest):
    """The engine could not take in what the request refers to, such as an image's address; the message says why."""

    status = 422


class UnsupportedMediaURL(BadRequest):
    """The engine would have to fetch this address, which is not allowed; send the content as a `data:` URL."""

    code = "unsupported_media_url"


class ContextTooLong(BadRequest):
    """Prompt and answer together do not fit the model's context; shorten either."""

    code = "context_length_exceeded"


class Unauthorized(Refusal):
    """No key, or not one of this service's; send `Authorization: Bearer <key>` or `x-api-key`."""

    status, type, code = 401, "invalid_request_error", "invalid_api_key"
    also: ClassVar = {"invalid_token": "The token (JWT) presented is not valid; the message says why."}


class Forbidden(Refusal):
    """The key is valid and does not open this: it lacks the scope that the message names."""

    status, type, code = 403, "permission_error", "missing_scope"


class NotFound(Refusal):
    """There is no such path, or the engine does not know what was asked for."""

    status, type, code = 404, "invalid_request_error", "not_found"
    also: ClassVar = {
        "response_not_found": "There is no such stored response for this key.",
        "key_not_found": "There is no API key with this id.",
        "conversation_not_found": "There is no conversation with this id, or not any more.",
        "file_not_found": "There is no file with this id for this key.",
        "batch_not_found": "There is no batch with this id for this key.",
        "request_not_found": "No story of such a request is kept, or not any more.",
        "no_database": "Files and batches are kept in a database, and this gateway has none.",
    }


class ModelNotFound(NotFound):
    """There is no such model for this key; GET /v1/models lists those there are."""

    code = "model_not_found"


class MethodNotAllowed(Refusal):
    """The path exists, the method does not; `allow` names the right one."""

    status, type, code = 405, "invalid_request_error", "method_not_allowed"


class Conflict(Refusal):
    """It cannot be done while something else is under way."""

    status, type, code = 409, "conflict_error", "conflict"
    also: ClassVar[dict[str, str]] = {
        "rollout_running": "A rollout is under way; wait for its end.",
        "key_revoked": "The API key has been revoked, which is for good; make another one.",
        "conversation_busy": "Too many posts to the conversation wait already, or this one waited for too long; try "
        "again.",
        "conversation_full": "The conversation has as many messages as it may; begin another one.",
        "conversation_lost": "The gateway was away for so long that another post took this one's turn; nothing was "
        "stored, and the post can be repeated.",
        "too_many_conversations": "There are as many conversations as one tenant may have; delete some.",
        "file_in_use": "A batch that is not over reads the file; cancel that or wait for its end.",
        "batch_over": "The batch is over and cannot be cancelled any more.",
    }


class RequestTimeout(Refusal):
    """The request did not arrive in time; the connection closes."""

    status, type, code = 408, "timeout_error", "request_timeout"
    should_retry = False
    close = True


class BodyTooLarge(Refusal):
    """The body exceeds `max_body_bytes`, a file `max_file_bytes`; the connection closes."""

    status, type, code = 413, "invalid_request_error", "request_too_large"
    also: ClassVar = {"no_room": "This tenant's files would exceed `max_tenant_file_bytes`; delete some."}
    close = True


class URLTooLong(Refusal):
    """The request target exceeds `max_url_bytes`; the connection closes."""

    status, type, code = 414, "invalid_request_error", "url_too_long"
    close = True


class UnsupportedMediaType(Refusal):
    """The body must be JSON, a file's `multipart/form-data`; uncompressed, in UTF-8."""

    status, type, code = 415, "invalid_request_error", "unsupported_media_type"


class HeadersTooLarge(Refusal):
    """The headers exceed `max_header_bytes` or `max_headers`; the connection closes."""

    status, type, code = 431, "invalid_request_error", "headers_too_large"
    close = True


class RateLimited(Refusal):
    """More requests in a minute, or at once, than this caller may make; try again after `retry-after` seconds."""

    status, type, code = 429, "requests", "rate_limit_exceeded"
    limit: tuple[str, str] | None = None  # which, and whose: as metrics name them
    also: ClassVar[dict[str, str]] = {
        "too_many_invalid_keys": "Too many keys that are nobody's came from this address within a minute; a valid one "
        "works all the same.",
        "too_many_structured_requests": "As many of this tenant's requests as may that need a schema, a pattern or a "
        "grammar compiled are under way; wait for one's end.",
        "too_many_batches": "As many of this tenant's batches as may are not over; wait for one's end.",
    }


class TokensLimited(RateLimited):
    """More tokens in a minute than this caller may use; try again after `retry-after` seconds."""

    type = "tokens"


class InsufficientQuota(RateLimited):
    """The tokens of this day or month (UTC) are used up; a retry does not help before the next one."""

    type, code = "insufficient_quota", "insufficient_quota"
    should_retry = False


class InternalError(Refusal):
    """Forebay failed on this request; its log says why."""

    status, type, code = 500, "server_error", "internal_error"


class BadGateway(Refusal):
    """The engine answered with something that is no answer; try again."""

    status, type, code = 502, "server_error", "upstream_invalid_response"
    also: ClassVar = {"engine_aborted": "The engine gave the request up midway; try again."}


class Unavailable(Refusal):
    """Not now; try again after `retry-after` seconds."""

    status, type, code = 503, "service_unavailable_error", "service_unavailable"
    spread = True
    also: ClassVar[dict[str, str]] = {
        "engine_error": "The engine failed on this request; its log says why.",
        "keys_unavailable": "Who the caller is cannot be found out just now: the keys' database, or the tokens' key "
        "set, cannot be reached.",
        "files_unavailable": "The directory of files cannot be written or read just now: its disk may be full; the log "
        "says why.",
        "database_unavailable": "The database of usage, the audit log, conversations, files and batches cannot be "
        "reached just now.",
    }


class Overloaded(Unavailable):
    """As much is under way as is allowed; try again after `retry-after` seconds."""

    code = "server_is_overloaded"


class EngineUnavailable(Unavailable):
    """No engine is ready for this model, or the one that worked on the request stopped; try again."""

    code = "engine_unavailable"


class Draining(Unavailable):
    """This gateway is about to stop; another one will answer."""

    code = "draining"


class UpstreamTimeout(Refusal):
    """The engine took too long; after the first token a retry would repeat work, so clients are told not to."""

    status, type, code = 504, "timeout_error", "upstream_timeout"
