"""A trained flow that an objective learns from. The trainer loads it and hands it over; objectives never load a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from flowkit.fields.field import Field
from flowkit.objectives.objective import Networks, Objective
from flowkit.solvers.sampler import Sampler

__all__ = ["Teacher"]


@dataclass(frozen=True)
class Teacher:
    """Frozen networks with the objective that says what they mean. No part of a task: checkpoints leave it out.

    Args:
        objective: gives the field.
        networks: frozen, in evaluation mode.
        sampler: of the run; its guidance, where it has one, is the field's.
        name: the run, as it was asked for.
        digest: SHA-256 of its weights.
    """

    objective: Objective
    networks: Networks
    sampler: Sampler
    name: str = ""
    digest: str = ""

    def __post_init__(self) -> None:
        self.networks.requires_grad_(False).eval()

    def field(self) -> Field:
        """The velocity, guided as the run samples it."""
        field = self.objective.field(self.networks)
        return field if self.sampler.guidance is None else self.sampler.guidance.apply(field)

    def to(self, device: torch.device) -> Teacher:
        """Move it; returns itself."""
        self.networks.to(device)
        self.objective.to(device)
        return self

    def record(self) -> dict[str, Any]:
        """Where the lessons come from, for the run's summary."""
        return {"name": self.name, "digest": self.digest, "objective": type(self.objective).__name__}
