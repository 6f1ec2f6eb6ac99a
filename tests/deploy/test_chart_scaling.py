"""Autoscaling: what the rendered objects ask Prometheus for is there, and leads to as many engines as are needed.

The queries are the rendered ones and Prometheus is a real one. First over an hour that was recorded: a burst, a ramp,
idleness, gateways that cannot be scraped. Then live, from no engine on: a real gateway, engines that come and go as the
autoscaler says, and no request that fails. An autoscaler's seconds are hundredths there.
"""

import asyncio
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml
from scripts.render_k8s import CHART, example

from forebay.monitoring.elsewhere import ELSEWHERE
from forebay.monitoring.promql import names_in
from forebay.telemetry.catalogue import CATALOGUE
from tests.deploy.chart import NAMES, NAMESPACE, Objects, objects
from tests.deploy.hpa import ScaledObject
from tests.deploy.prometheus import Prometheus, prometheus
from tests.gateway.calls import chat
from tests.gateway.conftest import KEY, StartGateway
from tests.gateway.fake_engine import FakeEngine
from tests.gateway.fake_kubernetes import FakeKubernetes
from tests.gateway.test_membership import pods, source_of
from tests.programs import program

EXPORTED = {metric.name: {*metric.labels} for metric in (*CATALOGUE, *ELSEWHERE)}
TARGETS_OWN = {"namespace", "service", "job", "instance", "pod"}
TARGET = {"namespace": NAMESPACE, "service": "demo-gateway-metrics"}
ADAPTER = yaml.safe_load((CHART.parent / "prometheus-adapter.yaml").read_text())["rules"]["external"]
TICK_S = 15
FASTER = 100  # live, an autoscaler's second is a hundredth
MODEL = "Qwen/Qwen2.5-7B-Instruct"


def queries(made: Objects) -> Iterator[str]:
    for one in made.of("ScaledObject"):
        yield from (trigger["metadata"]["query"] for trigger in one["spec"]["triggers"])
    for one in made.of("PrometheusRule"):
        if one["metadata"]["name"] != "demo":  # those of the alerts are checked where they are made
            yield from (rule["expr"] for group in one["spec"]["groups"] for rule in group["rules"])


def test_every_metric_and_label_asked_for_is_exported() -> None:
    asked = [query for name in NAMES for query in queries(objects(name))]
    assert len(asked) == 4
    for query in asked:
        assert names_in(query) <= EXPORTED.keys()
        for metric, matchers in re.findall(r"(\w+)\{([^}]*)\}", query):
            assert set(re.findall(r"(\w+)=", matchers)) <= EXPORTED[metric] | TARGETS_OWN


def test_the_gateways_targets_have_the_labels_that_are_asked_for() -> None:
    made = objects("keda-from-zero")
    (monitor,) = made.of("ServiceMonitor")
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    (service,) = [one for one in made.of("Service") if wanted <= one["metadata"]["labels"].items()]
    assert service["metadata"]["name"] == TARGET["service"]
    assert all(f'service="{TARGET["service"]}"' in query for query in queries(made))
    assert service["metadata"]["labels"][monitor["spec"]["jobLabel"]] == "forebay", "the job that alerts go by"


def test_the_adapter_hands_on_what_is_recorded_by_the_names_that_the_autoscaler_asks_for() -> None:
    made = objects("hpa")
    (scaler,) = [one for one in made.of("HorizontalPodAutoscaler") if one["metadata"]["name"] == "demo-qwen"]
    rules = [r for one in made.of("PrometheusRule") for g in one["spec"]["groups"] for r in g["rules"] if "record" in r]
    recorded = {rule["record"]: rule["labels"] for rule in rules}
    (adapter,) = ADAPTER
    name = adapter["name"]
    handed_on = {re.sub(name["matches"], name["as"].replace("${1}", r"\1"), one): one for one in recorded}
    for metric in scaler["spec"]["metrics"]:
        asked = metric["external"]["metric"]
        labels = recorded[handed_on[asked["name"]]]
        assert asked["selector"]["matchLabels"].items() <= labels.items()
        assert labels["namespace"] == NAMESPACE
        assert re.search(r'__name__=~"([^"]*)"', adapter["seriesQuery"])[1] in ("^forebay:(demand|waiting)$",)
        assert re.match("^forebay:(demand|waiting)$", handed_on[asked["name"]])


