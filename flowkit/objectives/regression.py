"""Plain regression of the data on the condition, in one network call: behaviour cloning, where the data are actions.

    loss = E | f(cond) - x1 |^2

It learns the conditional mean E[x1 | cond]: the same as one Euler step from t = 0 of any flow that was trained with an
independent source. Where the data have one mode a condition, nothing better is needed; where they have several, their
mean may be none of them. The baseline that a generative policy has to beat; Pomerleau 1989, "ALVINN: An Autonomous Land
Vehicle in a Neural Network".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import smooth_l1_loss

from flowkit.cond import Cond
from flowkit.couplings.coupling import Batch
from flowkit.errors import UserError
from flowkit.nn.network import Head, NetworkSpec
from flowkit.objectives.flow_matching import squared_error
from flowkit.objectives.objective import Loss, Networks, Objective
from flowkit.random import RandomSource
from flowkit.solvers.solver import Solution, Status
from flowkit.tensors import mean_per_sample

if TYPE_CHECKING:
    from flowkit.solvers.sampler import Sampler


class Regression(Objective):
    """Behaviour cloning: the data from the condition alone.

    Args:
        error: ``mse``, or ``smooth_l1``, which is linear beyond ``beta`` and forgives outliers.
        beta: where ``smooth_l1`` turns from a square into a line, in units of the data; positive.

    Raises:
        UserError: an unknown ``error``, or a ``beta`` that is not positive.
    """

    def __init__(self, *, error: Literal["mse", "smooth_l1"] = "mse", beta: float = 1.0) -> None:
        super().__init__()
        if error not in ("mse", "smooth_l1"):
            raise UserError(f"Regression: error={error!r}: known are mse and smooth_l1")
        if not beta > 0:
            raise UserError(f"Regression: beta must be positive, not {beta}")
        self.error, self.beta = error, beta

    @property
    def capturable(self) -> bool:
        """See :class:`Objective`."""
        return True

    def needs(self) -> dict[str, NetworkSpec]:
        """One network without a time. Its one state is always zero: networks read the shape of their output off it."""
        return {"main": NetworkSpec(inputs=1, times=0, heads=(Head("x1"),))}

    def loss(
        self,
        networks: Networks,
        batch: Batch,
        *,
        phase: str = "main",
        step: int = 0,
        generator: RandomSource | None = None,
    ) -> Loss:
        """Mean over the batch of each sample's error over its kept elements; the term is called ``regression``."""
        if batch.x1 is None:
            raise UserError("regression needs data x1, and the task gave none")
        output, keep = self._predict(networks, batch.x1, batch.cond), batch.loss_mask
        if self.error == "mse":
            error = squared_error(output, batch.x1, keep)
        else:
            # Behind the mask the data may hold anything: there they are what was predicted.
            target = batch.x1 if keep is None else batch.x1.where(keep, output.detach().to(batch.x1.dtype))
            error = mean_per_sample(smooth_l1_loss(output, target, reduction="none", beta=self.beta), keep)
        if batch.weight is not None:
            error = error * batch.weight
        return Loss(error.mean(), {"regression": error})

    @staticmethod
    def _predict(networks: Networks, like: Tensor, cond: Cond) -> Tensor:
        return networks.main((torch.zeros_like(like),), (), cond)["x1"]

    def field(self, networks: Networks) -> NoReturn:
        """There is none.

        Raises:
            UserError: always.
        """
        raise UserError("Regression trains no velocity field, it predicts in one call: for a field train FlowMatching")

    def generate(
        self,
        networks: Networks,
        like: Float[Tensor, "b *d"],
        cond: Cond,
        *,
        sampler: Sampler,
        x0: Tensor | None = None,
        span: tuple[float, float] = (0.0, 1.0),
        generator: RandomSource | None = None,
        hooks: Sequence[Callable[..., Any]] = (),
    ) -> Solution:
        """Predict in one call: the same answer whatever the noise ``x0``, the solver and its steps.

        Raises:
            UserError: the sampler asks for guidance, a temperature or steps chosen by a controller, or the span or
                hooks want a way from noise to data.
        """
        wanted = {
            "guidance": sampler.guidance is not None,
            f"the temperature {sampler.temperature:g}": sampler.temperature != 1.0,
            f"the controller {type(sampler.controller).__name__}": sampler.controller is not None,
            f"the span {span[0]:g} to {span[1]:g}": tuple(span) != (0.0, 1.0),
            "hooks": bool(hooks),
        }
        for what, asked in wanted.items():
            if asked:
                raise UserError(f"Regression predicts in one call and has no use for {what}: leave it out")
        x, b = cond.real(self._predict(networks, like, cond)), like.shape[0]
        one = torch.ones(b, dtype=torch.int64, device=x.device)
        finite = x.isfinite().reshape(b, -1).all(1) if b else one.bool()
        return Solution(
            x=x,
            evaluations=one,
            network_calls=one,
            accepted=one,
            rejected=torch.zeros_like(one),
            status=torch.where(finite, int(Status.OK), int(Status.NON_FINITE)),
            stopped_at=torch.ones(b, dtype=torch.float64, device=x.device),
        )
