"""How far agents step and how strongly they mix, as training goes on."""

from __future__ import annotations

from dataclasses import dataclass

from flowkit.errors import UserError


@dataclass(frozen=True)
class DecayingWeights:
    """a_k = step j^-step_decay for the gradients, b_k = mix j^-mix_decay for the mixing, j = 1 + (k - 1) / hold, k from
    1.

    With 1/2 < step_decay <= 1 and 0 <= mix_decay < step_decay, a_k / b_k goes to 0 and the agents agree in the end
    (Swenson et al. 2020, arXiv 2003.02818); the disagreement falls like a_k / b_k. Constant weights (both decays 0)
    never agree. A step decay near 1 is logarithmically slow.

    Args:
        step: a_1.
        step_decay: exponent.
        mix: b_1; 0 means 1 / the largest eigenvalue of the graph's Laplacian.
        mix_decay: exponent.
        hold: steps in which the weights hardly fall; 1 gives the paper's powers of k.

    Raises:
        UserError: a weight that is not positive, or a decay that is negative.
    """

    step: float = 0.1
    step_decay: float = 0.6
    mix: float = 0.0
    mix_decay: float = 0.1
    hold: float = 1.0

    def __post_init__(self) -> None:
        if not self.step > 0 or self.mix < 0 or min(self.step_decay, self.mix_decay) < 0 or not self.hold > 0:
            raise UserError(
                f"decaying weights: step {self.step:g} and hold {self.hold:g} are positive, mix {self.mix:g} and the "
                "decays are not negative"
            )

    def at(self, k: int, largest: float) -> tuple[float, float]:
        """(a_k, b_k) for k >= 1; ``largest`` is the Laplacian's largest eigenvalue."""
        mix = self.mix or (1.0 / largest if largest > 0 else 0.0)
        gone = 1.0 + (k - 1) / self.hold
        return self.step * gone**-self.step_decay, mix * gone**-self.mix_decay
