"""How fast batches reach a card: workers, one thread that pins them, and the copy to the device (docs/time.md).

    worker processes ── collate into shared memory ──> pinning thread ── copy ──> training loop ── PCIe ──> card

The stages overlap, so the slowest sets the pace; the copy to the card and the step share the training loop.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class FeedRates:
    """Rates in bytes per second. They belong to a host, not to a card."""

    collate: float = 1.34e9
    """One worker: read a batch's rows from the page cache and stack them in shared memory."""

    pin: float = 3.05e9
    """The pinning thread: copy a batch out of shared memory, while workers write the next."""

    to_device: float = 24e9
    """Pinned memory to a card over PCIe 4.0 with 16 lanes; assumed: three quarters of 31.5 GB/s."""

    to_host_pageable: float = 3.05e9
    """A card's results to ordinary memory, limited by one thread's copy; assumed to be as fast as pinning."""

    save: float = 0.60e9
    """One thread: a safetensors file for each image, into the page cache."""


RATES = FeedRates()
"""Measured once, as processor time of the thread, on a shared virtual machine (AMD EPYC, two cores) with batches of
121 MB of stored features; `to_device` and `to_host_pageable` are assumed."""


@dataclass(frozen=True, kw_only=True)
class BatchFeed:
    """A way to bring batches to a card."""

    num_workers: int = 16
    """Worker processes (the official code's 16, on a host with a processor for each)."""

    is_pinned: bool = True
    """Whether a thread copies batches into pinned memory."""

    rates: FeedRates = RATES


def feed_s(batch_bytes: int, feed: BatchFeed) -> float:
    """Return the time between two batches that the loader alone would take, in seconds."""
    stages = [batch_bytes / (feed.rates.collate * feed.num_workers)]
    if feed.is_pinned:
        stages.append(batch_bytes / feed.rates.pin)
    return max(stages)


def copy_s(batch_bytes: int, feed: BatchFeed) -> float:
    """Return the time of a batch's copy to the card, during which the training loop waits."""
    return batch_bytes / (feed.rates.to_device if feed.is_pinned else feed.rates.to_host_pageable)


def fed_step_s(step_s: float, batch_bytes: int, feed: BatchFeed) -> float:
    """Return the time of a step whose batches come from the host, in seconds: the loader works beside copy and step."""
    return max(step_s + copy_s(batch_bytes, feed), feed_s(batch_bytes, feed))


def save_s(batch_bytes: int, feed: BatchFeed) -> float:
    """Return the time to bring a batch of features back and write its files, during which the card waits."""
    return batch_bytes / feed.rates.to_host_pageable + batch_bytes / feed.rates.save