def scaled_object(model: str = MODEL, **autoscaling: Any) -> ScaledObject:
    values = example("keda-from-zero")
    values["autoscaling"] |= autoscaling
    values["models"][0]["servedName"] = model
    values["settings"]["standby_models"] = [model]
    (one,) = Objects(values).of("ScaledObject")
    return ScaledObject(one["spec"])


# An hour, recorded


def load(minute: float) -> float | None:
    """How many requests two gateways have for the model, by the minute; None while neither can be scraped."""
    if minute < 5:
        return 0  # nobody has asked yet
    if minute < 20:
        return 200 + 12 * (int(minute * 4) % 3 - 1)  # a burst that goes on, and never quite the same
    if minute < 25:
        return 90
    if minute < 55:
        return 90 + (minute - 25) * 9  # a ramp up to 360
    if minute < 60:
        return None  # Prometheus has lost the gateways
    if minute < 65:
        return 360
    return 0


def recording(begin: float, end_minute: int) -> Iterator[str]:
    """What Prometheus scraped, in its text format: half of the load at each of two gateways."""
    series: dict[str, Callable[[float], float | None]] = {
        "forebay_build_info": lambda minute: None if load(minute) is None else 1,
        "forebay_queue_requests": lambda minute: None if minute < 5 or load(minute) is None else 0,
        "forebay_queue_running": lambda minute: None if minute < 5 else load(minute),
    }
    for name, value in series.items():
        yield f"# TYPE {name} gauge"
        labels = ('version="1"',) if name == "forebay_build_info" else (f'model="{MODEL}"', 'model="another"')
        for gateway in ("gw-0", "gw-1"):
            for label in labels:
                for second in range(0, end_minute * 60, 5):
                    seen = value(second / 60)
                    if seen is None:
                        continue
                    half = seen if name == "forebay_build_info" else seen / 2
                    where = ",".join(f'{key}="{text}"' for key, text in {**TARGET, "instance": gateway}.items())
                    yield f"{name}{{{where},{label}}} {half:g} {begin + second:.0f}"
    yield "# EOF"


def bring_in(lines: Iterator[str], directory: Path) -> None:
    """Put a recording where a Prometheus in the directory will find it."""
    (directory / "recorded.txt").write_text("\n".join(lines) + "\n")
    words = ("tsdb", "create-blocks-from", "openmetrics", str(directory / "recorded.txt"), str(directory / "data"))
    subprocess.run([program("promtool"), *words], check=True, capture_output=True)


