"""Who is served when."""

from functools import partial
from typing import Literal

from forebay.config.groups.group import Group, Seconds, SecondsOrZero, declare

setting = partial(declare, group="admission")


class AdmissionSettings(Group):
    max_active_requests: int = setting(
        2048,
        "Requests under way at once, those that wait included; further ones are refused with 503.",
        ge=1,
        hot=True,
    )
    engine_concurrency: int | None = setting(
        None,
        "Requests that one engine has at once; further ones wait in a queue. max_num_seqs by default, else 256.",
        ge=1,
        le=100_000,
        per_model=True,
    )
    max_queue_size: int = setting(
        1024,
        "Requests that wait for one model's engines; where more come, those of the tenant that has most waiting give "
        "way, or are refused with 503.",
        aliases=("MAX_QUEUE_SIZE",),
        ge=0,
        le=1_000_000,
        hot=True,
    )
    queue_timeout_s: Seconds = setting(
        30.0,
        "Longest time that a request waits, seconds; the header x-request-timeout-ms may say less.",
        aliases=("QUEUE_TIMEOUT",),
        hot=True,
    )
    queue_target_s: Seconds | None = setting(
        None,
        "What a queue that stands is kept to, seconds: where it has not been empty for queue_timeout_s, who would wait "
        "longer than this is refused with 503, until for as long nobody had to be. Bursts wait as before. None by "
        "default: everybody may wait for queue_timeout_s.",
        hot=True,
    )
    prefill_target_s: SecondsOrZero | None = setting(
        None,
        "Engines are sent no more prompt tokens than they read in about so long, seconds, as measured, though always "
        "2048: vLLM reads prompts in turn, and who comes behind long ones waits for all that it has. What is beyond "
        "waits in the queue, where others may go first. 0 for no bound; by default 0.5 where Forebay starts engines "
        "itself, else 0.",
        hot=True,
    )
    standby_models: tuple[str, ...] = setting(
        (),
        "Models that may be without an engine for a while, as where one is started only when it is asked for, by the "
        "name that engines know them by: requests for them wait in the queue for an engine, for queue_timeout_s at "
        "most, and are not refused at once; and this gateway is ready without any.",
    )
    queue_order: Literal["fair", "fifo"] = setting(
        "fair",
        "Who goes next: the tenant that was served the fewest tokens by its weight, or (fifo) who came first. Higher "
        "priorities go before in both.",
    )
    input_token_weight: float = setting(
        1.0,
        "What a token of a prompt counts for in that.",
        ge=0,
        le=1000,
        allow_inf_nan=False,
        hot=True,
    )
    output_token_weight: float = setting(
        2.0,
        "What a generated token counts for in that.",
        gt=0,
        le=1000,
        allow_inf_nan=False,
        hot=True,
    )
    forward_priority: bool = setting(
        False,
        "Tell engines each request's priority (X-Vllm-Priority); for those that run with --scheduling-policy priority, "
        "others refuse it.",
        hot=True,
    )
