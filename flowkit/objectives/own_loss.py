"""The objective of a task that trains no field: an autoencoder, a classifier, a fit of one instance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from torch import Tensor

from flowkit.cond import Cond
from flowkit.couplings.coupling import Batch
from flowkit.errors import UserError
from flowkit.nn.network import NetworkSpec
from flowkit.objectives.objective import Networks, Objective
from flowkit.random import RandomSource

if TYPE_CHECKING:
    from flowkit.solvers.sampler import Sampler


class OwnLoss(Objective):
    """No flow: the task's ``forward`` computes its whole loss, and there is no field to sample.

    Such a task sets ``self.objective = OwnLoss()`` and ``self.networks = Networks({})`` in its constructor, and offers
    no ``objective:`` line in recipes.
    """

    def needs(self) -> dict[str, NetworkSpec]:
        """No networks to order.

        Raises:
            UserError: always; only a recipe that names this class where a flow is wanted comes here.
        """
        raise UserError("OwnLoss trains no network by itself: this task wants an objective such as FlowMatching")

    def loss(
        self,
        networks: Networks,
        batch: Batch,
        *,
        phase: str = "main",
        step: int = 0,
        generator: RandomSource | None = None,
    ) -> NoReturn:
        """There is none.

        Raises:
            UserError: always; the task's ``forward`` computes the loss.
        """
        raise UserError("OwnLoss has no loss: the task computes it itself, and cannot be trained on pairs")

    def field(self, networks: Networks) -> NoReturn:
        """There is none.

        Raises:
            UserError: always.
        """
        raise UserError("this model was trained by a loss of its own and has no velocity field")

    def generate(
        self,
        networks: Networks,
        like: Tensor,
        cond: Cond,
        *,
        sampler: Sampler,
        x0: Tensor | None = None,
        span: tuple[float, float] = (0.0, 1.0),
        generator: RandomSource | None = None,
        hooks: Sequence[Callable[..., Any]] = (),
    ) -> NoReturn:
        """There is none.

        Raises:
            UserError: always.
        """
        raise UserError("this model was trained by a loss of its own: there is no flow to sample from")
