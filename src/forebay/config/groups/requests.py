"""What a request may ask."""

from functools import partial

from pydantic import field_validator

from forebay.config.groups.group import ALL, MIB, Group, declare
from forebay.wire.media import is_host_rule

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
    max_prompts: int = setting(
        128, "Most answers to all prompts of one completion request together.", ge=1, le=100_000, hot=True
    )
    max_inputs: int = setting(2048, "Most texts to embed in one request.", ge=1, le=100_000, hot=True)
    max_tools: int = setting(128, "Most tools or functions in a request.", ge=0, le=10_000, hot=True)
    max_schema_bytes: int = setting(
        MIB // 4,
        "Largest tools, response_format or other schema of an answer, bytes; engines compile it.",
        ge=1024,
        le=32 * MIB,
        hot=True,
    )
    max_grammar_bytes: int = setting(
        8192, "Longest pattern (regular expression) or grammar of an answer, characters.", ge=16, le=MIB, hot=True
    )
    max_structured_requests: int = setting(
        64,
        "Requests with a schema, pattern or grammar that a tenant may have at once at this gateway, where there may be "
        "more than one tenant: engines compile them in a few threads, so that one tenant's hold up everybody's. 0: as "
        "many as there are.",
        ge=0,
        le=1_000_000,
        hot=True,
    )
    media_hosts: tuple[str, ...] = setting(
        (),
        "Hosts that engines may fetch pictures, sounds and films from, as images.example.com or *.example.com; "
        "data: URLs are always taken. A change needs the engines that Forebay runs to be started again.",
        roles=ALL,
    )
    tenant_cache_salt: bool = setting(
        True,
        "Keep engines' prefix caches apart by tenant (cache_salt), where there may be more than one; else a tenant can "
        "tell by the time to the first token what others have asked. Turned off, tenants share what begins alike, such "
        "as a system prompt.",
        hot=True,
    )

    @field_validator("media_hosts")
    @classmethod
    def _refuse_no_host(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            if not is_host_rule(host):
                raise ValueError("an entry is a host's name in small letters, or *. and a domain of two names or more")
        return hosts
