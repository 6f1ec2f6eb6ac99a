"""All checks in their order, by what is to run on this machine; each finding is told as soon as it is made."""

import os
import platform
import sys
import time
from collections.abc import Iterator

from forebay.config.places import data_file
from forebay.config.settings import Settings
from forebay.doctor import facts, machine, reach
from forebay.doctor.engine import ask_engine, check_engine
from forebay.doctor.finding import Finding, wrong
from forebay.doctor.gpus import check_cuda, check_driver, check_gpu
from forebay.doctor.patient import Patient, Role


def examine(patient: Patient) -> Iterator[Finding]:
    """Look at everything."""
    has_engine = patient.role is not Role.gateway
    driver = facts.ask_driver() if has_engine else None
    yield machine.check_python(sys.version_info[:3], sys.executable)
    yield machine.check_platform(
        platform.system(), platform.machine(), facts.cpu_flags(), runs_on_cpu=driver is not None and not driver.gpus
    )
    if driver is not None:
        yield check_driver(driver, has_card=facts.has_nvidia_card())
        for gpu in driver.gpus:
            yield from check_gpu(gpu)
        engine = ask_engine(patient.engine_python, try_import=not patient.quick)
        yield check_engine(engine)
        if engine.imported and not engine.hip:
            yield check_cuda(driver.cuda, engine.cuda, has_gpu=bool(driver.gpus))
        yield machine.check_shared_memory(facts.shared_memory_bytes(), patient.settings.tensor_parallel_size or 1)
    yield from _limits(patient)
    yield from _spaces(patient)
    yield from _reached(patient)


def _limits(patient: Patient) -> Iterator[Finding]:
    settings = patient.settings
    if patient.role is not Role.engine:
        yield machine.check_open_files(facts.most_open_files(), settings.max_connections)
    peer = reach.url_for_clock(settings, patient.url)
    skew_s = reach.skew_s(peer) if peer is not None else None
    yield machine.check_clock(time.time(), facts.clock_step_s(), skew_s, peer or "")


def _spaces(patient: Patient) -> Iterator[Finding]:
    settings = patient.settings
    if patient.role is not Role.gateway:
        hub = facts.space_at(facts.hub_home(os.environ))
        yield machine.check_space("models", hub, machine.MODEL_SPACE, "HF_HOME")
        token, where, read_by_others = facts.hub_token(os.environ)
        offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON")
        yield machine.check_token(token, where, offline=offline, read_by_others=read_by_others)
    if settings.log_file is not None:
        yield machine.check_space("logs", facts.space_at(settings.log_file.parent), machine.LOG_SPACE, "log_file")
    if settings.uses_database:
        yield _check_data(settings)


def _check_data(settings: Settings) -> Finding:
    try:
        place = settings.usage_spool_dir or data_file("usage")
    except RuntimeError:
        return wrong("space for data", reach.NO_HOME, reach.SET_HOME)
    return machine.check_space("data", facts.space_at(place), machine.DATA_SPACE, "FOREBAY_HOME")


def _reached(patient: Patient) -> Iterator[Finding]:
    settings = patient.settings
    if patient.role is Role.engine:
        yield reach.check_port("agent", settings.agent_host, settings.agent_port, "agent_port")
        yield reach.check_port("engine", settings.engine_host, settings.engine_port, "engine_port")
        return
    yield reach.check_port("gateway", settings.host, settings.port, "port")
    for url in settings.upstream if patient.role is Role.gateway else ():
        yield reach.check_upstream(url)
    yield reach.check_database(settings)
    yield reach.check_redis(settings)
