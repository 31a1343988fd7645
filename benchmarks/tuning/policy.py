"""A policy of one Meta-World task, fitted to a few demonstrations of another."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.tuning.case import Case


class PolicyCase(Case):
    """Judged by success from starts that no demonstration has.

    Args:
        environment: gymnasium id of the new task.
        demonstrations: of its scripted expert.
    """

    def __init__(
        self, *, environment: str, demonstrations: int, base: str = "policy/metaworld-push", device: str, limit: int
    ) -> None:
        self.base, self.device, self.limit = base, device, limit
        self.environment, self.demonstrations = environment, demonstrations

    def data(self, *, light: bool = False) -> Mapping[str, Any]:
        return {
            "class_path": "ScriptedDemonstrations",
            "init_args": {
                "environment": self.environment, "episodes": self.demonstrations, "horizon": 16, "execute": 8,
                "validation": 0.0,
            },
        }  # fmt: skip

    def overrides(self) -> list[tuple[str, str]]:
        return [("task.environment", self.environment)]

    def judge(self, model: str, keep: Path | None) -> dict[str, float]:
        from domains.policy.evaluation import evaluate_rollouts
        from domains.policy.pipeline import FlowPolicy

        policy = FlowPolicy.from_pretrained(model)
        found = evaluate_rollouts(policy, self.environment, episodes=self.limit, seed=self.seed, envs=25)
        return {name: found[name] for name in ("success", "return", "length", "nfe", "episodes") if name in found}

    def reference(self) -> dict[str, Any]:
        return {"environment": self.environment, "demonstrations": self.demonstrations}
