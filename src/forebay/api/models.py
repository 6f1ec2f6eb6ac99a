"""The models that callers may name, in OpenAI's form; answered by the gateway itself."""

from typing import Any

from fastapi import APIRouter, Request

from forebay.refusals import ModelNotFound

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("", summary="List models")
async def list_models(request: Request) -> dict[str, Any]:
    """All models with a replica, and the aliases that lead to one."""
    return {"object": "list", "data": request.app.state.gateway.replicas.model_cards()}


@router.get("/{model:path}", summary="One model")
async def get_model(model: str, request: Request) -> dict[str, Any]:
    """One model by its name or alias."""
    cards: list[dict[str, Any]] = request.app.state.gateway.replicas.model_cards()
    for card in cards:
        if card["id"] == model:
            return card
    raise ModelNotFound(f"The model {model[:128]!r} does not exist; GET /v1/models lists those that do.", param="model")
