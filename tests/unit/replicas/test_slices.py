"""What EndpointSlices say, and which URLs name a Service."""

from typing import Any

import msgspec
import pytest

from forebay.failures import Failure
from forebay.replicas.discovery.slices import Service, SliceList, addresses, decode
from tests.gateway.fake_kubernetes import endpoint, endpoint_slice


def found(*slices: dict[str, Any], port: int | str = "http") -> set[tuple[str, int]]:
    listed = msgspec.json.encode({"metadata": {"resourceVersion": "1"}, "items": slices})
    return addresses(decode(SliceList, listed).items or (), port)


def test_an_endpoint_counts_unless_it_is_said_to_be_unready_or_terminating() -> None:
    endpoints = [
        endpoint("10.0.0.1"),
        endpoint("10.0.0.2", ready=True, serving=True, terminating=False),
        endpoint("10.0.0.3", ready=False),
        endpoint("10.0.0.4", ready=True, terminating=True),
        {"addresses": ["10.0.0.5"], "conditions": {"ready": None}},
        {"addresses": ["10.0.0.6"]},
        {"addresses": [], "conditions": {"ready": True}},
    ]
    assert {host for host, _ in found(endpoint_slice("a", "vllm", endpoints))} == {
        "10.0.0.1",
        "10.0.0.2",
        "10.0.0.5",
        "10.0.0.6",
    }


def test_slices_are_merged_and_an_address_in_two_of_them_is_one() -> None:
    one = endpoint_slice("a", "vllm", [endpoint("10.0.0.1"), endpoint("10.0.0.2")])
    two = endpoint_slice("b", "vllm", [endpoint("10.0.0.2"), endpoint("10.0.0.3")])
    assert found(one, two) == {("10.0.0.1", 8000), ("10.0.0.2", 8000), ("10.0.0.3", 8000)}


def test_a_pod_with_addresses_of_both_kinds_is_one_engine_and_a_slice_of_host_names_is_left_out() -> None:
    six = endpoint_slice("a", "vllm", [endpoint("fd00::1", "pod-1"), endpoint("fd00::2", "pod-2")], address_type="IPv6")
    four = endpoint_slice("b", "vllm", [endpoint("10.0.0.1", "pod-1")])
    names = endpoint_slice("c", "vllm", [endpoint("engine.example")], address_type="FQDN")
    assert found(six, four, names) == {("10.0.0.1", 8000), ("fd00::2", 8000)}


def test_a_port_is_the_pods_own_by_number_or_what_each_slice_says_by_name() -> None:
    one = endpoint_slice("a", "vllm", [endpoint("10.0.0.1")], port=8000)
    two = endpoint_slice("b", "vllm", [endpoint("10.0.0.2")], port=9000)
    assert found(one, two) == {("10.0.0.1", 8000), ("10.0.0.2", 9000)}
    assert found(one, two, port=7000) == {("10.0.0.1", 7000), ("10.0.0.2", 7000)}
    assert found(one, two, port="metrics") == set()


def test_nothing_may_be_null() -> None:
    assert found({**endpoint_slice("a", "vllm", []), "ports": None}) == set()
    assert decode(SliceList, b'{"metadata":{},"items":null}').items is None


@pytest.mark.parametrize("answer", [b"", b"<html>", b"[]", b'{"items":[{}]}', b'{"metadata":{},"items":[1]}'])
def test_what_is_no_list_is_a_failure(answer: bytes) -> None:
    with pytest.raises(Failure, match="not what Kubernetes should answer"):
        decode(SliceList, answer)


def test_a_url_names_namespace_service_and_port() -> None:
    assert Service.parse("kubernetes://prod/vllm:8000") == Service("prod", "vllm", 8000, False)
    assert Service.parse("kubernetes+https://prod/vllm-2:http") == Service("prod", "vllm-2", "http", True)


@pytest.mark.parametrize(
    "url",
    [
        "kubernetes://vllm:8000",
        "kubernetes://prod/vllm",
        "kubernetes://prod/vllm:",
        "kubernetes://prod/vllm:0",
        "kubernetes://prod/vllm:65536",
        "kubernetes://prod/vllm:8000/v1",
        "kubernetes://Prod/vllm:8000",
        "kubernetes://prod/-vllm:8000",
        "kubernetes://prod/vllm%0d:8000",
        "kubernetes://prod/vllm:8000?watch=0",
        "kubernetes://user@prod/vllm:8000",
        "kubernetes+http://prod/vllm:8000",
        "kubernetes:///vllm:8000",
        "kubernetes://" + "n" * 64 + "/vllm:8000",
        "kubernetes://prod/vllm:8000\n",
    ],
)
def test_any_other_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="is not kubernetes://namespace/service:port"):
        Service.parse(url)
