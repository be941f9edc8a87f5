"""How much the paper trains: its epochs, and how many images Messidor-2 has, by whom and why they are counted.

Times, disk space and schedules are worked out from them. How many images it trains on the paper does not print.
"""

EPOCHS = 20
"""Of all trainings (FPT+, Sec. IV-B1)."""

MESSIDOR2_IMAGES = 1748
"""Images of Messidor-2 (FPT+, Sec. IV-D: "containing 1,748 samples")."""

MESSIDOR2_GRADED_IMAGES = 1744
"""Those with a grade in the adjudicated table (fptplus/data/presets.py names it): four are ungradable."""

MESSIDOR2_STATED_IMAGES = int(0.7 * MESSIDOR2_GRADED_IMAGES)
"""Training images of the 70/10/20 split that Sec. IV-A states: 1,220."""

TABLE2_SPLIT_IMAGES = round(0.6 * MESSIDOR2_IMAGES)
"""Training images of the split that Table II implies, 60 % and not the stated 70: 1,049."""

TABLE2_EPOCH_IMAGES = 1050
"""Images an epoch as Table II's own numbers give them: total time x throughput / 20 (bench/paper/inconsistencies.py).
One more than the 60 % above, by the rounding of its time and throughput."""
