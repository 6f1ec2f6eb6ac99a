"""A plan in words: what fits, where the memory goes, why it is as it is, and what would do more. Pure."""

from collections.abc import Iterator

from forebay.planner.formats import Formats
from forebay.planner.memory import GIB, Cache, cache_of
from forebay.planner.parallel import tensor_sizes, why_not
from forebay.planner.plan import Misfit, Plan
from forebay.planner.profiles import HABITS, Goal
from forebay.planner.source import Model


def verdict(found: Plan | Misfit) -> str:
    """`fits`, `tight` (for fewer at a time than asked for) or `does_not_fit`."""
    if isinstance(found, Misfit):
        return "does_not_fit"
    return "fits" if found.is_enough else "tight"


def headline(found: Plan | Misfit) -> str:
    """The answer in one sentence."""
    where = devices(found)
    if isinstance(found, Misfit):
        room = f"a text of {found.context:,} tokens needs {gib(found.needed)} on each, which has {gib(found.budget)}"
        return f"{found.model.name} does not fit on {where}: {room}"
    if not found.is_enough:
        asked = f"{found.served:,} of the {count_of(found.ask.concurrency or 0, 'sequence')} asked for"
        return f"{found.model.name} is tight on {where}: room for {asked}"
    many = count_of(found.served, "sequence")
    return f"{found.model.name} fits on {where}: {many} at a time, up to {found.context:,} tokens each"


def devices(found: Plan | Misfit) -> str:
    """Such as `2 nodes of 8 × H100`."""
    ask = found.ask
    each = (
        f"{ask.count} × {ask.device.name}" if not ask.device.is_cpu else f"a CPU with {ask.device.memory_gib:.0f} GiB"
    )
    return f"{ask.nodes} nodes of {each}" if ask.nodes > 1 else each


def about(found: Plan | Misfit) -> Iterator[tuple[str, str]]:
    """The model and its device, one fact a row."""
    facts = found.model.facts
    own = facts.quantisation or ("FP8 while loading" if found.ask.on_load else facts.dtype)
    yield "model", f"{facts.architecture}, {found.weights.parameters / 1e9:.2f} B parameters, {own}"
    yield "figures from", found.model.origin
    yield "weights", f"{found.weights.total / 1e9:.1f} GB"
    yield "KV cache", cache_words(found)
    if not found.ask.device.is_cpu:
        yield "GPU", f"{found.ask.device.memory_gib:.1f} GiB for PyTorch, {found.ask.device.marks}"


def cache_words(found: Plan | Misfit) -> str:
    """What a token takes of the whole model's cache, and why."""
    facts, formats = found.model.facts, found.formats
    cache = whole_cache(found.model, formats)
    kind = (
        f"latent attention, {facts.latent.kv_rank} + {facts.latent.rope_dim} numbers"
        if facts.latent
        else f"{facts.kv_heads} of {facts.heads} heads"
        if facts.kv_heads < facts.heads
        else f"{facts.heads} heads"
    )
    slides = (
        f", {facts.sliding_layers} of {facts.layers} layers keep {facts.sliding_window:,}"
        if facts.sliding_layers
        else ""
    )
    return f"{cache.token_bytes:,} bytes a token ({kind}, {count_of(formats.kv_bytes, 'byte')} a number{slides})"


def whole_cache(model: Model, formats: Formats) -> Cache:
    """The cache of the model on one device."""
    return cache_of(model.facts, number_bytes=formats.kv_bytes)


def sums(plan: Plan) -> Iterator[tuple[str, int]]:
    """Where the memory of the fullest device goes."""
    memory = plan.memory
    yield "weights", memory.weights
    yield "activations and sampling, at their peak", memory.activations
    if memory.graphs:
        yield "CUDA graphs", memory.graphs
    yield "runtime" if plan.ask.device.is_cpu else "kernels' and NCCL's buffers", memory.other
    yield f"KV cache: {plan.cache_tokens:,} tokens", memory.cache


def reasons(plan: Plan) -> Iterator[str]:
    """Why each figure is what it is."""
    yield _why_shape(plan)
    if plan.ask.on_load:
        yield "the weights become FP8 while they are loaded, the embeddings and the output layer stay as they are"
    yield from plan.formats.reasons
    yield _why_context(plan)
    yield _why_sequences(plan)
    if not plan.ask.device.is_cpu:
        left = plan.ask.device.memory_gib * GIB - plan.memory.budget
        yield f"gpu_memory_utilization {plan.share}: {gib(left)} of each GPU stay free, for driver and CUDA context"
    else:
        cache = plan.memory.cache // GIB
        yield f"VLLM_CPU_KVCACHE_SPACE {cache}: GiB that vLLM takes at its start; what is left is the machine's"
        yield "vLLM binds a thread to each core by itself; VLLM_CPU_NUM_OF_RESERVED_CPU=1 leaves one to the gateway"
    yield f"prompts are read {plan.chunk:,} tokens a step: {_why_chunk(plan)}"
    if plan.step_s is not None:
        rate = 1 / plan.step_s
        yield f"one stream gets {rate:,.0f} tokens a second at the very best: that is how fast the weights can be read"


