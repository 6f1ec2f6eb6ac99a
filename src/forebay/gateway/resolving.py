"""What a request's body resolves to: a model, bytes for its engine, and where one engine alone will do, which.

`resolve` is the pipeline's step between who is calling and what they may have. It parses the body, finds the model that
is meant and whether the caller may use it, refuses what surely does not fit, fills in a preset, and says what the
engine is sent. It waits for nothing, takes nothing that `finish` would have to give back, and is called in a thread for
a large body.
"""

from forebay.gateway.exchange import Exchange
from forebay.policy.affinity import affinity_of
from forebay.policy.ownership import Ownership
from forebay.policy.presets import Presets, split_model
from forebay.policy.routing import Routing
from forebay.policy.salts import Salts
from forebay.refusals import BadRequest, EngineUnavailable, ModelNotFound, NotFound
from forebay.replicas.pool import UNBOUNDED, ReplicaPool, no_such_model
from forebay.replicas.replica import Replica
from forebay.wire.body import BodyLimits, body_for_engine, most_tokens, prompt_tokens, read_demand, work_tokens
from forebay.wire.length import check_length
from forebay.wire.resume import MOST_BYTES_WITH_IDS

PRESET_HEADER = b"x-forebay-preset"


class Resolving:
    """All but the replicas and who owns which response may be swapped while requests run."""

    def __init__(
        self,
        replicas: ReplicaPool,
        body_limits: BodyLimits,
        presets: Presets,
        salts: Salts | None,
        default_max_tokens: int,
    ) -> None:
        self.body_limits = body_limits
        self.presets = presets
        self.salts = salts
        self.default_max_tokens = default_max_tokens
        self.ownership = Ownership()
        self._replicas = replicas

    def resolve(self, exchange: Exchange, routing: Routing) -> tuple[bytes, Replica | None]:
        """What goes to the engine; and the one replica that it must go to, if so. Raises `Refusal`."""
        route = exchange.route
        demand = exchange.demand = read_demand(exchange.body, self.body_limits)
        if demand.model is None and route.model_required:
            raise BadRequest("Name a model in 'model'; GET /v1/models lists them.", param="model")
        asked = demand.model
        model, said, preset = self.meant_by(asked)
        if preset is not None:
            demand.model, demand.preset = said, demand.preset or preset
        principal = exchange.principal
        assert principal is not None
        if principal.models is not None and not principal.may_use(model, said):
            raise no_such_model(asked)
        exchange.model = model
        context = self._replicas.longest.get(model, UNBOUNDED)
        if ((demand.max_tokens or 0) > context or demand.prompt_ids > context) and route.bounds:
            check_length(exchange.body, demand.prompt_ids if route.prompt == "prompt" else 0, context, route.bounds)
        if demand.preset is not None or PRESET_HEADER in exchange.headers:
            name = (
                exchange.headers.get(PRESET_HEADER, b"").decode("latin-1") if demand.preset is None else demand.preset
            )
            exchange.body = self.presets.fill(exchange.body, name, route.sampling, demand.model)
        only = None
        if demand.previous_response_id is not None:
            only = self._holder(exchange, demand.previous_response_id)
        work = work_tokens if route.generates else prompt_tokens
        exchange.work_tokens = work(demand, len(exchange.body))
        if only is None and routing.wants_affinity(self._replicas.groups(model)):
            exchange.affinity = affinity_of(
                principal,
                exchange.headers.get(b"x-session-id"),
                exchange.body if route.generates else b"",
            )
        ask_usage = demand.stream and route.usage_on_request and not demand.wants_usage
        ask_ids = False
        if demand.resumable and route.resumable:
            exchange.resumable = True
            ask_ids = len(exchange.body) <= MOST_BYTES_WITH_IDS
        salt = self.salts.member_of(principal.tenant) if self.salts is not None and route.generates else b""
        return body_for_engine(exchange.body, demand, model, ask_usage=ask_usage, ask_ids=ask_ids, salt=salt), only

    def stored_response(self, exchange: Exchange, response_id: str) -> tuple[bytes, Replica | None]:
        """The same where the path names a stored response: no body, and the one replica that holds it."""
        return b"", self._holder(exchange, response_id)

    def meant_by(self, name: str | None) -> tuple[str, str | None, str | None]:
        """The model that is meant, its name as it was said, and the preset behind that. Raises `ModelNotFound`."""
        try:
            return self._replicas.resolve(name), name, None
        except ModelNotFound:
            if (parts := split_model(name)) is None:
                raise
        try:
            return self._replicas.resolve(parts[0]), *parts
        except ModelNotFound:
            raise no_such_model(name) from None

    def tokens_at_most(self, exchange: Exchange) -> int:
        """About how many tokens limits have to reserve; 0 for what no engine's core works on."""
        route, demand = exchange.route, exchange.demand
        if demand is None or not route.generates:
            return 0
        if not route.stream_ends:
            return prompt_tokens(demand, len(exchange.body))
        return most_tokens(demand, len(exchange.body), self.default_max_tokens)

    def _holder(self, exchange: Exchange, response_id: str) -> Replica:
        assert exchange.principal is not None
        name = self.ownership.replica_of(response_id, exchange.principal.tenant)
        replica = self._replicas.named(name) if name is not None else None
        if replica is None:
            raise NotFound(f"There is no response {response_id[:128]!r}.", code="response_not_found")
        if replica.draining:
            raise EngineUnavailable("The engine that holds this response is leaving.", retry_after_s=5)
        return replica
