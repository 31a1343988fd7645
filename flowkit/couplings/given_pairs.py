"""Given pairs: the batch brings its own x0 (reflow, restoration, translation with partners)."""

from __future__ import annotations

from flowkit.couplings.coupling import Batch, Coupling, Draw
from flowkit.errors import UserError
from flowkit.random import RandomSource


class GivenPairs(Coupling):
    """Keep the pairs (x0, x1) of the batch; nothing is drawn from the source in training.

    Raises:
        UserError: the batch brings no x0.
    """

    #: The objective reads this: x0 comes with the batch instead of from the source.
    brings_x0: bool = True

    def draw(self, batch: Batch, generator: RandomSource | None) -> Draw:
        """Return the batch as it is."""
        if batch.x0 is None:
            raise UserError(
                "GivenPairs needs an x0 in every batch, and the task gave none: use Independent or MinibatchOT"
            )
        return Draw(batch)
