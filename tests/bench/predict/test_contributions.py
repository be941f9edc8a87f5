import pytest
from PIL import Image

from bench.__main__ import main
from bench.cards.gpus import GPUS
from bench.cells.config import CellConfig
from bench.predict.contributions import contributions, largest_groups, largest_tensors, place, taken_by_operators
from bench.predict.predictor import dissect, why_traced

CELL = CellConfig(method="lora", model="vit_s", res=512)
TOKENS = (512 // 16) ** 2 + 1
SCORES_BYTES = 16 * 6 * TOKENS * TOKENS * 4

needs_emulation = pytest.mark.skipif(why_traced("auto") is not None, reason=str(why_traced("auto")))


@pytest.fixture(scope="module", params=[pytest.param("emulated", marks=needs_emulation), "traced"])
def anatomy(request):
    return dissect(CELL, request.param)[1]


def test_the_largest_tensors_are_the_attention_probabilities_by_module_name(anatomy):
    for block, allocation in enumerate(largest_tensors(anatomy)):
        assert place(allocation) == f"blocks.{block}.attn: softmax" and allocation.kind == "activations"
        assert 0 <= allocation.num_bytes - SCORES_BYTES < 512, "in whole blocks of the allocator"


def test_groups_of_all_blocks_hold_most_of_the_peak(anatomy):
    groups = largest_groups(anatomy)
    assert groups[0].where == "blocks.*.attn: softmax" and groups[0].count == 12
    assert sum(group.num_bytes for group in groups) > 0.8 * anatomy.peak.allocated_bytes


@needs_emulation
def test_operators_take_what_no_tensor_of_the_step_is():
    _, anatomy = dissect(CELL, "emulated")
    taken = taken_by_operators(anatomy)
    assert taken[0].where == "softmax backward, grad·output" and taken[0].kind == "temporary"
    assert 0 <= taken[0].num_bytes - SCORES_BYTES < 512
    assert sum(group.num_bytes for group in taken) <= anatomy.peak.by_kind["temporary"]


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


@needs_emulation
def test_the_command_says_what_operators_have_taken(tmp_path, capsys):
    options = ["--method", "full", "--model", "vit_s", "--res", "512", "--batch-size", "2", "--out", str(tmp_path)]
    assert main(["why", "--engine", "emulated", *options]) == 0
    printed = capsys.readouterr()
    taken = printed.out.split("Taken by operators")[1].splitlines()[1].split()
    scores_mib = 2 * 6 * TOKENS * TOKENS * 4 / 2**20
    assert taken == ["softmax", "backward,", "grad·output", "(1x)", "temporary", f"{scores_mib:,.1f}"]
    assert printed.err == ""


def test_the_command_says_where_memory_is_traced(tmp_path, capsys):
    options = ["--method", "linear", "--model", "test_vit", "--res", "64", "--out", str(tmp_path)]
    assert main(["why", "--engine", "traced", *options]) == 0
    assert capsys.readouterr().err == "note: memory is traced, as asked (--engine traced).\n"


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
    assert capsys.readouterr().err == f"error: gpu must be one of {', '.join(GPUS)}, got 'voodoo2'.\n"
