"""What this process is and does just now, for whoever looks into it (scope `admin`): no secrets, no prompts."""

import asyncio
import gc
import os
import platform
import sys
import threading
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request

from forebay import __version__
from forebay.api.admitted import AdmittedRoute
from forebay.config.shown import shown_command, shown_settings
from forebay.failures import Failure
from forebay.replicas.replica import Replica
from forebay.upstream.questions import read_version

if TYPE_CHECKING:
    from forebay.gateway.build import Gateway

LIBRARIES = (
    *("fastapi", "starlette", "uvicorn", "uvloop", "httptools", "msgspec", "pydantic", "sqlalchemy", "psycopg"),
    *("redis", "prometheus-client", "nvidia-ml-py", "pyjwt", "cryptography", "typer"),
)
ASK_S = 1.0
MOST_TASKS = 200
router = APIRouter(prefix="/debug", tags=["admin"], route_class=AdmittedRoute)


@router.get("/runtime", summary="What this process is and does")
async def runtime(request: Request) -> dict[str, Any]:
    """Versions, settings without secrets, engines' commands, tasks, connections, memory, GPUs, caches and queues."""
    gateway: Gateway = request.app.state.gateway
    return {
        "uptime_s": round(monotonic() - request.app.state.started_at, 3),
        "versions": {**_versions(), "engines": await _engine_versions(gateway)},
        "process": {"pid": os.getpid(), "threads": threading.active_count(), "command": shown_command(sys.orig_argv)},
        "status": gateway.status(),
        "engine_commands": {engine.name: shown_command(engine.command) for engine in gateway.engines},
        "connections": _connections(gateway),
        "caches": _caches(gateway),
        "memory": _memory(),
        "gpus": gateway.gpus.describe(),
        "gc": {
            "enabled": gc.isenabled(),
            "counts": gc.get_count(),
            "frozen": gc.get_freeze_count(),
            "passes": gc.get_stats(),
        },
        "tasks": _tasks(),
        "settings": shown_settings(gateway.settings),
    }


def _versions() -> dict[str, Any]:
    found: dict[str, str | None] = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return {
        "forebay": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "libraries": found,
    }


async def _engine_versions(gateway: "Gateway") -> dict[str, str | None]:
    """What each replica says of itself; null where it does not say within a second."""
    replicas = list(gateway.replicas)
    told = await asyncio.gather(*map(_engine_version, replicas))
    return {replica.name: one for replica, one in zip(replicas, told, strict=True)}


async def _engine_version(replica: Replica) -> str | None:
    try:
        return await read_version(replica.upstream, ASK_S, replica.api_key)
    except Failure:
        return None


def _connections(gateway: "Gateway") -> dict[str, Any]:
    return {
        "clients": len(gateway.connections),
        "engines": {replica.name: replica.upstream.describe() for replica in gateway.replicas},
        "open_files": len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else None,
    }


def _caches(gateway: "Gateway") -> dict[str, Any]:
    return {
        "answers": gateway.caching.describe(),
        "limits": len(gateway.local_limits),
        "keys": len(gateway.keys.known) if gateway.keys is not None else None,
    }


def _memory() -> dict[str, int | None]:
    """Resident now and at its most, bytes, as Linux tells; null elsewhere."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        lines = []
    told = {line.partition(":")[0]: line.split()[1] for line in lines if line.startswith(("VmRSS:", "VmHWM:"))}
    kib = {name: int(told[name]) * 1024 if name in told else None for name in ("VmRSS", "VmHWM")}
    return {"resident_bytes": kib["VmRSS"], "most_resident_bytes": kib["VmHWM"]}


def _tasks() -> dict[str, Any]:
    """The event loop's tasks, and the line that each waits at."""
    tasks = sorted(asyncio.all_tasks(), key=lambda task: task.get_name())
    return {"count": len(tasks), "some": [_task(task) for task in tasks[:MOST_TASKS]]}


def _task(task: "asyncio.Task[Any]") -> dict[str, Any]:
    coroutine = task.get_coro()
    frames = task.get_stack(limit=1)
    where = f"{frames[0].f_code.co_filename}:{frames[0].f_lineno}" if frames else None
    return {"name": task.get_name(), "what": getattr(coroutine, "__qualname__", repr(coroutine)), "where": where}
