"""How much painting against how much photograph, found while training."""

import math
from dataclasses import dataclass


@dataclass
class StyleBalance:
    """Finds the style weight that keeps a chosen share of the photograph's structure (`quality.structure_kept`).

    What weight that takes differs by a factor of twenty between paintings. The first step's losses give a start, or
    what a warm start ended with, since that rule is for a network that knows nothing: after a warm start from another
    painting it began at 2.3 where 11 was needed. From then on a slow integral control of the logarithm raises the
    weight while more structure is kept than asked for, and lowers it otherwise. It waits until the network shows the
    photograph at all, and is frozen for the last fifth of the training, so that the network converges on a fixed loss.

    Two other balances were tried. Holding the ratio of the weighted losses does not work: a low weight leaves the style
    loss high, which lowers the weight further, until the network copies the photograph. Holding the content loss works,
    but at 0.5 a woodcut keeps its photograph's colours and a pointillist loses his shapes.
    """

    structure: float
    content_weight: float
    fixed: float | None
    """A weight that the user chose; then nothing is controlled."""
    weight: float = 0.0
    """The last one; 0 before the first, which is then set by the losses."""

    START = 5.0  # the untrained network's style loss falls far more than its content loss
    SPEED = 15.0  # how far the weight's logarithm can go in a whole training: from 5 to anything sensible in a third
    WAITING = 0.06
    FROZEN = 0.2

    def update(self, *, content: float, style: float, structure: float, step: int, steps: int) -> float:
        """The weight for step `step` of `steps`, given the losses and the structure kept of its batch."""
        if self.fixed is not None:
            self.weight = self.fixed
        elif self.weight == 0.0:
            self.weight = self.START * self.content_weight * max(content, 1e-6) / max(style, 1e-6)
        elif self.WAITING <= step / steps < 1 - self.FROZEN:
            error = min(0.1, max(-0.1, structure - self.structure)) / 0.1  # bounded: one batch may be far off
            self.weight *= math.exp(self.SPEED / steps * error)
        return self.weight
