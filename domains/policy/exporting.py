"""A policy as one program: observations and noise to a chunk of actions in the environment's units."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from flowkit.objectives.flow_matching import FlowMatching
from flowkit.programs import Exportable, Port, Program, generate, planned, reads_noise
from flowkit.solvers.sampler import Sampler

if TYPE_CHECKING:
    from domains.policy.task import PolicyTask

PROGRAM, NOISE, ACTIONS = "policy", "noise", "actions"

_CARD = """One call a decision. Keep the last `history` observations, repeat the first where there are fewer, draw
standard normal noise, and carry out `execute` of the `horizon` actions before the next call. Scales and bounds are
inside; `facts` in `export.json` tells the layout of the observations."""


def input_name(part: str) -> str:
    """``image/front`` as the name of an input."""
    return part.replace("/", "_")


class PolicyProgram(nn.Module):
    """``state``, the pictures in the order of the task's, and the noise, to actions (b, horizon, A).

    Scaling, encoder, solver, bounds: everything between an observation and actions.
    """

    def __init__(self, task: PolicyTask, sampler: Sampler) -> None:
        super().__init__()
        self.task, self.sampler = task, sampler

    def forward(self, *inputs: Tensor) -> Tensor:
        """The chunk of actions; the last input is the noise where the objective reads any."""
        task = self.task
        names = part_names(task)
        parts = dict(zip(names, inputs, strict=False))
        if not task.spec.state:
            parts["state"] = inputs[0].new_zeros((inputs[0].shape[0], task.history, 0), dtype=torch.float32)
        if reads_noise(task.objective):
            noise = inputs[-1]
        else:
            noise = inputs[0].new_zeros((inputs[0].shape[0], task.horizon, task.actions), dtype=torch.float32)
        made = generate(task.objective, task.networks, noise, task.encode(parts), self.sampler)
        return task.normaliser.actions(made)


def part_names(task: PolicyTask) -> list[str]:
    """The parts of an observation that are inputs, in their order."""
    return [*(["state"] if task.spec.state else []), *(f"image/{name}" for name in task.spec.images)]


def exports(task: PolicyTask, sampler: Sampler) -> Exportable:
    """See :meth:`flowkit.tasks.Task.exports`."""
    sampler = planned(sampler)
    facts: dict[str, Any] = dict(task.normaliser.recall())
    facts |= {
        "state": task.spec.state, "images": {name: list(size) for name, size in task.spec.images.items()},
        "actions": task.actions, "history": task.history, "horizon": task.horizon, "execute": task.execute,
        "environment": task.environment, "noise": reads_noise(task.objective),
        "standard": _starts_standard(task, sampler),
        "action_low": _bounds(task.normaliser.action_low), "action_high": _bounds(task.normaliser.action_high),
    }  # fmt: skip
    ports = []
    if task.spec.state:
        ports.append(
            Port("state", ("batch", task.history, task.spec.state), "in the environment's units, oldest first")
        )
    for name, (height, width) in task.spec.images.items():
        shape = ("batch", task.history, height, width, 3)
        ports.append(Port(input_name(f"image/{name}"), shape, "0 to 255, oldest first", torch.uint8, 0, 255))
    if reads_noise(task.objective):
        ports.append(Port(NOISE, ("batch", task.horizon, task.actions), "standard normal"))
    out = Port(ACTIONS, ("batch", task.horizon, task.actions), "in the environment's units, within its bounds")
    program = Program(
        PolicyProgram(task, sampler).eval(), ports, [out],
        about="From the last observations and noise to the next actions.",
    )  # fmt: skip
    return Exportable({PROGRAM: program}, facts, _CARD)


def _starts_standard(task: PolicyTask, sampler: Sampler) -> bool:
    """Whether the eager policy draws its noise by :func:`domains.policy.noise.standard_noise`."""
    objective = task.objective
    return isinstance(objective, FlowMatching) and objective.source.standard_normal and sampler.temperature == 1.0


def _bounds(values: Tensor) -> list[float | None]:
    """JSON has no infinity: None."""
    return [float(value) if bool(value.isfinite()) else None for value in values]
