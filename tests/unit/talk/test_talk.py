"""Conversations, commands, answers and what a terminal is shown of them."""

import json
from pathlib import Path

import pytest

from forebay.policy.presets import BUILT_IN
from forebay.sampling import Preset, sampling
from forebay.talk.commands import COMMANDS, NotDone, Talk, obey
from forebay.talk.conversation import Conversation, NotAConversation
from forebay.talk.heard import Heard, totals
from forebay.talk.screen import visible


def delta(**fields: str) -> dict[str, object]:
    return {"choices": [{"delta": fields, "finish_reason": None}]}


@pytest.fixture
def talk() -> Talk:
    return Talk("m", Conversation("Be brief.", [("a?", "b.")]))


def test_a_question_is_sent_with_all_that_was_said_before() -> None:
    messages = Conversation("Be brief.", [("a?", "b.")]).messages("c?")
    assert [(one["role"], one["content"]) for one in messages] == [
        ("system", "Be brief."),
        ("user", "a?"),
        ("assistant", "b."),
        ("user", "c?"),
    ]


def test_a_conversation_that_is_saved_is_the_same_when_it_is_loaded() -> None:
    for one in (Conversation("s", [("ä", "b\n"), ("", "d")]), Conversation("", [("a", "b")]), Conversation()):
        assert Conversation.from_json(one.to_json("m")) == one


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[1]",
        "null",
        '{"messages": {"role": "user"}}',
        '[{"role": "user", "content": "a"}]',
        '[{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]',
        '[{"role": "user", "content": [1]}, {"role": "assistant", "content": "b"}]',
        "[" * 100_000,
    ],
)
def test_what_is_no_conversation_is_not_loaded(text: str) -> None:
    with pytest.raises(NotAConversation):
        Conversation.from_json(text)


def test_what_is_said_wins_over_the_preset() -> None:
    assert sampling(Preset.deterministic, temperature=0.5, top_p=None) == {"temperature": 0.5, "top_p": 1.0}
    assert sampling(None, temperature=0.0) == {"temperature": 0.0}
    assert sampling(None) == {}
    assert set(BUILT_IN) == set(Preset)


def test_an_answer_is_timed_by_its_tokens() -> None:
    heard = Heard(began=10.0)
    assert heard.take({"choices": [{"delta": {"role": "assistant"}}]}, 10.1) == ("", "")
    assert heard.take(delta(content="a"), 10.5) == ("", "a")
    assert heard.take(delta(content="b"), 11.5) == ("", "b")
    heard.take({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 5}}, 12.0)
    assert (heard.text, heard.ttft_s, heard.tokens, heard.tokens_per_s) == ("ab", 0.5, 5, 4.0)
    assert heard.in_words() == "5 tokens · first after 0.50 s · 4.0 tokens/s"
    assert "7 in prompts, 5 generated" in totals([heard])


def test_of_an_answer_that_was_left_its_pieces_are_counted() -> None:
    heard = Heard(began=0.0)
    heard.take(delta(content="a"), 1.0)
    assert (heard.tokens, heard.tokens_per_s, heard.in_words()) == (1, None, "1 token · first after 1.00 s")
    assert Heard(began=0.0).in_words() == "0 tokens"
    assert totals([]) == "answers: 0\ntokens: 0 in prompts, 0 generated"


def test_what_a_model_thinks_is_no_part_of_its_answer() -> None:
    heard = Heard(began=0.0)
    assert heard.take(delta(reasoning_content="hm"), 1.0) == ("hm", "")
    assert heard.take(delta(content="yes"), 2.0) == ("", "yes")
    assert (heard.text, heard.ttft_s) == ("yes", 1.0)


def test_a_terminal_is_shown_nothing_that_it_would_obey() -> None:
    assert visible("a\x1b]0;title\x07\x9b2J\r\x7f\tb\nä") == "a]0;title2J\tb\nä"


def test_commands_change_the_talk(talk: Talk) -> None:
    assert "Be kind." in obey(talk, "/system Be kind.")
    assert (talk.conversation.system, len(talk.conversation.turns)) == ("Be kind.", 1)
    obey(talk, "/clear")
    assert talk.conversation == Conversation("Be kind.")
    assert "temperature 0," in obey(talk, "/preset deterministic")
    talk.said = {"temperature": 0.9}
    assert "temperature 0.9," in obey(talk, "/preset")
    assert "temperature 0.9)" in obey(talk, "/preset none")
    obey(talk, "/model n")
    assert (talk.model, talk.preset) == ("n", None)
    assert all(name in obey(talk, "/help") for name in COMMANDS)
    assert not talk.over
    obey(talk, "/quit")
    assert talk.over


def test_a_talk_is_saved_and_loaded_by_name(talk: Talk, tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    obey(talk, f"/save {file}")
    talk.conversation.turns.append(("c?", "d."))
    obey(talk, f"/save {file}")
    assert len(json.loads(file.read_text())["messages"]) == 5
    other = Talk("m")
    assert "loaded 2 answers" in obey(other, f"/load {file}")
    assert other.conversation == talk.conversation


def test_a_file_of_somebody_else_is_not_overwritten(talk: Talk, tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("mine")
    with pytest.raises(NotDone, match="is there already"):
        obey(talk, f"/save {file}")
    with pytest.raises(NotDone, match="no list of messages"):
        obey(talk, f"/load {file}")
    assert (file.read_text(), len(talk.conversation.turns)) == ("mine", 1)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("/qit", "no command /qit"),
        ("/save", "name a file"),
        ("/load /no/such/file", "No such file"),
        ("/save /no/such/directory/file", "No such file"),
        ("/load /dev/null/x", "Not a directory"),
        ("/preset warm", "no preset 'warm'"),
    ],
)
def test_a_command_that_cannot_be_done_says_why(line: str, told: str, talk: Talk) -> None:
    with pytest.raises(NotDone, match=told):
        obey(talk, line)


def test_a_file_that_is_no_text_is_said_so(talk: Talk, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(NotDone, match="is no text"):
        obey(talk, f"/load {tmp_path / 'x'}")
