"""How long a training step takes on a card, and how much energy, without the card."""
