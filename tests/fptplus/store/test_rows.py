"""Rows of a store: the same whether they are read ahead or kept on the device."""

import logging

import numpy as np
import pytest
import torch
from toy_store import ToyStore

from fptplus.store.rows import BATCHES_AHEAD, RowReader, fits_beside_the_step, read_ahead


@pytest.mark.parametrize("with_features", [True, False])
@pytest.mark.parametrize("keeps", [True, False])
def test_each_batch_is_what_the_store_holds(keeps, with_features):
    store = ToyStore(count=60)
    train = store.rows("train")
    keep = train if keeps else None
    reader = RowReader(store, with_features=with_features, device="cpu", keep=keep)
    chosen = [train[[5, 1, 30]], train[[0]], train[::7]]
    for rows, numbers in zip(reader.batches(chosen), chosen, strict=True):
        assert torch.equal(rows.images, store.images(numbers))
        assert torch.equal(rows.features, store.feature_rows(numbers)) if with_features else rows.features is None


def test_a_store_is_brought_in_large_pieces(monkeypatch):
    store, asked = ToyStore(count=300), []
    read = store.images
    monkeypatch.setattr(store, "images", lambda rows: asked.append(len(rows)) or read(rows))
    reader = RowReader(store, with_features=False, device="cpu", keep=np.arange(300))
    assert asked == [60] * 5
    (rows,) = reader.batches([np.array([299, 7])])
    assert torch.equal(rows.images, read(np.array([299, 7]))) and len(asked) == 5, "nothing is read twice"


def test_reading_runs_ahead_in_order_and_not_without_end():
    done = []
    results = read_ahead(lambda item: done.append(item) or 2 * item, range(10))
    assert next(results) == 0
    assert len(done) <= 1 + BATCHES_AHEAD
    assert list(results) == [2 * item for item in range(1, 10)]


def test_what_goes_wrong_while_reading_ahead_is_told_where_the_batch_is_asked_for():
    results = read_ahead(lambda item: 1 // item, [1, 0])
    with pytest.raises(ZeroDivisionError):
        list(results)


def test_a_store_stays_on_the_device_if_it_fits_beside_the_step_and_the_log_says_so(caplog):
    gib = 2**30
    with caplog.at_level(logging.INFO, "fptplus"):
        assert fits_beside_the_step(6 * gib, 8 * gib, step_bytes=2 * gib)
        assert not fits_beside_the_step(6 * gib, 8 * gib - 1, step_bytes=2 * gib)
    kept, read = (record.getMessage() for record in caplog.records)
    assert kept == "the store stays on the device: 6.0 GiB of it and 2.0 GiB for the training step, 8.0 GiB are free"
    assert read.startswith("the store is read again in every epoch")
