"""Simple ReFlow: settings that make one reflow round keep its teacher's quality. Each is a part that any recipe may
name.

- the weight of a sample is 1 / its loss: ``weighting: RelativeLoss``
- times favour the noise end: ``times: ExponentialTimes``
- detail counts more: ``distance: HighPass``
- less dropout than the teacher's: the network's own option
- pairs run from noise and from real data, whose noise is put right: ``flowkit reflow --inverted 0.5 --project``
- steps are small at both ends: ``sampler.grid: SigmoidGrid``; a step is exponential: ``sampler.solver: DPMSolver2``

Kim et al. 2024, "Simple ReFlow: Improved Techniques for Fast Flow Models" (arXiv 2410.07815).
"""

from __future__ import annotations

from typing import Any

from flowkit.fields.predictions import DataPrediction, Prediction
from flowkit.objectives.flow_matching import FlowMatching
from flowkit.objectives.weighting import LossWeight, RelativeLoss
from flowkit.times.exponential import ExponentialTimes
from flowkit.times.law import TimeLaw

__all__ = ["SimpleReFlow"]


class SimpleReFlow(FlowMatching):
    """Flow matching with Simple ReFlow's weight, times and data prediction: the student that ``flowkit reflow RUN
    --task.objective SimpleReFlow`` trains. ``distance: HighPass`` is worth a try for pictures.

    Args:
        weighting: of a sample by its own loss; None weighs all alike.
        times: the law of training times.
        prediction: what the network predicts; the teacher's, or its weights are no beginning.
        **flow_matching: see :class:`FlowMatching`.
    """

    def __init__(
        self,
        *,
        weighting: LossWeight | None = RelativeLoss(),  # noqa: B008  (stateless)
        times: TimeLaw = ExponentialTimes(),  # noqa: B008
        prediction: Prediction = DataPrediction(),  # noqa: B008
        **flow_matching: Any,
    ) -> None:
        super().__init__(weighting=weighting, times=times, prediction=prediction, **flow_matching)
