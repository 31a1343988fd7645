"""The methods that the picture benchmarks compare: each is a line of a table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flowkit.config.overrides import Override


@dataclass(frozen=True)
class Method:
    """A method as changes of the plain recipe.

    Args:
        objective: class of the objective.
        settings: of the objective; names with dots reach into its parts.
        stages: settings that are a number of steps, as a share of the training's.
        pairs: trained on the pairs of the plain flow, beginning with its weights.
        solver: whose steps it is sampled with.
        evaluations_of: network calls of the first step beyond one each (an initial velocity).
        multiple: steps come in multiples of this (segments).
        has_field: whether it has a velocity field (adaptive solving, straightness).
        task: settings of the task.
        follows_teacher: asks the plain flow while it learns (the trainer hands it over).
    """

    objective: str = "FlowMatching"
    settings: Mapping[str, Any] = field(default_factory=dict)
    stages: Mapping[str, float] = field(default_factory=dict)
    pairs: bool = False
    solver: str = "Euler"
    evaluations_of: int = 0
    multiple: int = 1
    has_field: bool = True
    task: Mapping[str, Any] = field(default_factory=dict)
    follows_teacher: bool = False

    def overrides(self, steps: int) -> list[Override]:
        """The changes of the recipe for a training of ``steps`` steps."""
        changes: list[Override] = [("task.objective", self.objective)]
        settings = {**self.settings, **{name: round(share * steps) for name, share in self.stages.items()}}
        changes += [(f"task.objective.{name}", json.dumps(value)) for name, value in settings.items()]
        changes += [(f"task.{name}", json.dumps(value)) for name, value in self.task.items()]
        return [*changes, ("sampler.solver", self.solver)]

    def steps(self, nfe: int) -> int | None:
        """Steps for ``nfe`` network calls, or None where it has no such number."""
        steps = nfe - self.evaluations_of
        return steps if steps >= 1 and steps % self.multiple == 0 else None


TEACHER = "flow-matching"
METHODS: dict[str, Method] = {
    TEACHER: Method(),
    "ot": Method(settings={"coupling": "MinibatchOT"}),
    "consistency-fm": Method(
        "ConsistencyFM", {"segments": 2, "delta": 0.01}, {"anchored_steps": 0.5}, multiple=2, has_field=False
    ),
    "consistency-fm-1": Method(
        "ConsistencyFM", {"segments": 1, "delta": 0.01}, {"anchored_steps": 0.5}, has_field=False
    ),
    "learned-coupling": Method(settings={"coupling": "LearnedCoupling", "coupling.beta": 20.0}),
    "reflow": Method(pairs=True),
    "rectified-diffusion": Method("RectifiedDiffusion", {"path": "TrigonometricPath"}, pairs=True, solver="DDIM"),
    "caf": Method(
        "ConstantAcceleration",
        {"speed": 1.5, "distance": "SquaredError"},
        {"velocity_steps": 0.4},
        pairs=True,
        evaluations_of=1,
        has_field=False,
    ),
    "seq-rf": Method("SeqRF", {"segments": 4}, multiple=4, has_field=False, follows_teacher=True),
}
#: Whose steps are timed beside those of METHODS (step_costs.py), and which fashion.py does not train.
OTHERS: dict[str, Method] = {
    "sinkhorn": Method(settings={"coupling": "Sinkhorn"}),
    "c-rectified": Method("CRectifiedFlow"),
    "simple-reflow": Method("SimpleReFlow", {"distance": "HighPass"}, pairs=True),
    "phased-rectified-diffusion": Method(
        "PhasedRectifiedDiffusion", {"segments": 4}, solver="DDIM", multiple=4, has_field=False, follows_teacher=True
    ),
    "i-dode": Method("IDODE"),
    "i-dode, second order": Method("IDODE", {"second_order": 0.1}),
    "ada-flow": Method("AdaFlow"),
    "calmflow": Method(
        "CaLMFlow",
        {"points": 8, "latent": 128},
        has_field=False,
        task={"network": {"class_path": "CausalTransformer", "init_args": {"width": 256, "layers": 4, "heads": 4}}},
    ),
}
#: Methods that a run without --methods trains.
USUAL = tuple(name for name in METHODS if name not in ("consistency-fm-1", "seq-rf"))
