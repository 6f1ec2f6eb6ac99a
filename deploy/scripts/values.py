"""What the scripts read and change in helm's JSON, from standard input to standard output; standard library only.

    deployed                                helm history → "REVISION CHART" of what serves, "0" where nothing is; status
                                            1 where an operation began and did not end
    previous                                helm history → the revision that served before the last one
    scale gateway|MODEL COUNT               values → values
    canary MODEL WEIGHT COUNT KEY=VALUE…    values → values with a canary of the model
    promote MODEL                           values → values whose stable engines have what the canary has, too
    abort MODEL                             values → values without the canary
    served MODEL                            values → the name that callers, and metrics, have for it

Values are those that users gave; what the chart's own values say is not among them.
"""

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

Values = dict[str, Any]
_OWN = ("enabled", "weight", "replicas")  # of a canary, not of the version that it tries


def fail(message: str) -> NoReturn:
    print(f"values: {message}", file=sys.stderr)
    sys.exit(1)


def deployed(history: list[Values]) -> str:
    """What serves; helm marks the revision that it applied last and whole."""
    if history and str(history[-1]["status"]).startswith("pending"):
        fail(f"revision {history[-1]['revision']} is {history[-1]['status']}")
    serving = [one for one in history if one["status"] == "deployed"]
    return f"{serving[-1]['revision']} {serving[-1]['chart']}" if serving else "0"


def previous(history: list[Values]) -> str:
    """The revision to go back to: the one before what serves, or what serves where something else came after."""
    served = [one for one in history if one["status"] in ("deployed", "superseded")]
    if served and served[-1] is history[-1]:
        del served[-1]
    if not served:
        fail("no revision before this one served")
    return str(served[-1]["revision"])


def scale(values: Values, what: str, count: str) -> Values:
    """The number of gateways, or of a model's stable engines."""
    one = values.setdefault("gateway", {}) if what == "gateway" else _model(values, what)
    one["replicas"] = int(count)
    return values


def canary(values: Values, model: str, weight: str, count: str, *changes: str) -> Values:
    """A canary; `a.b=c` is c in the table a, read as JSON where it is some."""
    stable = _model(values, model)
    if stable.get("canary", {}).get("enabled"):
        fail(f"{model} has a canary; promote it or abort it first")
    made: Values = {"enabled": True, "weight": int(weight), "replicas": int(count)}
    for change in changes:
        key, equals, text = change.partition("=")
        if not (equals and all(key.split("."))) or key in _OWN:
            fail(f"{change}: no KEY=VALUE of a model, such as image.tag=2 or settings.max_num_seqs=64")
        _put(made, key.split("."), _read(text))
    stable["canary"] = made
    return values


def promote(values: Values, model: str) -> Values:
    """The canary stays until the stable engines are ready."""
    stable = _model(values, model)
    if not stable.get("canary", {}).get("enabled"):
        fail(f"{model} has no canary; canary.sh start makes one")
    _merge(stable, {key: value for key, value in stable["canary"].items() if key not in _OWN})
    return values


def abort(values: Values, model: str) -> Values:
    """Without the canary, whether there is one or not."""
    _model(values, model).pop("canary", None)
    return values


def served(values: Values, model: str) -> str:
    """What the chart has it served as."""
    one = _model(values, model)
    return str(one.get("servedName") or one["model"])


def _model(values: Values, name: str) -> Values:
    models: list[Values] = values.get("models") or []
    for one in models:
        if one.get("name") == name:
            return one
    fail(f"the release's values have no model {name}; there are: {', '.join(str(one.get('name')) for one in models)}")


def _put(table: Values, path: Sequence[str], value: object) -> None:
    for key in path[:-1]:
        table = table.setdefault(key, {})
        if not isinstance(table, dict):
            fail(f"{'.'.join(path)}: {key} is no table")
    table[path[-1]] = value


def _read(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _merge(into: Values, changes: Values) -> None:
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


DOES: dict[str, Callable[..., object]] = {
    one.__name__: one for one in (deployed, previous, scale, canary, promote, abort, served)
}


def main() -> None:
    told = json.load(sys.stdin)
    made = DOES[sys.argv[1]](told or {}, *sys.argv[2:])
    print(made if isinstance(made, str) else json.dumps(made))


if __name__ == "__main__":
    main()
