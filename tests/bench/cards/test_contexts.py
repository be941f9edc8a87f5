"""Sizes of CUDA contexts: what was measured, and what is concluded for each card."""

from dataclasses import replace

import pytest
import torch

from bench.cards.contexts import context_figures, context_of
from bench.cards.gpus import GPUS
from bench.units import GIB, MIB

VERSIONS = ("10.2", "11.3", "11.7", "11.8", "12.1", "12.8", "13.0", None)
EAGER = [figure for figure in context_figures() if figure.cuda.startswith(("10.", "11.0"))]
LAZY = [figure for figure in context_figures() if figure not in EAGER]


def test_every_figure_has_its_source_and_the_multiprocessors_of_its_card():
    by_title = {gpu.title: gpu for gpu in GPUS.values()}
    for figure in context_figures():
        assert figure.source
        assert 0 <= figure.rounding_bytes < 16 * MIB < figure.bytes < 2 * GIB
        if figure.card in by_title:
            assert figure.num_sms == by_title[figure.card].num_sms


def test_a_message_gives_what_is_neither_allocated_nor_kept():
    """22.80 GiB in use, of which 22.10 GiB allocated and 222.14 MiB kept; each GiB stated to a hundredth."""
    (figure,) = (one for one in context_figures() if "torchchat" in one.source)
    assert figure.bytes == pytest.approx((22.80 - 22.10) * GIB - 222.14 * MIB)
    assert figure.rounding_bytes == pytest.approx(0.01 * GIB + 0.005 * MIB)


def test_loading_all_kernels_at_once_takes_more_than_any_process_that_loads_them_one_by_one():
    assert max(one.bytes / one.num_sms for one in LAZY) < min(one.bytes / one.num_sms for one in EAGER) / 2


@pytest.mark.parametrize("gpu", GPUS.values(), ids=GPUS)
def test_a_size_is_a_range_with_something_in_it_and_a_reason(gpu):
    for version in VERSIONS:
        context = context_of(gpu, version)
        assert 0 < context.low_bytes <= context.typical_bytes <= context.high_bytes
        is_the_papers = gpu.name == "a6000" and version in ("11.7", "11.8")  # one constant, of one machine
        assert context.high_bytes - context.low_bytes > 10 * MIB or is_the_papers
        assert context.source


def test_the_papers_card_with_the_papers_cuda_has_what_was_fitted_to_the_paper():
    context = context_of(GPUS["a6000"], "11.7")
    sizes = context.low_bytes, context.typical_bytes, context.high_bytes
    assert [round(size / MIB) for size in sizes] == [346, 348, 348]
    assert "fitted" in context.source


def test_a_version_that_is_too_little_known_is_answered_by_the_others_and_says_so():
    context = context_of(GPUS["a6000"], "13.0")
    papers = context_of(GPUS["a6000"], "11.7")
    assert context.low_bytes <= papers.low_bytes and context.high_bytes >= papers.high_bytes
    assert context.source.startswith("not enough known with this CUDA version; with 11.7, 12.1: fitted")


def test_an_old_version_is_answered_by_old_versions_alone():
    assert context_of(GPUS["a6000"], "11.3").low_bytes > context_of(GPUS["a6000"], "12.1").high_bytes


def test_one_process_is_no_range():
    context = context_of(GPUS["b200"], "12.8")
    (figure,) = (one for one in context_figures() if one.card == "NVIDIA B200")
    assert context.typical_bytes == int(figure.bytes)
    assert context.high_bytes - context.low_bytes > 10 * figure.rounding_bytes
    assert figure.source in context.source and "range by its 148 SMs" in context.source


def test_a_card_nobody_looked_at_is_judged_by_its_multiprocessors():
    small, large = (
        context_of(replace(GPUS["a6000"], title="NVIDIA Unheard Of", num_sms=count), "12.8") for count in (40, 80)
    )
    for edge in ("low_bytes", "typical_bytes", "high_bytes"):
        assert getattr(large, edge) == pytest.approx(2 * getattr(small, edge), abs=2)
    assert small.source.startswith(f"none known of this card; by its 40 SMs from {len(LAZY)} processes")
    per_sm = sorted(one.bytes / one.num_sms for one in LAZY)
    assert small.low_bytes < 40 * per_sm[0] and small.high_bytes > 40 * per_sm[-1]


def test_a_gpu_has_the_context_of_the_installed_pytorch(monkeypatch):
    gpu = GPUS["rtx3090"]
    for version in ("11.3", "12.8"):
        monkeypatch.setattr(torch.version, "cuda", version)
        assert gpu.context == context_of(gpu, version)
        assert gpu.context_bytes == gpu.context.typical_bytes
        assert gpu.context_source == gpu.context.source
    monkeypatch.setattr(torch.version, "cuda", None)
    assert gpu.context == context_of(gpu, "13.0")
