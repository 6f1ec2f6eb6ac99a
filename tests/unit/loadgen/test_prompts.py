"""Prompts have the length that is asked for, or are those of a file."""

import json
from itertools import islice
from random import Random

import pytest

from forebay.loadgen.prompts import Lengths, NotPrompts, Scale, read_prompts, said, shuffled, synthetic


def test_synthetic_prompts_have_the_words_that_make_the_tokens() -> None:
    scale = Scale(overhead=30, per_word=1.25)
    for prompt in islice(synthetic(Lengths(530, 20), scale, Random(0)), 5):
        assert len(prompt.text.split()) == 400
        assert prompt.max_tokens == 20


def test_no_two_synthetic_prompts_begin_alike() -> None:
    prompts = list(islice(synthetic(Lengths(64, 8), Scale(), Random(0)), 200))
    assert len({" ".join(prompt.text.split()[:8]) for prompt in prompts}) == 200


def test_lengths_vary_as_asked_and_no_more() -> None:
    prompts = list(islice(synthetic(Lengths(100, 50, vary=0.2), Scale(), Random(0)), 300))
    words = [len(prompt.text.split()) for prompt in prompts]
    assert 80 <= min(words) < 85
    assert 115 < max(words) <= 120
    assert {prompt.max_tokens for prompt in prompts} == set(range(40, 61))


def test_a_prompt_shorter_than_its_chat_template_is_one_word() -> None:
    assert Scale(overhead=30).words(10) == 1


def test_sharegpt_asks_the_first_turn_and_limits_the_answer_to_the_length_of_its_answer() -> None:
    entries = [
        {"conversations": [{"from": "human", "value": "Why is the sky blue?"}, {"from": "gpt", "value": "x" * 400}]},
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello there"}]},
        {"conversations": [{"from": "human", "value": "Nobody has answered this."}]},
    ]
    assert read_prompts(json.dumps(entries), 128, 0.25) == [said("Why is the sky blue?", 100)]


def test_json_lines_hold_prompts_or_messages_and_their_limits() -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    lines = [{"prompt": "One"}, {"messages": messages, "max_tokens": 7}, {"other": 1}, 5]
    first, second = read_prompts("\n".join(map(json.dumps, lines)) + "\n", 128)
    assert (first.text, first.max_tokens) == ("One", 128)
    assert (list(second.messages), second.max_tokens) == (messages, 7)
    assert second.text == "Be brief.\nHello"


@pytest.mark.parametrize(
    ("text", "why"), [("", "none"), ("[1, 2", "neither"), ('{"a": 1}', "none"), ("words", "neither")]
)
def test_a_file_without_prompts_is_refused_and_says_why(text: str, why: str) -> None:
    with pytest.raises(NotPrompts, match=why):
        read_prompts(text, 128)


def test_the_prompts_of_a_file_come_again_in_another_order() -> None:
    prompts = [said(str(number), 1) for number in range(20)]
    taken = list(islice(shuffled(prompts, Random(0)), 40))
    assert sorted(one.text for one in taken[:20]) == sorted(one.text for one in prompts)
    assert taken[:20] != taken[20:]
