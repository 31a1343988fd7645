"""Few network calls a decision: which objective serves a policy best, all students trained for equally long.

Every method has the network, data, batch and optimiser of the recipe and the same seconds of training on one thread. A
policy then acts from the same starts and with the same noise at 1, 2 and 4 network calls a decision, everything counted
(constant acceleration asks for its initial velocity first). Told beside success: how the ways were shared among the
successful episodes (the fork's lanes), steps, seconds of the teacher and of making its pairs. Two families, as some
objectives are defined for one meaning of the network alone:

    velocity    the network predicts the velocity: consistency flow matching and constant acceleration need that
    data        the network predicts the actions (x1), as the recipes do: with AdaFlow at its own number of calls,
                Rectified Diffusion, and CaLMFlow, whose transformer makes points on the way to them in four calls

Students of a teacher begin with the weights of plain flow matching of the same family and seed; "twice the time" is
plain flow matching with the teacher's seconds and the student's.

    python benchmarks/policy_few_steps.py --family data --seed 0 --seconds 45 --out data-0.json
    python benchmarks/policy_few_steps.py --merge data-?.json velocity-?.json --out benchmarks/out/policy_few_steps.json
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

if not __package__:  # started as a script: the root of the repository holds the modules
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.policy.few_steps import CALLS, PLAIN, merge, tables
from domains.policy.pipeline import FlowPolicy
from domains.policy.rollout import rollout
from flowkit import atomic
from flowkit.artifacts import from_pretrained
from flowkit.config.overrides import Override
from flowkit.solvers.variance_adaptive import VarianceAdaptive
from flowkit.train.comparison import Comparison
from flowkit.train.comparison_entry import Entry
from flowkit.train.reflow import PAIRS
from flowkit.train.summary import device_name


@dataclass(frozen=True)
class Method:
    """A line of the table.

    Args:
        entry: the objective as ``flowkit compare`` writes it.
        pairs: trained on pairs of plain flow matching.
        stage: setting that counts the steps of a first stage, and its share of the training.
        times: seconds of training, in those of the others.
        adaptive: also acts with steps chosen by the predicted spread, at most ten.
    """

    entry: str
    pairs: bool = False
    stage: tuple[str, float] | None = None
    times: int = 1
    adaptive: bool = False


TWICE = "flow matching, twice the time"
#: Observations are continuous: noise and actions are paired among nearby ones.
_OT = 'FlowMatching:coupling=MinibatchOT:coupling.condition_cost={"observation": 100}'
#: Four calls; a transformer of about as many weights as the perceptron, the observation in front.
_CALM = (
    "CaLMFlow:points=5:latent=16:task.network=CausalTransformer:task.network.width=64:task.network.layers=4:"
    "task.network.heads=4"
)
_BOTH = {
    PLAIN: Method("FlowMatching"),
    TWICE: Method("FlowMatching", times=2),
    "OT coupling": Method(_OT),
    "learned coupling": Method("FlowMatching:coupling=LearnedCoupling:coupling.beta=20"),
    "reflow": Method("FlowMatching", pairs=True),
    "SeqRF, 2 segments": Method("SeqRF:segments=2"),
}
FAMILIES: dict[str, dict[str, Method]] = {
    "velocity": {
        **_BOTH,
        "Consistency-FM, 1 segment": Method("ConsistencyFM:segments=1:delta=0.01", stage=("anchored_steps", 0.5)),
        "Consistency-FM, 2 segments": Method("ConsistencyFM:segments=2:delta=0.01", stage=("anchored_steps", 0.5)),
        "constant acceleration": Method(
            "ConstantAcceleration:speed=1.5:distance=SquaredError", pairs=True, stage=("velocity_steps", 0.4)
        ),
    },
    "data": {
        **_BOTH,
        "Rectified Diffusion": Method("RectifiedDiffusion", pairs=True),
        "AdaFlow": Method("AdaFlow", adaptive=True),
        "CaLMFlow": Method(f"{_CALM}:kl=1"),
        "CaLMFlow, kl 0.1": Method(f"{_CALM}:kl=0.1"),
        "CaLMFlow, kl 0.01": Method(f"{_CALM}:kl=0.01"),
    },
}
MEANINGS = {"velocity": "Velocity", "data": "DataPrediction"}
#: Environment -> its name, the recipe of network and data, and the eta of its AdaFlow.
ENVIRONMENTS = {
    "fork": ("FlowKit/Fork-v0", "policy/flow-fork", 0.15),
    "maze": ("FlowKit/PointMazeUMaze-v0", "policy/adaflow-pointmaze-umaze", 0.1),
    "large-maze": ("FlowKit/PointMazeLarge-v0", "policy/adaflow-pointmaze-umaze", 0.1),
}


class Bench:
    """One environment, family and seed.

    Args:
        arguments: the command line.
        folder: of runs, thrown away afterwards.
    """

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        self.arguments, self.folder, self.seed = arguments, folder, arguments.seed
        self.environment, self.recipe, self.eta = ENVIRONMENTS[arguments.environment]
        family = FAMILIES[arguments.family]
        self.methods = {name: family[name] for name in (PLAIN, *(arguments.methods or family))}
        quiet = ("evaluate_every", "sample_every", "checkpoint_every")
        self.common: list[Override] = [
            *((f"trainer.{key}", "0") for key in quiet), ("trainer.progress", "false"),
            ("trainer.tensorboard", "false"), ("trainer.log_every", "1000"), ("task.rollout_episodes", "0"),
            ("data.environment", self.environment), ("task.objective.prediction", MEANINGS[arguments.family]),
        ]  # fmt: skip
        self.pairs_seconds: float | None = None
        self.results: dict[str, Any] = {}

    def run(self) -> None:
        """Train and act, method by method; results are written as they come."""
        for name, method in self.methods.items():
            began = time.perf_counter()
            result = self._one(method)
            self.results[name] = {**result, "whole_seconds": time.perf_counter() - began}
            atomic.write_json(self.arguments.out, self.report())
            shown = {calls: point["success"] for calls, point in result["calls"].items()}
            print(f"{name}: {result['steps']} steps in {result['seconds']:.1f} s, success {shown}", flush=True)

    def report(self) -> dict[str, Any]:
        """What is written: one run, to be merged with others."""
        part = {
            "environment": self.environment, "family": self.arguments.family, "seed": self.seed,
            "seconds": self.arguments.seconds, "starts": self.arguments.starts, "pairs": self.arguments.pairs,
            "methods": self.results,
        }  # fmt: skip
        return {"machine": device_name(torch.device("cpu")), "torch": torch.__version__, "runs": [part]}

    # --- training ---------------------------------------------------------------------------------------------------

    def _one(self, method: Method) -> dict[str, Any]:
        text = method.entry
        if method.pairs:
            text += f":pairs={self.arguments.pairs}"
        if method.times > 1:
            text += f":trainer.seconds={method.times * self.arguments.seconds:g}"
        if method.stage:
            text += f":{method.stage[0]}={self._stage(text, *method.stage)}"
        taken, run = self._train(text, self.arguments.seconds, "runs")
        if method.pairs:  # the first student's round makes the pairs, the others find them
            self.pairs_seconds = self.pairs_seconds or taken["pairs_seconds"]
            taken["pairs_seconds"] = self.pairs_seconds
        keys = ("steps", "seconds", "parameters", "teacher_seconds", "pairs_seconds", "relative_straightness")
        kept = {key: taken[key] for key in keys if taken.get(key) is not None}
        return {"entry": text, **kept, "missing": taken["missing"], "calls": self._act(run, taken, method)}

    def _train(self, text: str, seconds: float, out: str) -> tuple[dict[str, Any], Path]:
        """Train an entry, with plain flow matching for its teacher where it wants one."""
        entry = Entry.parse(text)
        place, name = self.folder / out / entry.folder, f"seed-{self.seed}"
        run = place / entry.folder / name
        plain = self.folder / "runs" / "FlowMatching" / "FlowMatching" / name
        if entry.pairs:
            shared = self.folder / PAIRS
            for folder in (shared, run):
                folder.mkdir(parents=True, exist_ok=True)
            (run / PAIRS).symlink_to(shared, target_is_directory=True)
        comparison = Comparison(
            self.recipe, [entry], nfe=CALLS, seconds=seconds, steps=self.arguments.steps, seeds=[self.seed],
            overrides=self.common, limit=64, teacher=str(plain) if text != "FlowMatching" else "",
            tell=lambda line: print(line, flush=True),
        )  # fmt: skip
        return comparison.run(place)["results"][entry.name][str(self.seed)], run

    def _stage(self, text: str, name: str, share: float) -> int:
        """Steps of the first stage: its share of what fits, by the pace of a few seconds, those of its end."""
        if self.arguments.steps:
            return round(share * self.arguments.steps)
        seconds = min(4.0, self.arguments.seconds / 5)
        taken, _ = self._train(f"{text}:{name}=20", seconds, "paces")
        return round(share * taken["steps"] * self.arguments.seconds / taken["seconds"])

    # --- acting -----------------------------------------------------------------------------------------------------

    def _act(self, run: Path, taken: dict[str, Any], method: Method) -> dict[str, Any]:
        """Success, calls and ways by number of network calls."""
        sampler = from_pretrained(run).sampler
        samplers = {
            calls: replace(sampler, steps=point["steps"], controller=None) for calls, point in taken["points"].items()
        }
        if method.adaptive:
            samplers["adaptive"] = replace(sampler, controller=VarianceAdaptive(eta=self.eta, max_steps=10))
        found = {}
        for calls, chosen in samplers.items():
            policy = FlowPolicy.from_pretrained(run, sampler=chosen)
            records = rollout(policy, self.environment, episodes=self.arguments.starts, seed=0, envs=50)
            successes = [record for record in records if record.success]
            plans = [plan for record in records for plan in record.decisions]
            modes = sorted({record.mode for record in successes if record.mode is not None})
            found[calls] = {
                "success": len(successes) / len(records),
                "calls": statistics.fmean(plan.network_calls for plan in plans),
                "modes": {str(mode): statistics.fmean(r.mode == mode for r in successes) for mode in modes},
                "jerk": statistics.fmean(r.jerk for r in records if r.jerk is not None),
                "successes": [int(record.success) for record in records],
            }
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out/policy_few_steps.json"))
    parser.add_argument("--environment", choices=list(ENVIRONMENTS), default="fork")
    parser.add_argument("--family", choices=list(FAMILIES), default="data")
    parser.add_argument("--methods", nargs="+", choices=sorted({m for f in FAMILIES.values() for m in f}))
    parser.add_argument("--seed", type=int, default=0, help="one process for each, then --merge")
    parser.add_argument("--seconds", type=float, default=45.0, help="of each training")
    parser.add_argument("--steps", type=int, default=0, help="of each training, at most: for rehearsals")
    parser.add_argument("--starts", type=int, default=200, help="episodes of each number of calls")
    parser.add_argument("--pairs", type=int, default=20_000, help="of the teacher, by RK4 with 25 steps")
    parser.add_argument("--merge", nargs="+", type=Path, metavar="JSON")
    arguments = parser.parse_args()
    if arguments.merge:
        whole = merge(arguments.merge)
        atomic.write_json(arguments.out, whole)
        print(tables(whole, FAMILIES))
        return
    unknown = [name for name in arguments.methods or () if name not in FAMILIES[arguments.family]]
    if unknown:
        parser.error(
            f"--methods {unknown[0]!r}: the family {arguments.family} has {', '.join(FAMILIES[arguments.family])}"
        )
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(arguments, Path(folder))
        bench.run()
    print(tables(bench.report(), FAMILIES))


if __name__ == "__main__":
    main()
