"""Who joins and who leaves; what an endpoint and its address are."""

import ssl
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.config.sources import load_settings
from forebay.replicas.discovery.kubernetes import KubernetesSource, api_address
from forebay.replicas.discovery.named import discovery_sources
from forebay.replicas.discovery.source import Endpoint, Outage
from forebay.replicas.membership import plan
from forebay.upstream.pool import Address


def at(number: int) -> Endpoint:
    return Endpoint.at(Address(f"10.0.0.{number}", 8000))


sets = st.frozensets(st.integers(1, 20).map(at))


@given(sets, sets)
def test_after_the_plan_is_carried_out_there_is_what_was_observed(
    current: frozenset[Endpoint], observed: frozenset[Endpoint]
) -> None:
    joining, leaving = plan(current, observed)
    assert (current | set(joining)) - set(leaving) == observed
    assert not set(joining) & current
    assert set(leaving) <= current
    assert plan(observed, observed) == ([], [])


def test_two_sources_that_find_the_same_url_have_found_one_replica() -> None:
    one = Endpoint.at(Address("10.0.0.1", 8000, server_name="a"))
    assert one == Endpoint.at(Address("10.0.0.1", 8000, server_name="b")) == at(1)
    tls = ssl.create_default_context()
    assert one != Endpoint.at(Address("10.0.0.1", 8000, tls=tls))
    assert one != Endpoint.at(Address("10.0.0.1", 8001))


def test_an_address_found_by_name_is_called_by_its_ip_and_speaks_to_the_name() -> None:
    named = Address("vllm.prod.svc", 8000)
    found = replace(named, host="fd00::7", server_name=named.host)
    assert (str(found), found.authority) == ("http://[fd00::7]:8000", "vllm.prod.svc:8000")
    assert (str(named), named.authority) == ("http://vllm.prod.svc:8000", "vllm.prod.svc:8000")


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("dns://", "is not dns://host:port"),
        ("dns://host:port", "is not dns://host:port"),
        ("dns+http://host:8000", "is not http://host:port"),
        ("ftp://host:8000", "is not http://host:port"),
        ("kubernetes://prod/vllm", "is not kubernetes://namespace/service:port"),
        ("kubernetes://prod/vllm:8000", "KUBERNETES_SERVICE_HOST"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused(url: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    settings, _ = load_settings({"upstream": ("http://127.0.0.1:1", url)}, env={})
    with pytest.raises(ValueError, match=told):
        discovery_sources(settings)


def test_static_urls_are_one_source_and_each_other_url_is_its_own() -> None:
    urls = ("http://a:1", "dns://b:2", "unix:///c", "dns://b:2", "dns+https://d")
    settings, _ = load_settings({"upstream": urls}, env={})
    assert [source.name for source in discovery_sources(settings)] == ["static", "dns://b:2", "dns+https://d"]


def test_outside_a_pod_the_service_account_is_missed(tmp_path: Path) -> None:
    env = {"KUBERNETES_SERVICE_HOST": "10.96.0.1"}
    with pytest.raises(ValueError, match=r"ca\.crt: No such file"):
        KubernetesSource("kubernetes://prod/vllm:8000", account=tmp_path, env=env)
    with pytest.raises(ValueError, match="works in a pod only"):
        api_address(tmp_path, {})


def test_an_outage_is_told_once_however_long_it_is(caplog: pytest.LogCaptureFixture) -> None:
    outage = Outage("dns://b:2")
    with caplog.at_level("INFO"):
        for why in ("one", "two", "three"):
            outage.failed(why)
        assert (outage.failures, outage.why) == (3, "three")
        outage.over()
        outage.over()
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert outage.why == ""
