"""What surely does not fit a model's context: refused before it waits in line for an engine that would say the same.

Surely, because an estimate would refuse what fits: a prompt is counted only where it comes as token ids, and an answer
only where as many tokens are asked for as the whole context has not. (Engines give an answer what the prompt leaves of
the context, so that both together are too much is no reason.) How many tokens a text has, only its engine knows.
"""

from forebay.refusals import ContextTooLong
from forebay.wire.shape import members_of


def ids_in(prompt: bytes) -> int:
    """How many token ids the longest of the prompts has; 0 where they are texts."""
    if prompt[:1] != b"[" or b'"' in prompt:
        return 0
    return max(part.partition(b"]")[0].count(b",") for part in prompt.split(b"[")) + 1


def check_length(body: bytes, prompt_ids: int, context: int, bounds: tuple[str, ...]) -> None:
    """Raises `ContextTooLong`. `bounds` are the fields that bound an answer; the first that is there does."""
    members = members_of(body)
    if prompt_ids > context and "truncate_prompt_tokens" not in members:
        raise _too_long(context, f"the prompt has {prompt_ids} tokens", "prompt")
    values = [(name, bytes(members[name])) for name in bounds if name in members]
    name, value = next((pair for pair in values if pair[1] != b"null"), ("", b"0"))
    if (asked := int(value)) > context:
        raise _too_long(context, f"'{name}' asks for {asked}", name)


def _too_long(context: int, what: str, param: str) -> ContextTooLong:
    return ContextTooLong(f"This model's maximum context length is {context} tokens. However, {what}.", param=param)
