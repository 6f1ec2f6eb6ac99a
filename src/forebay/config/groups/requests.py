"""What a request may ask."""

from functools import partial

from forebay.config.groups.group import Group, declare

setting = partial(declare, group="requests")


class RequestSettings(Group):
    model_aliases: dict[str, str] = setting(
        {},
        "Other names for models: alias=model, comma-separated in the environment. "
        "An alias to '*' means the only model.",
        aliases=("MODEL_ALIASES",),
        hot=True,
    )
    max_n: int = setting(8, "Most answers (n, best_of) in one request.", ge=1, le=16_384, hot=True)
    max_logprobs: int = setting(20, "Most logprobs, top_logprobs or prompt_logprobs.", ge=0, hot=True)
    max_stop: int = setting(16, "Most stop sequences in a request.", ge=1, le=1024, hot=True)
    max_output_tokens: int = setting(
        10_000_000,
        "Most tokens that a request may ask for (max_tokens, max_completion_tokens, max_output_tokens); what does not "
        "fit a model's context its engine refuses.",
        ge=1,
        le=10**12,
        hot=True,
    )
    tenant_cache_salt: bool = setting(
        True,
        "Keep engines' prefix caches apart by tenant (cache_salt), where there may be more than one; else a tenant can "
        "tell by the time to the first token what others have asked. Turned off, tenants share what begins alike, such "
        "as a system prompt.",
        hot=True,
    )
