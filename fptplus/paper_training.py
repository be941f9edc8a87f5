"""How much the paper trains: its epochs, and the number of images in Messidor-2, which depends on who counts and why.

Times, disk space and schedules are worked out from these numbers. The paper does not state how many images it trains
on.
"""

EPOCHS = 20
"""Epochs of every training (FPT+, Sec. IV-B1)."""

MESSIDOR2_IMAGES = 1748
"""Images of Messidor-2 (FPT+, Sec. IV-D: "containing 1,748 samples")."""

MESSIDOR2_GRADED_IMAGES = 1744
"""Messidor-2 images with a grade in the adjudicated table (see fptplus/data/presets.py): four are ungradable."""

MESSIDOR2_STATED_IMAGES = int(0.7 * MESSIDOR2_GRADED_IMAGES)
"""Training images of the 70/10/20 split that Sec. IV-A states: 1,220."""

TABLE2_SPLIT_IMAGES = round(0.6 * MESSIDOR2_IMAGES)
"""Training images of the split that Table II implies, 60 % instead of the stated 70 %: 1,049."""

TABLE2_EPOCH_IMAGES = 1050
"""Images per epoch according to Table II's own numbers: total time x throughput / 20 (bench/paper/inconsistencies.py).
This is one more than the 60 % above, because the table rounds time and throughput."""