def warnings(found: Plan | Misfit) -> Iterator[str]:
    """What to look at before it is relied on."""
    yield from found.formats.warnings
    model, ask = found.model, found.ask
    if ask.context and model.facts.context_tokens and ask.context > model.facts.context_tokens:
        yield f"the model's own context is {model.facts.context_tokens:,} tokens; more is not planned for"
    if isinstance(found, Plan):
        used = found.shape.gpus * found.shape.replicas
        if used < ask.gpus:
            yield f"{ask.gpus - used} of the {ask.gpus} GPUs have nothing to do: {_why_idle(found)}"
        if found.shape.tensor > 2 and not ask.device.nvlink:
            yield "without NVLink every token waits for PCIe twice a layer: measure fewer GPUs a copy, too"


def steps(plan: Plan) -> Iterator[str]:
    """What has to be done besides the one command."""
    if plan.shape.nodes > 1:
        yield "on each node, in the engine's environment: pip install ray"
        yield "on the first node: ray start --head --port=6379"
        yield f"on the other{'s' if plan.shape.nodes > 2 else ''}: ray start --address=FIRST_NODE:6379"
        yield "then, on the first node:"
    elif plan.ask.nodes > 1:
        yield "on each node, and in front `forebay gateway --upstream URL` with the URL of each:"


def gib(size: float) -> str:
    """Bytes as people say them."""
    return f"{size / GIB:.1f} GiB"


def count_of(number: int, thing: str) -> str:
    """Such as `1 text`, `1,024 texts`."""
    return f"{number:,} {thing}" + ("" if number == 1 else "s")


def _why_shape(plan: Plan) -> str:
    shape = plan.shape
    copies = f"{shape.replicas} copies" if shape.replicas > 1 else "one copy"
    on = f"{shape.tensor} GPUs" if shape.tensor > 1 else "one GPU" if not plan.ask.device.is_cpu else "the CPU"
    split = f"the weights are split over {on}" if shape.tensor > 1 else f"the weights are whole on {on}"
    if shape.pipeline > 1:
        nodes = f" on {shape.nodes} nodes (Ray)" if shape.nodes > 1 else ""
        split = f"{split}, and the layers over {shape.pipeline} stages{nodes}"
    heads = plan.model.facts.kv_heads
    copied = shape.tensor > heads and plan.model.facts.latent is None
    extra = (
        f"; {heads} key and value heads on {shape.tensor} GPUs: each is held {shape.tensor // heads} times"
        if copied
        else ""
    )
    latent = "; the latent KV cache is whole on each" if plan.model.facts.latent and shape.tensor > 1 else ""
    return f"{copies}: {split}{extra}{latent}"


def _why_context(plan: Plan) -> str:
    longest = plan.model.facts.context_tokens
    if plan.ask.context is not None:
        return f"max_model_len {plan.context:,}, as asked for; {_limit(longest)}"
    if not longest:
        return f"max_model_len {plan.context:,}: {_limit(longest)}; --context says another"
    if plan.context == longest:
        return f"max_model_len {plan.context:,}: as long as the model goes"
    usual = HABITS[plan.ask.goal].context
    if plan.context == usual:
        return (
            f"max_model_len {plan.context:,} of the model's {longest:,}, which few texts need: --context says another"
        )
    return f"max_model_len {plan.context:,} of the model's {longest:,}: the next longer tried does not fit"


def _limit(longest: int) -> str:
    return f"the model goes to {longest:,}" if longest else "config.json does not say how far the model goes"


def _why_sequences(plan: Plan) -> str:
    fill = HABITS[plan.ask.goal].fill
    average = round(plan.context * fill)
    room = (
        f"the KV cache holds {plan.cache_tokens:,} tokens: {count_of(plan.full_sequences, 'text')} of the whole length"
    )
    if plan.full_sequences >= plan.sequences:
        return f"max_num_seqs {plan.sequences:,}: {room}"
    return (
        f"max_num_seqs {plan.sequences:,} at {average:,} tokens on average; {room}. What is beyond waits in the queue"
    )


def _why_chunk(plan: Plan) -> str:
    if plan.ask.goal is Goal.latency:
        return "answers wait less for others' prompts"
    if plan.chunk == plan.ask.device.chunk_tokens:
        return f"vLLM's own choice for {'an' if plan.ask.device.name[0] in 'AHL' else 'a'} {plan.ask.device.name}"
    return f"fewer than {plan.ask.device.chunk_tokens:,}, so that more is left for the KV cache"


def _why_idle(plan: Plan) -> str:
    count = plan.ask.count
    return why_not(plan.model, count) or f"sizes that the model can be split into: {_sizes(plan)}"


def _sizes(plan: Plan) -> str:
    return ", ".join(map(str, tensor_sizes(plan.model, plan.ask.count)))
