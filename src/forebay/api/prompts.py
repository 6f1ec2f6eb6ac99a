"""What the simple endpoints take and give."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, FailFast, Field, field_validator

NO_TOKENS_SAID = 256  # an engine's own default for completions is 16
_Text = Annotated[str, Field(max_length=4_000_000)]
Prompt = Annotated[_Text, Field(min_length=1)]
Stop = Annotated[str, Field(min_length=1, max_length=1024)]


def _for_example(body: dict[str, Any]) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [body]})


class Sampling(BaseModel):
    """How to generate; what is left out is the preset's, else the model's own."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, strict=True)

    model: Annotated[str, Field(max_length=512)] | None = Field(
        None, description="A model's name or alias, `:preset` behind it or not; may be left out where there is one."
    )
    preset: str | None = Field(None, max_length=64, description="Name of a sampling preset.")
    max_tokens: int = Field(NO_TOKENS_SAID, ge=1, le=10**9, description="Most tokens to generate.")
    temperature: float | None = Field(None, ge=0, le=2, description="0 always takes the likeliest token.")
    top_p: float | None = Field(None, gt=0, le=1, description="Draw from the likeliest tokens of this share.")
    top_k: int | None = Field(None, ge=-1, le=10**6, description="Draw from so many tokens; -1 or 0 for all.")
    stop: Stop | Annotated[list[Stop], Field(max_length=1024)] | None = Field(
        None, description="Texts at which to stop; they are not part of the answer."
    )
    seed: int | None = Field(None, ge=-(2**63), lt=2**63, description="Draw the same again.")

    @field_validator("max_tokens", mode="before")
    @classmethod
    def _null_is_not_said(cls, value: object) -> object:
        return NO_TOKENS_SAID if value is None else value


class Generate(Sampling):
    """One prompt."""

    model_config = _for_example({"prompt": "The capital of France is", "max_tokens": 16, "temperature": 0.7})

    prompt: Prompt = Field(description="What to go on from.")
    stream: bool = Field(False, description="Send the text as it comes, as /generate/stream does.")


class CachedGenerate(Sampling):
    """One prompt, whose answer may be known."""

    model_config = _for_example({"prompt": "The capital of Spain is", "max_tokens": 16})

    prompt: Prompt = Field(description="What to go on from.")


class GenerateBatch(Sampling):
    """Several prompts, all with the same sampling."""

    model_config = _for_example({"prompts": ["1 + 1 =", "2 + 2 ="], "max_tokens": 4, "preset": "deterministic"})

    prompts: Annotated[list[_Text], FailFast()] = Field(
        min_length=1, description="Up to `max_batch_prompts` of them; one that is empty fails alone."
    )


class Generated(BaseModel):
    """What came of a prompt."""

    text: str
    tokens_generated: int
    prompt_tokens: int
    finish_reason: str | None = Field(description="`stop` (its own end, or a stop text), or `length`.")
    generation_time: float = Field(description="Seconds, waiting included.")
    model_name: str
    request_id: str


class CachedGenerated(Generated):
    """The same, and whether it was known."""

    cached: bool


class ErrorOfPrompt(BaseModel):
    """Why there is no answer to a prompt, as the error of a request of its own would have said."""

    status: int
    message: str
    type: str
    param: str | None
    code: str
    retry_after: int | None = Field(default=None, description="Seconds after which to ask again, where that helps.")


class PromptResult(BaseModel):
    """A prompt's place, and its result or its error."""

    index: int
    result: Generated | None = None
    error: ErrorOfPrompt | None = None


class GeneratedBatch(BaseModel):
    """The results in the order of the prompts."""

    results: list[PromptResult]
    succeeded: int
    failed: int
    generation_time: float


class ModelInfo(BaseModel):
    """A model as callers see it."""

    model_name: str
    max_model_len: int | None = Field(description="Context length, tokens; null where its engine does not tell.")
    ready: bool = Field(description="Whether an engine would take a request now.")
    replicas: int
    presets: dict[str, dict[str, Any]] = Field(description="Sampling presets, and what each fills in.")
