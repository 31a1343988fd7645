"""Fine detail for a network of states: sines and cosines of its input beside it, and the input beside its output.

Likelihoods of bytes hang on the last bits of a pixel, which a network of plain convolutions hardly sees. Kingma et al.
2021, "Variational Diffusion Models" (arXiv 2107.00630), appendix C; Zheng et al. 2023 (arXiv 2305.03935).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from flowkit.cond import Cond
from flowkit.errors import UserError
from flowkit.nn.network import Network, NetworkSpec

__all__ = ["FourierInputs"]


class FourierInputs(Network):
    """``network``, which also reads sin(2^n pi x) and cos(2^n pi x) of its first state; that state is added to its
    heads.

    Args:
        spec: what the objective asks for.
        network: builds the network; it must take several states.
        exponents: n; for bytes in [-1, 1] 6 and 7, whose periods are four and two bytes.
        residual: add the first state to each head of its shape.

    Raises:
        UserError: no exponents, or no states to read.
    """

    def __init__(
        self,
        spec: NetworkSpec,
        *,
        network: Callable[[NetworkSpec], Network],
        exponents: list[int] | None = None,
        residual: bool = True,
    ) -> None:
        super().__init__(spec)
        self.exponents = (6, 7) if exponents is None else tuple(exponents)
        if not self.exponents or spec.inputs < 1:
            raise UserError("FourierInputs: at least one exponent and one state are needed")
        self.residual = residual
        self.inner = network(replace(spec, inputs=spec.inputs + 2 * len(self.exponents)))

    def forward(self, inputs: Sequence[Tensor], times: Sequence[Tensor], cond: Cond) -> dict[str, Tensor]:
        """See :class:`Network`."""
        x, waves = inputs[0], []
        for n in self.exponents:
            phase = (2.0**n * math.pi) * x
            waves += [phase.sin(), phase.cos()]
        heads = self.inner((*inputs, *waves), times, cond)
        if not self.residual:
            return heads
        states = {head.name for head in self.spec.heads if head.shape == "state"}
        return {name: value + x if name in states else value for name, value in heads.items()}
