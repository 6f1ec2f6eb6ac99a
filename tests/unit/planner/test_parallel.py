"""A model is split only as vLLM's layers allow it."""

from dataclasses import replace

import pytest

from forebay.models.quantisation import Quantisation
from forebay.planner.parallel import Shape, shapes, tensor_sizes, why_not
from tests.unit.planner.asking import known


@pytest.mark.parametrize(
    ("name", "most", "sizes"),
    [
        ("llama-3-70b", 8, [1, 2, 4, 8]),
        ("llama-3-70b", 6, [1, 2, 4]),
        ("qwen2.5-7b", 8, [1, 2, 4]),  # 28 heads, 4 of them keys and values
        ("qwen2.5-32b", 8, [1, 2, 4, 8]),  # 40 heads; 5 would divide them, not the 8
        ("qwen2.5-0.5b", 8, [1, 2]),  # 14 heads
        ("default", 8, [1, 3]),  # 9 heads, 3 of them keys and values
        ("deepseek-v3", 16, [1, 2, 4, 8, 16]),
    ],
)
def test_sizes_divide_the_heads_and_the_widths(name: str, most: int, sizes: list[int]) -> None:
    assert tensor_sizes(known(name), most) == sizes


def test_what_stands_against_a_size_is_said() -> None:
    assert why_not(known("qwen2.5-7b"), 8) == "28 attention heads do not divide by 8"
    assert why_not(known("qwen2.5-32b"), 5) == "8 key and value heads do not divide by 5, nor it by them"
    narrow = replace(known("llama-3-8b"), facts=replace(known("llama-3-8b").facts, intermediate=14338))
    assert why_not(narrow, 4) == "the feed-forward width of 14338 does not divide by 4"


def test_groups_of_quantised_weights_are_not_cut() -> None:
    """Why Qwen2.5-72B's quantised checkpoints are padded from 29,568 to 29,696: 29,568 / 8 is no multiple of 128."""
    padded = known("qwen2.5-72b-awq")
    assert why_not(padded, 8) is None
    model = known("qwen2.5-72b")
    assert why_not(model, 8) is None
    cut = replace(
        model, facts=replace(model.facts, intermediate=29568 // 128 * 128, quantisation=Quantisation("awq", 4, 128))
    )
    assert "cuts groups of 128 quantised weights" in (why_not(cut, 8) or "")


def test_blocks_of_fp8_weights_are_not_cut() -> None:
    """Experts 1,536 wide over 8 GPUs are 192, which blocks of 128 do not fit into (vLLM refuses that)."""
    model = known("deepseek-v3")
    assert model.facts.experts is not None
    narrow = replace(model, facts=replace(model.facts, experts=replace(model.facts.experts, intermediate=1536)))
    assert why_not(model, 8) is None
    assert "the experts' width of 1536 over 8 cuts groups of 128" in (why_not(narrow, 8) or "")


def test_shapes_fill_a_node_with_copies_and_stages_are_of_the_greatest_size() -> None:
    assert list(shapes(known("qwen2.5-7b"), 8, 1)) == [
        Shape(1, 1, 8, 1),
        Shape(2, 1, 4, 1),
        Shape(4, 1, 2, 1),
        Shape(4, 2, 1, 1),
    ]


def test_stages_go_on_to_the_next_node_and_each_has_as_many() -> None:
    assert [shape for shape in shapes(known("llama-3-70b"), 8, 2) if shape.pipeline > 1] == [Shape(8, 2, 1, 2)]
    assert [shape for shape in shapes(known("qwen2.5-7b"), 8, 2) if shape.nodes > 1] == [Shape(4, 4, 1, 2)]


def test_there_are_no_more_stages_than_layers() -> None:
    short = replace(known("qwen2.5-7b"), facts=replace(known("qwen2.5-7b").facts, layers=1))
    assert max(shape.pipeline for shape in shapes(short, 8, 2)) == 1
