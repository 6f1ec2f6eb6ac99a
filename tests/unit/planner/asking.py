"""Plans for the built-in models, as the tests ask for them."""

from typing import Any

from forebay.planner.gpus import device_named
from forebay.planner.plan import Ask, Misfit, Plan, make_plan
from forebay.planner.source import Model, find_model


def known(name: str) -> Model:
    """A model of the table, whatever this machine has in its caches."""
    return find_model(name, {"FOREBAY_HOME": "/nowhere", "HF_HOME": "/nowhere"})


def asked(name: str, gpu: str, count: int = 1, nodes: int = 1, **how: Any) -> Plan | Misfit:
    return make_plan(known(name), Ask(device_named(gpu), count, nodes, **how))


def planned(name: str, gpu: str, count: int = 1, nodes: int = 1, **how: Any) -> Plan:
    found = asked(name, gpu, count, nodes, **how)
    assert isinstance(found, Plan), found
    return found
