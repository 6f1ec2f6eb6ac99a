"""What a gateway says of itself: whether it is ready, and what operators want to know at a glance."""

from typing import TYPE_CHECKING, Any

from forebay import __version__
from forebay.replicas.replica import Replica

if TYPE_CHECKING:
    from forebay.gateway.build import Gateway


def readiness_of(gateway: "Gateway") -> tuple[bool, str]:
    """Whether requests would be served, and if not, why."""
    if gateway.pipeline.draining:
        return False, "draining: this gateway is about to stop"
    if gateway.replicas.ready or gateway.replicas.standby:
        return True, ""
    reasons = [f"{one.name}: {'leaving' if one.draining else one.why}" for one in gateway.replicas]
    return False, f"no engine is ready ({'; '.join([*reasons, *gateway.membership.missing()])})"


def status_of(gateway: "Gateway") -> dict[str, Any]:
    """What operators want to know at a glance."""
    ready, _ = readiness_of(gateway)
    return {
        "status": "draining" if gateway.pipeline.draining else "ok" if ready else "degraded",
        "version": __version__,
        "ready": ready,
        "model_loaded": gateway.replicas.ready,
        "models": [card["id"] for card in gateway.replicas.model_cards()],
        "engines": [engine.describe() for engine in gateway.engines],
        **({"rollout": gateway.rollout.describe()} if gateway.rollout is not None else {}),
        "replicas": [seen(replica) for replica in gateway.replicas],
        "cache": gateway.caching.describe(),
        **({"config": gateway.reloading.describe()} if gateway.reloading is not None else {}),
        "queues": [
            {"model": one.model, "running": one.running, "limit": one.limit, "queued": one.queue.size}
            for one in gateway.pipeline.admission.lines.values()
        ],
        "active_requests": len(gateway.pipeline.running),
        "total_requests": gateway.recorder.answered,
        "connections": len(gateway.connections),
    }


def seen(replica: Replica) -> dict[str, Any]:
    """One replica at a glance."""
    return {
        "name": replica.name,
        "group": replica.group,
        "ready": replica.ready,
        "draining": replica.draining,
        "in_flight": replica.in_flight,
        "load_tokens": replica.load,
        "breaker": replica.breaker.state.value,
        "models": list(replica.models),
        "why": replica.why,
    }
