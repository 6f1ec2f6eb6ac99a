"""The options that the commands of `forebay bench` share: whom to ask, with what prompts, and where the report goes."""

import dataclasses
import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from forebay.cli.options import EXIT_USAGE, fail

SERVER, PROMPTS, REPORT = "Server", "Prompts", "Report"
OBJECTIVES = ("ttft", "tpot", "e2e")


def _option(panel: str, text: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel, **more)


@dataclass(frozen=True)
class Options:
    """See the module's text. The fields are the options."""

    url: Annotated[str, typer.Argument(help="Where the server listens: any that speaks OpenAI's API.")]
    model: Annotated[str, _option(SERVER, "Model to ask; the first that the server lists by default.")] = ""
    endpoint: Annotated[
        Literal["chat", "completions"], _option(SERVER, "chat (/v1/chat/completions) or completions.")
    ] = "chat"
    key_file: Annotated[Path | None, _option(SERVER, "File that holds the key; FOREBAY_API_KEY otherwise.")] = None
    ca_file: Annotated[Path | None, _option(SERVER, "CA certificates (PEM) for an https URL.")] = None
    timeout: Annotated[float, _option(SERVER, "Longest time of one answer, seconds.", min=0.1)] = 600.0
    input_tokens: Annotated[int, _option(PROMPTS, "Tokens of each prompt.", min=1)] = 256
    output_tokens: Annotated[int, _option(PROMPTS, "Tokens of each answer, at most.", min=1)] = 128
    vary: Annotated[
        float, _option(PROMPTS, "How much both differ from one request to the next: 0.2 is 20%.", min=0.0, max=0.99)
    ] = 0.0
    prompts: Annotated[
        Path | None,
        _option(PROMPTS, "Take prompts from a file instead: ShareGPT's format, or JSON lines with messages or prompt."),
    ] = None
    ignore_eos: Annotated[
        bool | None,
        _option(
            PROMPTS,
            "Have answers go on to their full length (vLLM); so by default with prompts of its own, not with a file.",
        ),
    ] = None
    extra: Annotated[
        str | None, _option(PROMPTS, 'JSON object added to every request, such as {"temperature": 0}.', metavar="JSON")
    ] = None
    seed: Annotated[int, _option(PROMPTS, "The same seed gives the same prompts and arrivals.")] = 0
    slo: Annotated[
        list[str] | None,
        _option(
            REPORT,
            "Objective in milliseconds: ttft:500, tpot:50 or e2e:5000; repeat. Counts goodput.",
            metavar="NAME:MS",
        ),
    ] = None
    json: Annotated[
        Path | None, _option(REPORT, "Write all figures and each request's to a file; - is standard output.", "--json")
    ] = None
    detailed: Annotated[bool, _option(REPORT, "Write every gap between two tokens too, with --json.", "--detailed")] = (
        False
    )
    html: Annotated[Path | None, _option(REPORT, "Write a report with plots, which opens offline.", "--html")] = None


def with_load_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options above, and call it with them as `options`."""
    names = [field.name for field in dataclasses.fields(Options)]
    hints = typing.get_type_hints(Options, include_extras=True)
    shared = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in dataclasses.fields(Options)
    ]
    own = [one for one in inspect.signature(command).parameters.values() if one.name != "options"]

    def run(**values: Any) -> None:
        command(Options(**{name: values.pop(name) for name in names}), **values)

    run.__doc__, run.__name__ = command.__doc__, command.__name__
    parameters = [shared[0], *(one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own), *shared[1:]]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    return run


def objectives(options: Options) -> dict[str, float]:
    """The objectives in seconds, by name."""
    found = {}
    for text in options.slo or ():
        name, _, value = text.replace("=", ":").partition(":")
        number = value.strip().removesuffix("ms")
        if name not in OBJECTIVES or not number.replace(".", "", 1).isdigit() or float(number) == 0:
            fail(f"slo: {text!r} is not such as ttft:500, tpot:50 or e2e:5000 (milliseconds)", EXIT_USAGE)
        found[name] = float(number) / 1000
    return found
