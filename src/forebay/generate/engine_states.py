"""`docs/reference/engine-states.md`: the lifecycle's two tables as a diagram."""

from forebay.engines.lifecycle import ON, WHEN

HEADER = """\
<!-- Generated from the code: `make generate`. -->
# The states of an engine

Drawn from the tables in `engines/lifecycle.py`. An edge is an event, or what follows from whether the engine is wanted.

```mermaid
stateDiagram-v2
    [*] --> stopped
"""


def render() -> str:
    edges = [
        f"    {state.value} --> {to.value}: {event.__name__}"
        for state, events in ON.items()
        for event, to in events.items()
    ]
    edges += [
        f"    {state.value} --> {to.value}: {'wanted' if wanted else 'not wanted'}"
        for (state, wanted), to in WHEN.items()
    ]
    return HEADER + "\n".join(edges) + "\n```\n"