async def answers(prom: Prometheus, query: str, begin: float, minutes: int) -> list[float | None]:
    """What a query says at each tick, which must be one series, or none."""
    asked = f"query_range?query={quote(query, safe='')}&start={begin}&end={begin + minutes * 60}&step={TICK_S}"
    result = (await prom.get(asked))["result"]
    assert len(result) == 1, query
    values = {round(at - begin): float(value) for at, value in result[0]["values"]}
    return [values.get(tick * TICK_S) for tick in range(minutes * 60 // TICK_S)]


async def test_a_recorded_hour_leads_to_the_right_numbers_without_flapping(tmp_path: Path) -> None:
    minutes = 100
    begin = (time.time() - 2 * minutes * 60) // TICK_S * TICK_S
    bring_in(recording(begin, minutes), tmp_path)
    scaled = scaled_object()
    async with prometheus(tmp_path, {}, KEY) as prom:
        figures = [await answers(prom, query, begin, minutes) for query in scaled.queries]
    number, trace = 0, []
    for tick, values in enumerate(zip(*figures, strict=True)):
        number = scaled.decide(number, values, tick * TICK_S)
        trace.append(number)

    def at(minute: float) -> int:
        return trace[int(minute * 60 / TICK_S)]

    assert set(trace[: 5 * 4]) == {0}, "nobody has asked"
    assert at(5) == 1
    assert at(8) == 5, "200 / 48, as fast as two a minute"
    assert {*trace[8 * 4 : 20 * 4]} == {5}, "a load that trembles moves nothing"
    assert at(35) == 4, "180 / 48; it went down after five minutes, one every two"
    assert at(54.9) == 7, "360 / 48 is 7.5, and within a tenth of 7"
    assert {*trace[55 * 4 : 65 * 4]} == {7}, "who does not know the load takes nobody away"
    assert at(69.7) == 7, "five minutes of nothing are needed"
    assert [at(minute) for minute in (70, 72, 74)] == [6, 5, 4], "one every two minutes"
    assert at(99) == 0, "ten minutes after the last request there is none"
    changes = [after - before for before, after in pairwise(trace) if after != before]
    turns = [one for one, other in pairwise(changes) if one * other < 0]
    assert len(turns) == 3, f"up, down, up and down, and no more: {changes}"


async def test_gateways_that_were_never_scraped_are_no_gateways_without_requests(tmp_path: Path) -> None:
    scaled = scaled_object()
    async with prometheus(tmp_path, {}, KEY) as prom:
        assert [await prom.query(query) for query in scaled.queries] == [[], []]


# Live


class Cluster:
    """Engines as many as an autoscaler wants, each there a while after it was asked for; who leaves, drains."""

    LOADS_S = 0.8

    def __init__(self, api: FakeKubernetes, stack: AsyncExitStack) -> None:
        self._api, self._stack = api, stack
        self._loading: list[float] = []
        self._engines: list[FakeEngine] = []
        self.trace: list[int] = []

    @property
    def wanted(self) -> int:
        return len(self._engines) + len(self._loading)

    async def scale(self, number: int) -> None:
        now = asyncio.get_running_loop().time()
        self.trace.append(number)
        self._loading += [now + self.LOADS_S] * (number - self.wanted)
        while self.wanted > number and self._loading:
            self._loading.pop()
        came = [at for at in self._loading if at <= now]
        self._loading = self._loading[len(came) :]
        for _ in came:
            self._engines.append(await self._stack.enter_async_context(FakeEngine(token_delay_s=0.02)))
        self._engines = self._engines[:number]
        pods(self._api, *self._engines)

    async def follow(self, scaled: ScaledObject, prom: Prometheus) -> None:
        """Do what the autoscaler says, tick by tick."""
        begun = asyncio.get_running_loop().time()
        while True:
            results = [await prom.query(query) for query in scaled.queries]
            values = [float(series[0]["value"][1]) if series else None for series in results]
            now = (asyncio.get_running_loop().time() - begun) * FASTER
            await self.scale(scaled.decide(self.wanted, values, now))
            await asyncio.sleep(TICK_S / FASTER)


class Callers:
    """So many at a time, each asking again as soon as it is answered."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.statuses: list[int] = []

    async def call(self, number: int, seconds: float) -> None:
        until = asyncio.get_running_loop().time() + seconds
        await asyncio.gather(*(self._one(until, stream=each % 2 == 0) for each in range(number)))

    async def _one(self, until: float, *, stream: bool) -> None:
        while asyncio.get_running_loop().time() < until:
            answer = await chat(self._url, stream=stream)
            whole = not stream or answer.events[-1].data == "[DONE]"
            self.statuses.append(answer.status if whole else 0)


async def test_live_engines_come_from_none_and_go_to_none_and_no_request_fails(
    start_gateway: StartGateway, tmp_path: Path
) -> None:
    scaled = scaled_object(demandPerReplica=3, waitingPerReplica=4, maxReplicas=6, model="fake-model")
    flags = {"standby_models": ("fake-model",), "engine_concurrency": 4, "queue_timeout_s": 30.0}
    async with AsyncExitStack() as stack, FakeKubernetes(tmp_path) as api:
        gateway = start_gateway(sources=[source_of(api)], ready=False, **flags)
        async with gateway as running, prometheus(tmp_path, {"gw": running.url}, KEY, TARGET, "100ms") as prom:
            await prom.until_scraped(3)
            cluster, callers = Cluster(api, stack), Callers(running.url)
            following = asyncio.create_task(cluster.follow(scaled, prom))
            await callers.call(12, 4)
            busy = len(cluster.trace)
            await callers.call(4, 5.5)
            calm = len(cluster.trace)
            async with asyncio.timeout(30):
                while cluster.wanted:
                    await asyncio.sleep(0.05)
            following.cancel()
    print(cluster.trace, len(callers.statuses))
    assert set(callers.statuses) == {200}
    assert len(callers.statuses) > 200
    assert (cluster.trace[busy - 1], max(cluster.trace)) == (4, 4), "12 / 3"
    assert cluster.trace[calm - 1] == 2, "4 / 3"
    changes = [after - before for before, after in pairwise(cluster.trace) if after != before]
    assert len([1 for one, other in pairwise(changes) if one * other < 0]) == 1, f"up and down: {changes}"
