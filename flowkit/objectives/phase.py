"""Stages and turns of training."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Phase:
    """A stage (``first_step`` to ``last_step``) or a turn (``every``) of training: which parameters learn, and how.

    ``parameters`` are prefixes of parameter names of the task, () means all; those that begin with one of ``without``
    are left out again. ``lr`` overrides the trainer's.
    """

    name: str = "main"
    parameters: tuple[str, ...] = ()
    first_step: int = 0
    last_step: int | None = None
    every: int = 1
    lr: float | None = None
    without: tuple[str, ...] = ()

    def holds(self, parameter: str) -> bool:
        """Whether the parameter of that name learns in this phase."""
        return parameter.startswith(self.parameters or ("",)) and not (
            self.without and parameter.startswith(self.without)
        )
