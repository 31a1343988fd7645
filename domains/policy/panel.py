"""The policy's part of ``flowkit app``: a few episodes, filmed, and how they ended."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import mean
from typing import Any

from domains.policy.pipeline import FlowPolicy
from flowkit.app.controls import Control, Number, Slider, TextLine
from flowkit.app.panel import Made, Panel, Progress, Show
from flowkit.artifacts import Artifact
from flowkit.clip import import_av
from flowkit.errors import UserError
from flowkit.solvers.sampler import Sampler


class PolicyPanel(Panel):
    """Lets a policy act in its environment."""

    button = "Roll out"
    shows = (Show("film", "film", "Episodes"), Show("sheet", "picture", "From start to end, an episode a row"))

    def __init__(self, artifact: Artifact) -> None:
        super().__init__(artifact)
        import_av()  # nothing can be shown without it
        self.policy: FlowPolicy = artifact.pipeline()
        #: The learnt spread may choose the steps.
        self.spread = self.policy.task.predicts_spread

    def controls(self) -> Sequence[Control]:
        """Environment, episodes, starts, seed, and how much of a chunk is carried out."""
        policy = self.policy
        return (
            TextLine(name="environment", label="Environment", value=policy.environment, info="a gymnasium id"),
            Slider(name="episodes", label="Episodes", low=1, high=9, value=4),
            Number(
                name="start", label="First start", value=100_000, dice=True,
                info="seed of the environment; no demonstration starts from 100000 on",
            ),
            Number(name="seed", label="Seed", dice=True, info="of the policy's own noise"),
            Slider(
                name="execute", label="Actions of a chunk that are carried out", low=1, high=policy.horizon,
                value=policy.execute, more=True,
            ),
            Slider(name="limit", label="Most steps of an episode", low=10, high=2000, value=500, step=10, more=True),
        )  # fmt: skip

    def run(self, asked: Mapping[str, Any], sampler: Sampler) -> Iterator[Progress | Made]:
        """Film the episodes one after the other."""
        from domains.policy.film import Film, film

        environment, first = (asked["environment"] or "").strip(), asked["start"]
        if not environment:
            raise UserError("the model does not name the environment it learned in: give a gymnasium id")
        if first < 0:
            raise UserError(f"first start {first}: at least 0")
        policy = FlowPolicy(self.policy.task, sampler, execute=asked["execute"])
        films: list[Film] = []
        count = asked["episodes"]
        for number in range(count):
            yield Progress(number / count, f"episode {number + 1} of {count}")
            # Within one step of this generator: a simulator's picture belongs to the thread that made it.
            films += film(policy, environment, [first + number], seed=asked["seed"], step_limit=asked["limit"])
        if not films:
            raise UserError(f"{environment} broke down before there was anything to film")
        yield Progress(1.0, "writing the film")
        yield _made(films)


def _made(films: Sequence[Any]) -> Made:
    from domains.policy.film import contact_sheet, tiled

    records = [f.record for f in films]
    plans = [plan for record in records for plan in record.decisions]
    rows = [
        (str(r.start), "success" if r.success else r.failed or "failed", f"{r.reward:.4g}", str(r.length),
         f"{mean(d.nfe for d in r.decisions):.2f}" if r.decisions else "-")
        for r in records
    ]  # fmt: skip
    won = sum(r.success for r in records)
    return Made(
        {"film": tiled(films), "sheet": contact_sheet(films)},
        mean(p.nfe for p in plans) if plans else None, mean(p.network_calls for p in plans) if plans else None,
        "decision", sum(p.seconds for p in plans),
        {
            "success": f"{won} of {len(records)}",
            "mean return": f"{mean(r.reward for r in records):.4g}",
            "decisions": str(len(plans)),
        },
        [("start", "verdict", "return", "steps", "NFE a decision"), *rows],
    )  # fmt: skip
