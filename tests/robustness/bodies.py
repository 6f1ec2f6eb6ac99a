"""Bodies that nobody should send: drawn from a seed, near enough to right ones to get far."""

import json
from collections.abc import Iterator
from random import Random

FIELDS = (
    *("model", "messages", "prompt", "input", "stream", "stream_options", "n", "best_of", "max_tokens", "stop", "seed"),
    *("max_completion_tokens", "max_output_tokens", "logprobs", "top_logprobs", "prompt_logprobs", "temperature"),
    *("user", "tools", "functions", "response_format", "structured_outputs", "guided_regex", "guided_json", "text"),
    *("preset", "previous_response_id", "priority", "cache_salt", "chat_template", "vllm_xargs", "request_id", "echo"),
    *("prompt_embeds", "logit_bias", "top_k", "system", "return_token_ids", "ignore_eos", "mod\\u0065l", "x", ""),
)
VALUES = (
    *("null", "true", "false", "0", "1", "-1", "9", "2.5", "1e3", "1e999", "-0", "01", "NaN", "1" + "0" * 400),
    *('""', '"m"', '"m:chat"', '"chat"', '"a"', '"\\ud800"', '"\\u0000"', '"[{"', '"\\\\"', '"é"', '"\x00"', '"a\nb"'),
    *("[]", "{}", "[[]]", '["a","b"]', "[1,2,3]", "[[1],[2]]", '["a",1]', '{"include_usage":true}', '{"a":1,"a":2}'),
    *('[{"role":"user","content":"a"}]', '[{"role":"user","content":[{"type":"text","text":"a"}]}]', '{"type":"text"}'),
    *('[{"content":[{"image_url":{"url":"http://10.0.0.1/"}}]}]', '[{"content":[{"image_url":"data:,"}]}]'),
    *('{"regex":"(a+)+$"}', '[{"type":"function","function":{"name":"f"}}]', "[" * 70 + "]" * 70, '{"a":' * 70),
)
NASTY = (b'"', b"\\", b"\\u", b"{", b"}", b"[", b"]", b",", b":", b"\xff", b"\xed\xa0\x80", b"\x00", b" ", b"\n", b"1")
USUAL = {"model": "m", "max_tokens": 2, "messages": [{"role": "user", "content": 'a "b" \\ ü'}], "prompt": "a"}


def bodies(seed: int, count: int) -> Iterator[bytes]:
    """The same for the same seed."""
    random = Random(seed)
    for _ in range(count):
        body = _drawn(random)
        while random.random() < 0.4:
            body = _damaged(random, body)
        if random.random() < 0.002:
            body = _blown_up(random, body)
        yield body


def _drawn(random: Random) -> bytes:
    members = [f'"{name}":{_value(random)}' for name in random.choices(FIELDS, k=random.randrange(5))]
    usual = dict(USUAL)
    if random.random() < 0.3:
        usual["stream"] = True
    for name in random.sample(list(usual), random.choice((0, 0, 0, 1, 3))):
        del usual[name]
    told = json.dumps(usual, ensure_ascii=random.random() < 0.5)[1:-1]
    members += [told] if told else []
    random.shuffle(members)
    return ("{" + random.choice((",", ", ", " ,\n")).join(members) + "}").encode()


def _value(random: Random) -> str:
    match random.randrange(8):
        case 0:
            return f"[{','.join(random.choices(VALUES, k=random.randrange(6)))}]"
        case 1:
            return "{" + ",".join(f'"{random.choice(FIELDS)}":{random.choice(VALUES)}' for _ in range(3)) + "}"
        case _:
            return random.choice(VALUES)


def _damaged(random: Random, body: bytes) -> bytes:
    at = random.randrange(len(body) + 1)
    end = min(at + random.choice((0, 0, 1, 2, 9)), len(body))
    put = random.choice((b"", random.choice(NASTY), random.randbytes(2), body[at:end] * 2, body[:at]))
    return body[:at] + put + body[end:]


def _blown_up(random: Random, body: bytes) -> bytes:
    """One fragment again and again, up to a size that is still read on the loop, or just beyond."""
    at = random.randrange(len(body) + 1)
    fragment = random.choice((body[at : at + 12], random.choice(NASTY), random.choice(VALUES).encode() + b",")) or b"["
    return body[:at] + fragment * (random.choice((20_000, 250_000, 300_000)) // len(fragment)) + body[at:]
