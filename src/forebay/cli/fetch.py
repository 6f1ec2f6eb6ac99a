"""`models pull` and `models verify`: a model comes here whole, and is found to be whole."""

import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from forebay.cli.lookup import NONE_HERE, Name, Revision, all_models, only_here, report, revision_of, say
from forebay.cli.options import AsJson, Config, fail
from forebay.cli.transfer import transfer
from forebay.models.default import DEFAULT_MODEL, RECORD_FILE, ModelUnavailable, default_model, model_cache
from forebay.models.sizes import readable

if TYPE_CHECKING:
    from forebay.models.catalogue import Model
    from forebay.models.record import Record


def pull(
    model: Name,
    revision: Annotated[str, typer.Option(help="Branch, tag or commit.")] = "main",
    allow: Annotated[list[str] | None, typer.Option(help="Only files like this; repeat. '*' is all.")] = None,
    ignore: Annotated[list[str] | None, typer.Option(help="No files like this; repeat.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Ask nobody: succeed where it is here, whole.")] = False,
    workers: Annotated[int, typer.Option(help="Files to fetch at a time.", min=1, max=32)] = 4,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Fetch a model, or what is missing of it, and check it. Where patterns are not given: all that vLLM needs.

    forebay models pull Qwen/Qwen2.5-0.5B-Instruct

    forebay models pull TheBloke/Llama-2-7B-GGUF --allow '*Q4_K_M.gguf' --allow config.json

    HF_TOKEN opens models that are gated or private, HF_HOME says where models are kept, HF_ENDPOINT names a mirror,
    HF_HUB_OFFLINE=1 is --offline. Interrupted, it goes on where it was when it is run again.
    """
    if model == DEFAULT_MODEL:
        path = _make_default(config)
        report({"model": model, "path": str(path)}, as_json, f"{model} is in {path}")
        return
    started = time.monotonic()
    with only_here(model):
        fields = _pull(model, revision, allow or (), ignore or (), workers, offline)
    seconds = round(time.monotonic() - started, 3)
    fetched = (
        f"{readable(fields['fetched_bytes'])} fetched in {seconds:.0f} s" if fields["fetched_bytes"] else "all here"
    )
    report({**fields, "seconds": seconds}, as_json, f"{model} is in {fields['path']} ({fetched})")


def verify(
    model: Annotated[str | None, typer.Argument(help="`owner/name` or 'default'; all by default.")] = None,
    revision: Revision = None,
    repair: Annotated[bool, typer.Option("--repair", help="Fetch again what is wrong.")] = False,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Compare every byte with the checksums that the hub gave when it was pulled; exit status 1 where one is wrong:

    forebay models verify Qwen/Qwen2.5-0.5B-Instruct --repair

    No network is needed, but to repair.
    """
    chosen = [revision_of(model, revision)] if model else list(all_models())
    results = [_verified(one, repair, config) for one in chosen]
    if as_json:
        typer.echo(json.dumps(results))
    elif not results:
        say(NONE_HERE)
    for result in results if not as_json else ():
        typer.echo(f"{result['model']}  {result['revision'][:12]}  {result['result']}: {result['files']} files checked")
        for name, why in result["wrong"].items():
            typer.echo(f"  {name} {why}")
    if any(result["result"] == "wrong" for result in results):
        fail("files are not what they should be: `--repair` fetches them again")


def _pull(
    model: str, revision: str, allow: Sequence[str], ignore: Sequence[str], workers: int, offline: bool
) -> dict[str, Any]:
    """Pull a model from the hub; ends the process where that cannot be done."""
    from forebay.models import hub
    from forebay.models import pull as pulling

    try:
        if offline or hub.is_offline():
            return {"model": model, "path": str(pulling.whole_here(model, revision)), "fetched_bytes": 0}
        wanted = pulling.plan(model, revision, allow, ignore)
        missing = wanted.missing_bytes()
        if missing:
            say(f"fetching {readable(missing)} of {readable(wanted.size)}, {len(wanted.files)} files in all")
        with transfer(model, missing) as progress:
            path = pulling.carry_out(wanted, progress, workers)
    except hub.HubFailure as failure:
        fail(str(failure))
    fields = {"model": model, "revision": wanted.commit, "path": str(path), "files": len(wanted.files)}
    return {**fields, "size_bytes": wanted.size, "fetched_bytes": missing}


def _make_default(config: Config) -> Path:
    from forebay.cli.choose import engine_python
    from forebay.cli.settings_options import named_settings

    try:
        return default_model(engine_python(named_settings(config)), model_cache(), say)
    except ModelUnavailable as unavailable:
        fail(f"model: {unavailable}")


def _verified(model: "Model", repair: bool, config: Path | None) -> dict[str, Any]:
    """Check one model, and where asked to, set right what is wrong."""
    from forebay.models.verify import expected_files, verify

    record = _record(model)
    expected = expected_files(model.path, record)
    size = sum(file.size for file in expected.values() if file)
    with transfer(f"reading {model.name}", size) as progress:
        verdict = verify(model.path, expected, progress)
    wrong = {**verdict.wrong, **dict.fromkeys(verdict.missing, "is missing")}
    if not wrong and model.problem:
        wrong = {"the model:": model.problem}
    if wrong and repair:
        say(f"{model.name}: {len(wrong)} files are wrong; fetching them again")
        _repair(model, list(verdict.wrong), record, config)
        return _verified(revision_of(model.name, model.revision or None), False, config)
    result = "wrong" if wrong else "right" if verdict.checked else "nothing to compare with"
    fields = {"model": model.name, "revision": model.revision, "result": result, "files": verdict.checked}
    return {**fields, "wrong": wrong, "not_compared": list(verdict.unknown)}


def _record(model: "Model") -> "Record | None":
    from forebay.models.record import read_record, record_path

    if model.name == DEFAULT_MODEL:
        return read_record(model.path / RECORD_FILE)
    return read_record(record_path(model.path.parents[1], model.revision))


def _repair(model: "Model", wrong: Sequence[str], record: "Record | None", config: Path | None) -> None:
    """Remove the contents that are wrong, and pull again what is missing then."""
    if model.name == DEFAULT_MODEL:
        shutil.rmtree(model.path)
        _make_default(config)
        return
    with only_here(model.name):
        for name in wrong:
            (model.path / name).resolve().unlink()
        allow, ignore = (record.allow, record.ignore) if record else ((), ())
        _pull(model.name, model.revision or "main", allow, ignore, 4, offline=False)
