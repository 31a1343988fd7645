"""The independent coupling: every x0 is drawn alone, q(x0, x1) = p(x0) p(x1)."""

from __future__ import annotations

from flowkit.couplings.coupling import Batch, Coupling, Draw
from flowkit.random import RandomSource


class Independent(Coupling):
    """Leave the drawn x0 where it is. The only coupling after which scores may be read off the trained field."""

    independent = True
    draws_x0 = True

    def draw(self, batch: Batch, generator: RandomSource | None) -> Draw:
        """Return the batch as it is."""
        return Draw(batch)
