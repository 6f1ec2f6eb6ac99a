"""All replicas, and which of them serve a model.

The lists and groups of a model stay the same objects until `refresh` finds other members: routing's rings and turns
hang on that. Replicas that leave stay until they have finished what they have; routing passes them by.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from forebay.policy.routing import DEFAULT_WEIGHT, Group
from forebay.refusals import EngineUnavailable, ModelNotFound
from forebay.replicas.replica import Replica

ONLY_MODEL = "*"
UNBOUNDED = 10**15


class ReplicaPool:
    """Resolves names that callers use to models, and models to the replicas that serve them."""

    def __init__(
        self,
        replicas: Iterable[Replica],
        aliases: dict[str, str],
        weights: Mapping[str, int] | None = None,
        standby: Iterable[str] = (),
    ) -> None:
        self.replicas = list(replicas)
        self.standby = tuple(dict.fromkeys(standby))  # models that are known without an engine
        self.weights = dict(weights or {})  # of groups; whoever changes them calls `refresh`
        self._aliases = aliases
        self._by_model: dict[str, list[Replica]] = {}
        self._groups: dict[str, tuple[Group[Replica], ...]] = {}
        self.longest: dict[str, int] = {}  # tokens that the engine of a model with the most room for them takes
        self._created = int(time.time())
        self.refresh()

    def __repr__(self) -> str:
        ready = sum(replica.ready for replica in self.replicas)
        return f"<ReplicaPool {ready}/{len(self.replicas)} ready, models={list(self._by_model)}>"

    def __iter__(self) -> Iterator[Replica]:
        return iter(self.replicas)

    @property
    def ready(self) -> bool:
        return any(replica.ready and not replica.draining for replica in self.replicas)

    def add(self, replica: Replica) -> None:
        self.replicas.append(replica)
        self.refresh()

    def remove(self, replica: Replica) -> None:
        self.replicas.remove(replica)
        self.refresh()

    def rename(self, aliases: dict[str, str], weights: Mapping[str, int]) -> None:
        """Take other names for models and other weights of groups."""
        self._aliases = aliases
        self.weights.clear()
        self.weights.update(weights)
        self.refresh()

    def refresh(self) -> None:
        """Take in that the replicas, their models or their groups, or the groups' weights have changed."""
        by_model: dict[str, list[Replica]] = {}
        for replica in self.replicas:
            for model in replica.models:
                by_model.setdefault(model, []).append(replica)
        for model, replicas in by_model.items():
            if replicas == self._by_model.get(model):
                by_model[model] = self._by_model[model]
        self._by_model = by_model
        self._groups = {model: self._grouped(model, replicas) for model, replicas in by_model.items()}
        self.longest = {model: _longest(model, replicas) for model, replicas in by_model.items()}

    def _grouped(self, model: str, replicas: list[Replica]) -> tuple[Group[Replica], ...]:
        members: dict[str, list[Replica]] = {}
        for replica in replicas:
            members.setdefault(replica.group, []).append(replica)
        known = {group.name: group for group in self._groups.get(model, ())}
        groups = []
        for name, alike in members.items():
            group = known.get(name)
            if group is None or group.replicas != alike:
                group = Group(alike, name)
            group.weight = self.weights.get(name, DEFAULT_WEIGHT)
            groups.append(group)
        return tuple(groups)

    def resolve(self, name: str | None) -> str:
        """The model meant by a name, an alias, or (None) by nobody's naming one. Raises `ModelNotFound`."""
        if name in self._by_model:
            return name
        known = {*self._by_model, *self.standby}
        if name in known:
            return name
        wanted = ONLY_MODEL if name is None else self._aliases.get(name)
        if wanted == ONLY_MODEL and len(known) == 1:
            return known.pop()
        if wanted in known:
            return wanted
        if not self._by_model:
            raise EngineUnavailable("No engine is ready yet. Try again shortly.", retry_after_s=5)
        raise no_such_model(name)

    def serving(self, model: str) -> list[Replica]:
        """The replicas that serve a model, ready or not."""
        return self._by_model.get(model, [])

    def capacity(self, model: str) -> int:
        """How many requests the engines of a model may have at once; those that leave, what they still have."""
        serving = self.serving(model)
        if not any(replica.ready and not replica.draining for replica in serving):
            return 0
        return sum(one.in_flight if one.draining else one.concurrency for one in serving if one.ready or one.draining)

    def context_tokens(self, model: str) -> int | None:
        """The model's context length, where an engine has told it."""
        told = [replica.models[model].get("max_model_len") for replica in self.serving(model)]
        return next((length for length in told if length is not None), None)

    def groups(self, model: str) -> tuple[Group[Replica], ...]:
        """The same replicas, those of a version together; one group is the usual."""
        return self._groups.get(model, ())

    def named(self, name: str) -> Replica | None:
        return next((replica for replica in self.replicas if replica.name == name), None)

    def model_cards(self) -> list[dict[str, Any]]:
        """OpenAI's model objects of all models, then of the aliases that lead to one."""
        cards = [
            {"object": "model", "created": self._created, "owned_by": "forebay", **replicas[0].models[model]}
            for model, replicas in self._by_model.items()
        ]
        cards += [
            {"id": model, "object": "model", "created": self._created, "owned_by": "forebay"}
            for model in self.standby
            if model not in self._by_model
        ]
        known = {card["id"]: card for card in cards}
        for alias, target in self._aliases.items():
            if target == ONLY_MODEL and len(known) == 1:
                target = next(iter(known))
            if target in known and alias not in known:
                cards.append({**known[target], "id": alias, "root": target})
        return cards


def _longest(model: str, replicas: list[Replica]) -> int:
    told = [replica.models[model].get("max_model_len") for replica in replicas]
    return max((length or UNBOUNDED for length in told), default=UNBOUNDED)


def no_such_model(name: str | None) -> ModelNotFound:
    """What is said of a model that does not exist, and in the same words of one that is not open to a caller."""
    if name is None:
        return ModelNotFound("Name a model in 'model'; GET /v1/models lists them.", param="model")
    return ModelNotFound(
        f"The model {name[:128]!r} does not exist or is not open to you; GET /v1/models lists those that are.",
        param="model",
    )
