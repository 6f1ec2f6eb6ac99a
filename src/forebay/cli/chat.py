"""`forebay chat`: talk with a model behind a running gateway."""

from pathlib import Path
from typing import Annotated

import typer

from forebay.cli.calling import DEFAULT_URL, TIMEOUT_S, KeyFile, Model, Timeout, Url, caller, first_model
from forebay.cli.options import EXIT_USAGE, fail
from forebay.sampling import Preset

CHAT = "/v1/chat/completions"

PresetOption = Annotated[Preset | None, typer.Option("--preset", help="Sampling parameters by name.")]
System = Annotated[str | None, typer.Option("--system", help="The system message.")]
MaxTokens = Annotated[int | None, typer.Option("--max-tokens", help="Most tokens of an answer.", min=1)]
Temperature = Annotated[
    float | None, typer.Option("--temperature", help="How freely it samples; goes before the preset's.", min=0)
]
TopP = Annotated[
    float | None, typer.Option("--top-p", help="Share of likely tokens; goes before the preset's.", min=0, max=1)
]


def chat(
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    model: Model = None,
    system: System = None,
    preset: PresetOption = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    max_tokens: MaxTokens = None,
    load: Annotated[Path | None, typer.Option(help="Go on from a conversation that /save wrote.")] = None,
    stats: Annotated[
        bool | None, typer.Option("--stats/--no-stats", help="Figures after each answer; by default on a terminal.")
    ] = None,
    timeout_s: Timeout = TIMEOUT_S,
) -> None:
    """Talk with a model; a line is a question, /help lists the commands, Ctrl-C stops an answer:

    forebay chat --url http://127.0.0.1:8000 --preset creative

    The key is taken from FOREBAY_API_KEY. Through a pipe each line is a question, and only answers are printed; the
    status is 1 where one of them failed.
    """
    from forebay.asking import NoAnswer
    from forebay.talk.commands import NotDone, Talk, obey
    from forebay.talk.screen import Screen, tolerate_bytes
    from forebay.talk.session import Session

    tolerate_bytes()
    asking, screen = caller(url, key_file, timeout_s), Screen()
    try:
        talk = Talk(first_model(asking, model), preset=preset)
        if load is not None:
            screen.note(obey(talk, f"/load {load}"))
    except NotDone as wrong:
        fail(str(wrong), EXIT_USAGE)
    except NoAnswer as failure:
        fail(str(failure))
    said = {"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens}
    talk.said = {name: value for name, value in said.items() if value is not None}
    talk.conversation.system = system if system is not None else talk.conversation.system
    if screen.is_interactive:
        screen.note(f"{talk.model} at {asking.url}; /help lists the commands, Ctrl-D leaves")
    session = Session(
        lambda body: asking.events(CHAT, body),
        screen,
        talk,
        show_stats=screen.is_interactive if stats is None else stats,
    )
    session.run()
    if session.failed and not screen.is_interactive:
        raise typer.Exit(1)
