"""Batches: every image once per epoch, randomness only by seed, epoch and step, several processes like one."""

import numpy as np
import pytest
import torch
from toy_store import ToyStore

from fptplus import InvalidInput
from fptplus.distributed import Processes
from fptplus.network.features import tensors_of
from fptplus.training.feed import Feed, seed_at


def feed(**changes):
    options = {"store": ToyStore(), "split": "train", "batch_size": 8, "res": 32, "reads_features": True, "seed": 3}
    return Feed(**(options | changes))


def same(batches, others):
    return all(
        torch.equal(a, b)
        for one, other in zip(batches, others, strict=True)
        for a, b in zip([*tensors_of(one.inputs), one.targets], [*tensors_of(other.inputs), other.targets], strict=True)
    )


def test_an_epoch_is_the_same_each_time_and_unlike_the_next():
    assert same(feed().epoch(0), feed().epoch(0))
    assert not same(feed().epoch(0), feed().epoch(1))
    assert not same(feed().epoch(0), feed(seed=4).epoch(0))


def test_an_epoch_holds_each_image_once_and_drops_what_fills_no_batch():
    store = ToyStore(count=60)
    store._keys[:] = torch.arange(60).view(1, 60, 1, 1, 1)
    one = feed(store=store, batch_size=12)
    seen = torch.cat([batch.inputs[1].keys[0, :, 0, 0, 0] for batch in one.epoch(0)]).long()
    assert len(store.rows("train")) == 40 and one.steps_per_epoch == 3
    assert len(seen) == 36 == len(set(seen.tolist())) and set(seen.tolist()) <= set(store.rows("train").tolist())
    assert torch.equal(torch.cat([b.targets for b in one.epoch(0)]), store.labels[seen])


def test_shapes_are_those_the_model_takes():
    images, (keys, values, *_) = next(feed().epoch(0)).inputs
    assert images.shape == (8, 3, 32, 32) and keys.shape == values.shape == (2, 8, 2, 5, 32)
    assert len(next(feed(reads_features=False).epoch(0)).inputs) == 1


def test_several_processes_see_together_what_one_sees():
    alone = list(feed().epoch(2))
    shares = [list(feed(processes=Processes(rank, 2)).epoch(2)) for rank in range(2)]
    for one, first, second in zip(alone, *shares, strict=True):
        torch.testing.assert_close(one.inputs[0], torch.cat([first.inputs[0], second.inputs[0]]))
        for whole, *parts in zip(one.inputs[1][:2], first.inputs[1][:2], second.inputs[1][:2], strict=True):
            torch.testing.assert_close(whole, torch.cat(parts, dim=1))
        assert torch.equal(one.targets, torch.cat([first.targets, second.targets]))


def test_evaluation_sees_every_image_once_in_order_and_unchanged():
    store = ToyStore()
    for world_size in (1, 3):
        feeds = [
            feed(store=store, split="val", processes=Processes(r, world_size), batch_size=3) for r in range(world_size)
        ]
        targets = torch.cat([batch.targets for one in feeds for batch in one.in_order()])
        assert torch.equal(targets, store.labels[torch.from_numpy(store.rows("val"))])
    (batch,) = feed(store=store, split="val", res=40).in_order()
    expected = (store.images(store.rows("val")).float() / 255 - 0.5) / 0.5
    torch.testing.assert_close(batch.inputs[0], expected, atol=1e-4, rtol=0)


def test_a_batch_larger_than_the_split_is_refused():
    with pytest.raises(InvalidInput, match="batch-size must be at most the 32 images of train, got 64"):
        _ = feed(batch_size=64).steps_per_epoch


def test_a_batch_that_the_processes_cannot_share_is_refused():
    with pytest.raises(InvalidInput, match="batch-size must be a multiple of the 3 processes, got 8"):
        feed(processes=Processes(0, 3))


def test_a_store_without_features_is_refused_where_they_are_read():
    store = ToyStore()
    store.has_features = False
    with pytest.raises(InvalidInput, match="store must hold features"):
        feed(store=store)


def test_every_place_in_a_training_has_a_seed_of_its_own():
    places = [
        (),
        *((e,) for e in range(20)),
        *((e, s) for e in range(20) for s in range(20)),
        *((0, 0, r) for r in range(4)),
    ]
    assert (
        len({seed_at(0, *place) for place in places}) == len(places) == len(np.unique([seed_at(1, *p) for p in places]))
    )
