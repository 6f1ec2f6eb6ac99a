"""The models that callers may name, in OpenAI's form; answered by the gateway itself."""

from typing import Any

from fastapi import APIRouter, Request

from forebay.policy.auth import Principal
from forebay.replicas.pool import no_such_model

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("", summary="List models")
async def list_models(request: Request) -> dict[str, Any]:
    """All models with a replica, and the aliases that lead to one, as far as the key may use them."""
    return {"object": "list", "data": _open_to(request)}


@router.get("/{model:path}", summary="One model")
async def get_model(model: str, request: Request) -> dict[str, Any]:
    """One model by its name or alias."""
    for card in _open_to(request):
        if card["id"] == model:
            return card
    raise no_such_model(model)


def _open_to(request: Request) -> list[dict[str, Any]]:
    """The cards of what the caller may use, by its own name or by that of the model it leads to."""
    principal: Principal = request.state.principal
    replicas = request.app.state.gateway.replicas
    cards: list[dict[str, Any]] = replicas.model_cards()
    return [card for card in cards if principal.may_use(card["id"], replicas.resolve(card["id"]))]
