"""What tokens cost. In decimals, because money is."""

from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from forebay.policy.usage import Counts

_MILLION = Decimal(1_000_000)
Rate = Annotated[Decimal, Field(ge=0, le=1_000_000, max_digits=18, decimal_places=9, allow_inf_nan=False)]


class Price(BaseModel):
    """What a million tokens of a model cost; cached ones of prompts as all others where that is not said."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    prompt: Rate
    completion: Rate
    cached_prompt: Rate | None = None


def cost(counts: "Counts", price: Price) -> Decimal:
    """What it costs, exactly."""
    cached_price = price.cached_prompt if price.cached_prompt is not None else price.prompt
    fresh = max(counts.prompt_tokens - counts.cached_tokens, 0)  # Anthropic's prompt count has the cached ones apart
    millions = fresh * price.prompt + counts.cached_tokens * cached_price + counts.completion_tokens * price.completion
    return millions / _MILLION


def cost_of(models: "Mapping[str, Counts]", prices: Mapping[str, Price]) -> Decimal | None:
    """What the use of several models costs together; None where none of them has a price."""
    priced = [cost(counts, prices[model]) for model, counts in models.items() if model in prices]
    return sum(priced, Decimal(0)) if priced else None
