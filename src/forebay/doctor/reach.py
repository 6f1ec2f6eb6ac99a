"""Checks of what must be reached: ports to listen on, the database, Redis, engines that run elsewhere, other clocks."""

import errno
import socket
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from forebay.asking import Caller, NoAnswer, NotAsked
from forebay.config.settings import Settings
from forebay.doctor.finding import Finding, ok, warning, wrong
from forebay.listening import listen, url_of

WITHIN_S = 3.0
NO_HOME, SET_HOME = "this user has no home directory", "set FOREBAY_HOME to a directory that lasts"


def check_port(name: str, host: str, port: int, setting: str) -> Finding:
    """Whether a port is free, or has a Forebay on it already."""
    check = f"port {port} ({name})"
    if port == 0:
        return ok(check, "a free one will be taken")
    try:
        listen(host, port).close()
    except OSError as failure:
        if failure.errno == errno.EADDRINUSE and _forebay_at(host, port):
            return ok(check, "Forebay listens there already")
        told = f"cannot listen on {host}:{port}: {failure.strerror or failure}"
        return wrong(check, told, _fix_of(failure.errno, port, setting))
    return ok(check, f"free on {host}")


def _fix_of(number: int | None, port: int, setting: str) -> str:
    if number == errno.EADDRINUSE:
        return f"set {setting} to another, or end what has it (ss -ltnp 'sport = :{port}')"
    if number == errno.EACCES:
        return f"set {setting} to 1024 or more, or give the process CAP_NET_BIND_SERVICE"
    return f"set {setting.replace('port', 'host')} to an address of this machine"


def _forebay_at(host: str, port: int) -> bool:
    there = "127.0.0.1" if host == "0.0.0.0" else "::1" if host == "::" else host  # noqa: S104
    try:
        told = Caller.of(url_of(there, port), None, WITHIN_S).get_json("/health")
    except (NoAnswer, NotAsked):
        return False
    return told.get("status") in ("ok", "degraded", "draining") and "ready" in told


def check_database(settings: Settings) -> Finding:
    """Whether the keys' database can be reached and has the tables of this version."""
    from forebay.store.database import DatabaseError, database_at

    if not settings.uses_database:
        return ok("database", "not used")
    try:
        database = database_at(settings)
    except DatabaseError as failure:
        return wrong("database", str(failure), "set DATABASE_URL to such a URL")
    except RuntimeError:
        return wrong("database", NO_HOME, SET_HOME)
    if database.file is not None and not database.file.exists():
        return ok("database", f"{database.where} will be made at the first start")
    try:
        database.check()
    except DatabaseError as failure:
        told, _, fix = str(failure).partition("; ")
        return wrong("database", told, fix or "start it, or set DATABASE_URL to one that is reached")
    finally:
        database.close()
    return ok("database", f"{database.where} is reached and as it must be")


def check_redis(settings: Settings, now: Callable[[], float] = time.monotonic) -> Finding:
    """Whether Redis or Valkey is reached, in the time that requests give it."""
    from redis import Redis
    from redis.exceptions import RedisError

    if settings.redis_url is None:
        return ok("redis", "not used")
    url = settings.redis_url.get_secret_value()
    url = url.replace("valkey", "redis", 1) if url.startswith("valkey") else url
    client = Redis.from_url(url, socket_timeout=WITHIN_S, socket_connect_timeout=WITHIN_S)
    try:
        client.ping()
        began = now()
        client.ping()
        took_s = now() - began
    except (RedisError, OSError) as failure:
        return wrong("redis", f"is not reached: {_plain(failure)}", "start it, or correct REDIS_URL")
    finally:
        client.close()
    told = f"answers in {took_s * 1000:.1f} ms"
    if took_s > settings.redis_timeout_s:
        fix = "raise redis_timeout_s, or bring it nearer; limits are local ones meanwhile"
        return warning("redis", f"{told}, more than redis_timeout_s allows", fix)
    return ok("redis", told)


def check_upstream(url: str) -> Finding:
    """Whether an engine that runs elsewhere takes connections; those found by a name are left to the gateway."""
    parts = urlsplit(url.partition("#")[0])
    check = f"upstream {parts.scheme}://{parts.netloc}{parts.path}"
    try:
        if parts.scheme == "unix":
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(WITHIN_S)
                sock.connect(parts.path)
        elif parts.scheme in ("http", "https"):
            port = parts.port or (443 if parts.scheme == "https" else 80)
            socket.create_connection((parts.hostname or "", port), WITHIN_S).close()
        else:
            return ok(check, "is looked up when the gateway runs")
    except OSError as failure:
        told = f"takes no connection: {failure.strerror or failure}"
        return warning(check, told, "start the engine, or correct upstream; the gateway waits for it")
    return ok(check, "takes connections")


def skew_s(url: str, wall: Callable[[], float] = time.time) -> float | None:
    """Our clock minus the one of who answers at a URL, seconds; None where that does not tell the time.

    It tells whole seconds, so less than one is none.
    """
    try:
        before = wall()
        date = Caller.of(url, None, WITHIN_S).date()
        ours = (before + wall()) / 2
        theirs = parsedate_to_datetime(date or "").timestamp()
    except (NoAnswer, NotAsked, ValueError, TypeError):
        return None
    skew = ours - theirs
    return 0.0 if 0 <= skew < 1 else skew


def _plain(failure: Exception) -> str:
    """What went wrong, on one line; a URL's password is never in it."""
    return " ".join(str(failure).split())[:200] or type(failure).__name__


def url_for_clock(settings: Settings, url: str | None) -> str | None:
    """Whose clock to compare ours with: who was named, else the first engine with an http URL."""
    schemes = ("http://",) if settings.upstream_ca_file is not None else ("http://", "https://")
    named = (one.partition("#")[0] for one in settings.upstream if one.startswith(schemes))
    return url or next(named, None)
