"""Acting with an exported policy, on the CPU: the same draws as :class:`domains.policy.pipeline.FlowPolicy`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from domains.policy.exporting import ACTIONS, NOISE, PROGRAM, input_name
from domains.policy.noise import PlanNoise, standard_noise
from domains.policy.observations import ObservationLayout
from flowkit.errors import UserError
from flowkit.random import mix_seed, normal

if TYPE_CHECKING:
    from flowkit.export.runtime import Exported


class ExportedPolicy:
    """A policy as a program, in one environment::

        policy = ExportedPolicy.open("exports/fork")
        policy.reset(seed=0)
        action = policy(observation)

    Args:
        exported: the program of a policy.

    Attributes:
        layout: how observations must look.
        history, horizon, execute: observations seen, actions of a chunk, and how many of them are carried out.

    Raises:
        UserError: it is of something else.
    """

    def __init__(self, exported: Exported) -> None:
        if PROGRAM not in exported:
            raise UserError(f"{exported.folder} is no policy: it is an export of {exported.info['task']}")
        self.exported, self.facts = exported, exported.facts
        self.layout = ObservationLayout.from_json(self.facts["layout"])
        self.history, self.horizon, self.execute = (int(self.facts[k]) for k in ("history", "horizon", "execute"))
        names = ["state"] if self.facts["state"] else []
        self._parts = [*names, *(f"image/{name}" for name in self.facts["images"])]
        self._seen: dict[str, np.ndarray] = {}
        self._chunk = np.zeros((0, int(self.facts["actions"])), np.float32)
        self._seed = self._decision = self._episodes = 0

    @classmethod
    def open(cls, folder: str | Path, *, runtime: str | None = None, threads: int = 0) -> ExportedPolicy:
        """Of an export folder."""
        from flowkit.export.runtime import open_export

        return cls(open_export(folder, runtime=runtime, threads=threads))

    def reset(self, *, seed: int | None = None) -> None:
        """An episode begins. ``seed`` decides all draws of it; None counts the episodes of this object from 0."""
        self._seed = self._episodes if seed is None else seed
        self._seen, self._chunk, self._decision = {}, self._chunk[:0], 0
        self._episodes += 1

    def __call__(self, observation: Any) -> np.ndarray:
        """The next action (A,) float32 for an observation of the environment.

        Raises:
            UserError: the observation is not what the policy was trained on.
        """
        if not self._episodes:
            self.reset()
        parts = self.layout.parts(observation)
        for name in self._parts:
            new = parts[name][None]
            before = self._seen.get(name)
            self._seen[name] = np.repeat(new, self.history, 0) if before is None else np.concatenate([before[1:], new])
        if not len(self._chunk):
            self._chunk = self._plan()[: self.execute]
        action, self._chunk = self._chunk[0], self._chunk[1:]
        return action

    def _plan(self) -> np.ndarray:
        seeds = [mix_seed(self._seed, self._decision)]
        self._decision += 1
        inputs = {input_name(name): seen[None] for name, seen in self._seen.items()}
        if self.facts["noise"]:
            shape = (self.horizon, int(self.facts["actions"]))
            standard = self.facts["standard"]
            drawn = standard_noise(seeds, shape) if standard else normal((1, *shape), PlanNoise(seeds))
            inputs[NOISE] = drawn.numpy()
        return self.exported(PROGRAM, **inputs)[ACTIONS][0]
