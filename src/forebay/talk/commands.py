"""What may be typed in a chat instead of a question: a table of commands. Each changes the talk and says so."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from forebay.sampling import Preset, Sampling, sampling
from forebay.talk.conversation import Conversation, NotAConversation
from forebay.talk.heard import Heard, totals


class NotDone(Exception):
    """A command that cannot be done; the message says why."""


@dataclass
class Talk:
    """A conversation with a model, how it is asked, and what was heard."""

    model: str
    conversation: Conversation = field(default_factory=Conversation)
    preset: Preset | None = None
    said: Sampling = field(default_factory=dict)  # over the preset
    heard: list[Heard] = field(default_factory=list)
    files: set[Path] = field(default_factory=set)  # saved or loaded here, so that saving again may overwrite them
    over: bool = False

    def sampling(self) -> Sampling:
        return sampling(self.preset, **self.said)


Command = Callable[[Talk, str], str]


def obey(talk: Talk, line: str) -> str:
    """Do what a line says; return what to tell. Raises `NotDone`."""
    name, _, rest = line.partition(" ")
    if name not in COMMANDS:
        raise NotDone(f"no command {name}; /help lists them")
    try:
        return COMMANDS[name][0](talk, rest.strip())
    except UnicodeError:
        raise NotDone(f"{rest.strip()} is no text") from None
    except FileExistsError:
        raise NotDone(f"{rest.strip()} is there already; choose another name") from None
    except OSError as failure:
        raise NotDone(f"{rest.strip()}: {failure.strerror or failure}") from None


def clear(talk: Talk, _: str) -> str:
    talk.conversation.turns.clear()
    return "cleared"


def system(talk: Talk, text: str) -> str:
    talk.conversation.system = text or talk.conversation.system
    return f"system: {talk.conversation.system or 'none'}"


def preset(talk: Talk, name: str) -> str:
    if name not in ("", "none", *Preset):
        raise NotDone(f"no preset {name!r}: {', '.join(Preset)}, or none")
    if name:
        talk.preset = Preset(name) if name != "none" else None
    values = ", ".join(f"{key} {value:g}" for key, value in talk.sampling().items())
    return f"preset: {talk.preset or 'none'} ({values or 'as the model has it'})"


def model(talk: Talk, name: str) -> str:
    talk.model = name or talk.model
    return f"model: {talk.model}"


def save(talk: Talk, name: str) -> str:
    file = _file(name)
    text = talk.conversation.to_json(talk.model)
    if file in talk.files:
        file.write_text(text, encoding="utf-8")
    else:
        with file.open("x", encoding="utf-8") as new:  # FileExistsError: somebody else's
            new.write(text)
    talk.files.add(file)
    return f"saved {len(talk.conversation.turns)} answers to {file}"


def load(talk: Talk, name: str) -> str:
    file = _file(name)
    try:
        talk.conversation = Conversation.from_json(file.read_text(encoding="utf-8"))
    except NotAConversation as wrong:
        raise NotDone(f"{file} {wrong}") from None
    talk.files.add(file)
    return f"loaded {len(talk.conversation.turns)} answers from {file}"


def stats(talk: Talk, _: str) -> str:
    return totals(talk.heard)


def show_help(_: Talk, __: str) -> str:
    return "\n".join(f"{name:9}{what}" for name, (_, what) in COMMANDS.items())


def leave(talk: Talk, _: str) -> str:
    talk.over = True
    return ""


def _file(name: str) -> Path:
    if not name:
        raise NotDone("name a file, as in /save talk.json")
    return Path(os.path.expanduser(name)).absolute()


COMMANDS: dict[str, tuple[Command, str]] = {
    "/clear": (clear, "forget what was said; the system message stays"),
    "/system": (system, "TEXT: set the system message; without a text, show it"),
    "/preset": (preset, f"NAME: {', '.join(Preset)}, or none"),
    "/model": (model, "NAME: ask another model from now on"),
    "/save": (save, "FILE: write the conversation, as JSON"),
    "/load": (load, "FILE: go on from a conversation that was saved"),
    "/stats": (stats, "the figures of all answers so far"),
    "/help": (show_help, "these commands"),
    "/quit": (leave, "leave; Ctrl-D does it too"),
}
