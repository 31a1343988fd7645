"""PushT from 90 human episodes: AdaFlow and Diffusion Policy with the published network, judged on 50 starts.

    python benchmarks/policy_pusht.py --data pusht.npz --method adaflow|diffusion [--steps 6000] [--seconds 250]

For one GPU. The data are the arrays of Diffusion Policy's recordings (keypoint, state, action, episode_ends). Reports
the mean over episodes of the largest reward, success (95 % of the mark covered) and evaluations a decision.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if not __package__:  # started as a script: the root of the repository holds the modules
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import yaml

from benchmarks.policies import NOISE, make_sampler
from domains.policy.metrics import summarise
from domains.policy.pipeline import FlowPolicy
from domains.policy.rollout import rollout
from domains.policy.task import PolicyTask
from flowkit import atomic
from flowkit.config.recipe import load_recipe
from flowkit.errors import UserError
from flowkit.train.trainer import Trainer

ENVIRONMENT = "FlowKit/PushT-v0"
#: Method -> name in the table -> solver, steps, eta.
SAMPLERS: dict[str, dict[str, tuple[str, int, float | None]]] = {
    "adaflow": {
        **{f"Euler {n}": ("Euler", n, None) for n in (1, 2, 5, 10)},
        **{f"eta {eta:g}, at most 10": ("Euler", 10, eta) for eta in (0.125, 0.0625, 0.04, 0.025)},
    },
    "diffusion": {f"DDIM {n}": ("DDIM", n, None) for n in (1, 2, 5, 10)},
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, roll out, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="NPZ")
    parser.add_argument("--method", choices=tuple(SAMPLERS), required=True)
    parser.add_argument("--steps", type=int, default=25_000)
    parser.add_argument("--seconds", type=float, default=0.0, help="end by the clock (0: no limit)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--run", type=Path, default=Path("runs/pusht"), help="folder of the training")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change the recipe")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the figures as JSON")
    args = parser.parse_args(arguments)
    try:
        rows = measure(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if args.out is not None:
        atomic.write_json(args.out, {"method": args.method, "steps": args.steps, "seed": args.seed, "rows": rows})
    return 0


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """One row a sampler."""
    overrides = [
        ("data.file", str(args.data)), ("trainer.steps", str(args.steps)), ("trainer.seconds", str(args.seconds)),
        ("task.rollout_episodes", "0"), ("trainer.evaluate_every", "0"), ("trainer.sample_every", "0"),
        ("trainer.checkpoint_every", "0"), ("seed", str(args.seed)),
    ]  # fmt: skip
    if args.method == "diffusion":
        objective = yaml.safe_dump({"class_path": "FlowMatching", "init_args": NOISE})
        overrides += [("task.objective", objective), ("sampler.controller", "null")]
    overrides += [(key, value) for key, _, value in (text.partition("=") for text in args.set)]
    recipe = load_recipe("policy/adaflow-pusht", overrides, trainer=Trainer)
    built = recipe.build()
    assert isinstance(built.task, PolicyTask)
    began = time.perf_counter()
    summary = built.trainer.fit(
        built.task, built.data, sampler=built.sampler, seed=built.seed, folder=args.run, recipe_text=recipe.dump()
    )
    print(f"{args.method}: {summary['steps']} steps in {time.perf_counter() - began:.0f} s")
    print("| sampler | mean largest reward | success (95 %) | NFE |\n|---|---|---|---|")
    rows = []
    for name, sampler in SAMPLERS[args.method].items():
        policy = FlowPolicy(built.task, make_sampler(*sampler))
        found = summarise(rollout(policy, ENVIRONMENT, episodes=args.episodes, seed=0, envs=min(args.episodes, 50)))
        rate = found.success
        interval = f"{rate.value:.2f} ({rate.low:.2f} to {rate.high:.2f})"
        print(f"| {name} | {found.max_reward:.3f} | {interval} | {found.nfe.mean:.2f} |", flush=True)
        rows.append({"sampler": name, **found.to_json()})
    return rows


if __name__ == "__main__":
    sys.exit(main())
