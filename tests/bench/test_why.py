import pytest
from PIL import Image

from bench.__main__ import main
from bench.config import CellConfig
from bench.predict.predictor import trace_cell
from bench.predict.replay import replay
from bench.why import contributions, largest_groups, largest_tensors, place

CELL = CellConfig(method="lora", model="vit_s", res=512)


@pytest.fixture(scope="module")
def trace():
    return trace_cell(CELL)


def test_the_largest_tensors_are_the_attention_probabilities_by_module_name(trace):
    tokens = (512 // 16) ** 2 + 1
    for block, allocation in enumerate(largest_tensors(trace)):
        assert place(allocation) == f"blocks.{block}.attn: _softmax"
        assert allocation.num_bytes == 16 * 6 * tokens * tokens * 4


def test_groups_of_all_blocks_hold_most_of_the_peak(trace):
    groups = largest_groups(trace)
    assert groups[0].where == "blocks.*.attn: _softmax" and groups[0].count == 12
    assert sum(group.num_bytes for group in groups) > 0.8 * replay(trace).allocated_bytes


def test_contributions_are_differences_of_the_whole_prediction():
    added = {one.rule: one for one in contributions(CellConfig(method="linear", model="test_vit", res=64))}
    assert added["cublas_workspace"].allocated_bytes > 4_000_000
    assert added["flash_attention_backward"].allocated_bytes == 0


def test_figures_are_drawn_as_png_and_svg(tmp_path):
    assert (
        main(
            [
                "why",
                "--method",
                "lora",
                "--method",
                "fptplus",
                "--model",
                "test_vit",
                "--res",
                "64",
                "--rules",
                "--out",
                str(tmp_path),
            ]
        )
        == 0
    )
    names = {path.name for path in tmp_path.iterdir()}
    stems = ("timeline_lora_test_vit_64", "timeline_fptplus_test_vit_64", "breakdown_test_vit_64")
    assert names == {f"{stem}.{suffix}" for stem in stems for suffix in ("png", "svg")}
    for stem in stems:
        with Image.open(tmp_path / f"{stem}.png") as image:
            assert image.width > 800 and len(image.convert("RGB").getcolors(10**6)) > 10


def test_advise_prints_a_verdict_a_method(capsys):
    assert (
        main(["advise", "--gpu", "t4", "--model", "test_vit", "--res", "64", "--method", "lora", "--method", "fptplus"])
        == 0
    )
    printed = capsys.readouterr().out
    assert "LoRA" in printed and "FPT+" in printed and "yes" in printed
    assert "preloading its features takes" in printed


@pytest.mark.parametrize("command", ["advise", "why", "run"])
def test_an_unknown_gpu_is_one_sentence(command, capsys):
    assert main([command, "--gpu", "voodoo2"]) == 2
    assert capsys.readouterr().err.startswith("error: gpu must be one of t4")
