"""Counts are kept by architecture, and counted again if what was kept cannot be trusted."""

from dataclasses import replace

import pytest

from bench.cells.config import CellConfig
from bench.predict import counts
from methods import METHODS

CELL = CellConfig(method="lora", model="test_vit", res=64)


@pytest.fixture(autouse=True)
def counted(monkeypatch, tmp_path):
    """Cells that were counted, not looked up, in a cache folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cells, count = [], counts.count_anew

    def noted(cell, device="meta"):
        cells.append(cell)
        return count(cell, device)

    monkeypatch.setattr(counts, "count_anew", noted)
    return cells


def kept(tmp_path):
    return list(tmp_path.rglob("counts/*.json"))


def test_an_architecture_is_counted_once(counted, tmp_path):
    first = counts.count(CELL)
    axes = {"batch_size": 3, "precision": "bf16", "checkpointing": "block", "optimizer": "sgd", "gpu": "h200"}
    assert counts.count(replace(CELL, **axes)) == counts.count(CELL) == first
    assert counted == [CELL] and len(kept(tmp_path)) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"method": "full"},
        {"res": 80},
        {"num_classes": 6},
        {"attention": "sdpa"},
        {"lora_rank": 8},
        {"lora_targets": "proj"},
    ],
    ids=str,
)
def test_another_architecture_is_counted_by_itself(counted, change):
    assert counts.count(replace(CELL, **change)) != counts.count(CELL)
    assert len(counted) == 2


@pytest.mark.parametrize("damaged", ["", "{", "[]", '{"learnable_params": 1}'])
def test_damaged_counts_are_counted_again_and_mended(counted, tmp_path, damaged):
    first = counts.count(CELL)
    (path,) = kept(tmp_path)
    path.write_text(damaged)
    assert counts.count(CELL) == first == counts.count(CELL)
    assert len(counted) == 2


def test_without_a_folder_to_keep_them_they_are_counted_each_time(counted, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert counts.count(CELL) == counts.count(CELL)
    assert len(counted) == 2


def test_other_sources_count_anew(counted, monkeypatch):
    counts.count(CELL)
    monkeypatch.setattr(counts, "_made_with", lambda: "another version")
    counts.count(CELL)
    assert len(counted) == 2


def test_a_method_from_elsewhere_is_counted_each_time(counted, monkeypatch, tmp_path):
    """Its source may change, and nobody would know."""

    class Own(type(METHODS["linear"])):
        pass

    Own.__module__ = "a_script"
    monkeypatch.setitem(METHODS, "linear", Own())
    cell = CellConfig(method="linear", model="test_vit", res=64)
    assert counts.count(cell) == counts.count(cell)
    assert len(counted) == 2 and not kept(tmp_path)


def test_important_tokens_are_counted_at_once_as_block_by_block(monkeypatch):
    cell = replace(CELL, method="fptplus", res=128)
    at_once = counts.count(cell)
    monkeypatch.setattr(counts, "_ENDLESS_BYTES", 4 * 65 * 10)  # ten rows of scores a block
    assert counts.count_anew(cell) == at_once
