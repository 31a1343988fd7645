"""Policies side by side: the same network, data, seeds and starts for every method, on environments with an expert.

    python benchmarks/policies.py run --out FOLDER [--environments FlowKit/Fork-v0 ...] [--seeds 0 1 2] [--jobs 2]
    python benchmarks/policies.py table FOLDER [--out results.json]

``run`` trains one network a (environment, training, seed) and rolls each out with all samplers that fit it, from the
same starts and with the same noise; what is finished is kept, and a second ``run`` goes on. ``table`` prints success
with intervals, network calls, and the paired differences. Trainings:

    flow        flow matching of the chunk (x1 prediction) with AdaFlow's variance head on shared, detached features:
                fixed Euler steps and the adaptive rule sample the very same weights
    separate    the same with the variance in a network of its own (counted as a call)
    rectified   one reflow of the network of flow: 20,000 of its own pairs, 3,000 more steps (on the fork)
    bc          behaviour cloning: regression of the chunk
    diffusion   Diffusion Policy: squared-cosine schedule of 100 steps, noise prediction, trailing DDIM steps
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

if not __package__:  # started as a script: the root of the repository holds the modules
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.policy.comparison import Comparison
from flowkit import atomic
from flowkit.errors import UserError


@dataclass(frozen=True)
class Setting:
    """What differs from one environment to the next."""

    environment: str
    state: int
    actions: int
    episodes: int
    starts: int
    history: int = 1
    horizon: int = 16
    execute: int = 8


#: Low-dimensional environments with scripted experts.
SETTINGS = (
    Setting("FlowKit/Fork-v0", 2, 1, 200, 200),
    Setting("FlowKit/PointMazeUMaze-v0", 8, 2, 100, 100),
    Setting("FlowKit/PointMazeMedium-v0", 8, 2, 100, 50),
    Setting("FlowKit/PointMazeLarge-v0", 8, 2, 100, 50),
    Setting("FlowKit/PointMazeRing-v0", 8, 2, 100, 50),
    Setting("FlowKit/MetaWorld-reach-v0", 39, 4, 50, 50),
    Setting("FlowKit/MetaWorld-push-v0", 39, 4, 50, 50),
    Setting("FlowKit/MetaWorld-door-open-v0", 39, 4, 50, 50),
    Setting("FlowKit/MetaWorld-drawer-open-v0", 39, 4, 50, 50),
    Setting("FlowKit/MetaWorld-drawer-close-v0", 39, 4, 50, 50),
    Setting("FlowKit/MetaWorld-button-press-topdown-v0", 39, 4, 50, 50),
    Setting("FlowKit/MetaWorld-window-open-v0", 39, 4, 50, 50),
)
FORK = "FlowKit/Fork-v0"


#: Samplers of the trainings: name in the tables -> solver, steps, eta (None: fixed steps).
EULER = {f"Euler {n}": ("Euler", n, None) for n in (1, 2, 3, 5, 10)}
ADAPTIVE = {
    f"adaptive eta {eta:g}, at most {n}": ("Euler", n, eta)
    for eta, n in ((0.5, 5), (0.25, 5), (0.125, 5), (0.0625, 20), (0.025, 20))
}
DDIM = {f"DDIM {n}": ("DDIM", n, None) for n in (1, 2, 3, 5, 10)}
X1 = {"prediction": {"class_path": "DataPrediction"}}
NOISE = {
    "path": {"class_path": "DiffusionPath"},
    "prediction": {"class_path": "NoisePrediction"},
    "times": {"class_path": "GridTimes", "init_args": {"steps": 100}},
}
#: Training -> its objective and the samplers that fit it.
TRAININGS: dict[str, tuple[dict[str, Any], Mapping[str, tuple[str, int, float | None]]]] = {
    "flow": ({"class_path": "AdaFlow", "init_args": X1}, {**EULER, **ADAPTIVE}),
    "separate": ({"class_path": "AdaFlow", "init_args": {**X1, "variance": "separate"}}, ADAPTIVE),
    "rectified": ({"class_path": "AdaFlow", "init_args": X1}, {**EULER, **ADAPTIVE}),
    "bc": ({"class_path": "Regression"}, {"one call": ("Euler", 1, None)}),
    "diffusion": ({"class_path": "FlowMatching", "init_args": NOISE}, DDIM),
}


#: The whole curves are drawn on the fork; elsewhere these.
ELSEWHERE = (
    "Euler 1", "Euler 2", "Euler 10", "adaptive eta 0.25, at most 5", "adaptive eta 0.125, at most 5", "one call",
    "DDIM 1", "DDIM 10",
)  # fmt: skip


def make_sampler(solver: str, steps: int, eta: float | None) -> Any:
    """The sampler that a row of the table names; DDIM clips its data prediction to the range of the actions."""
    from flowkit.solvers.ddim import DDIM as Ddim
    from flowkit.solvers.euler import Euler
    from flowkit.solvers.sampler import Sampler
    from flowkit.solvers.variance_adaptive import VarianceAdaptive

    if eta is not None:
        return Sampler(Euler(), steps, controller=VarianceAdaptive(eta=eta, max_steps=steps))
    return Sampler(Ddim(clip=1.0) if solver == "DDIM" else Euler(), steps)


def recipe(setting: Setting, training: str, seed: int, steps: int) -> dict[str, Any]:
    """The recipe of one training; only the objective and its sampler differ between trainings."""
    objective, _ = TRAININGS[training]
    shape = {"horizon": setting.horizon, "execute": setting.execute, "history": setting.history}
    data = {"environment": setting.environment, "episodes": setting.episodes, **shape}
    task = {
        "network": {"class_path": "ChunkMLP", "init_args": {"width": 256, "depth": 3}},
        "state": setting.state,
        "actions": setting.actions,
        "environment": setting.environment,
        **shape,
        "objective": objective,
    }
    return {
        "data": {"class_path": "ScriptedDemonstrations", "init_args": data},
        "task": {"class_path": "PolicyTask", "init_args": task},
        "trainer": {
            "steps": steps, "batch": 256, "lr": 1.0e-3, "optimiser": {"class_path": "AdamW"}, "schedule": "cosine",
            "ema": 0.999, "evaluate_every": 0, "sample_every": 0, "checkpoint_every": 0, "log_every": 1000,
            "tensorboard": False, "progress": False, "device": "cpu",
        },
        "sampler": {"solver": "Euler", "steps": 5},
        "seed": seed,
    }  # fmt: skip


def job(folder: Path, setting: Setting, training: str, seed: int, steps: int) -> None:
    """Train one network unless that was done, and roll it out with every sampler."""
    import torch

    from domains.policy.pipeline import FlowPolicy
    from domains.policy.rollout import rollout
    from flowkit.config.recipe import parse_recipe
    from flowkit.train.reflow import Reflow
    from flowkit.train.trainer import Trainer

    torch.set_num_threads(1)
    run = folder / "run"
    if training == "rectified":
        teacher = folder.parent / f"flow-{seed}" / "run"
        fast = [("trainer.steps", "3000"), ("trainer.progress", "false"), ("trainer.tensorboard", "false")]
        if not (run / "summary.json").is_file():
            Reflow(pairs=20_000, overrides=fast, seed=seed).round(teacher, run)
    elif not (run / "summary.json").is_file():
        parsed = parse_recipe(recipe(setting, training, seed, steps), training, trainer=Trainer)
        built = parsed.build()
        built.trainer.fit(
            built.task, built.data, sampler=built.sampler, seed=built.seed, folder=run, recipe_text=parsed.dump(),
            resume="last" if run.exists() else None,
        )  # fmt: skip
    for name, sampler in TRAININGS[training][1].items():
        if setting.environment != FORK and name not in ELSEWHERE:
            continue
        target = folder / f"{name.replace(' ', '-').replace(',', '')}.json"
        if target.is_file():
            continue
        policy = FlowPolicy.from_pretrained(run, sampler=make_sampler(*sampler))
        began = time.perf_counter()
        records = rollout(policy, setting.environment, episodes=setting.starts, seed=0, envs=25)
        atomic.write_json(
            target,
            {
                "environment": setting.environment, "training": training, "sampler": name, "seed": seed, "steps": steps,
                "seconds": time.perf_counter() - began, "episodes": [r.to_json() for r in records],
            },
        )  # fmt: skip


def references(folder: Path, setting: Setting) -> None:
    """The expert's and the random policy's row."""
    from domains.policy.actors import ExpertActor, RandomActor
    from domains.policy.rollout import rollout

    for name, actor, most in (("expert", ExpertActor(setting.environment), 200), ("random", RandomActor(), 20)):
        target = folder / f"{name}.json"
        if target.is_file():
            continue
        records = rollout(actor, setting.environment, episodes=min(setting.starts, most), seed=0, envs=8)
        content = {"environment": setting.environment, "training": name, "sampler": "", "seed": 0, "steps": 0}
        atomic.write_json(target, {**content, "episodes": [r.to_json() for r in records]})


def chosen(args: argparse.Namespace) -> Iterator[tuple[Setting, str, int]]:
    """The networks to train."""
    for seed in args.seeds:
        for setting in SETTINGS:
            if args.environments and setting.environment not in args.environments:
                continue
            for training in args.trainings or TRAININGS:
                if training in ("separate", "rectified") and setting.environment != FORK and not args.trainings:
                    continue
                yield setting, training, seed


def run(args: argparse.Namespace) -> int:
    """Prepare the demonstrations, then a process a network, ``--jobs`` at a time."""
    settings = [s for s in SETTINGS if not args.environments or s.environment in args.environments]
    here = [sys.executable, str(Path(__file__).resolve()), "job", "--out", str(args.out), "--steps", str(args.steps)]
    here += ["--starts", str(args.starts)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    first = [[*here, "--environment", s.environment, "--training", "references", "--seed", "0"] for s in settings]
    networks, last = (
        [
            [*here, "--environment", s.environment, "--training", training, "--seed", str(seed)]
            for s, training, seed in chosen(args)
            if (training == "rectified") == begins_from_another
        ]
        for begins_from_another in (False, True)
    )
    failed = 0
    with ThreadPoolExecutor(args.jobs) as pool:
        for commands in (first, networks, last):
            for command, done in zip(
                commands,
                pool.map(lambda c: subprocess.run(c, env=env, capture_output=True, text=True, check=False), commands),
                strict=True,
            ):
                name = " ".join(command[-5:])
                if done.returncode:
                    failed += 1
                    print(f"FAILED {name}: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr, flush=True)
                else:
                    print(f"done {name}", flush=True)
    return 1 if failed else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """See the head of the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    runner = verbs.add_parser("run", help="train and roll out")
    runner.add_argument("--out", type=Path, required=True)
    runner.add_argument("--environments", nargs="*", choices=[s.environment for s in SETTINGS])
    runner.add_argument("--trainings", nargs="*", choices=list(TRAININGS))
    runner.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    runner.add_argument("--steps", type=int, default=10_000)
    runner.add_argument("--starts", type=int, default=0, help="fewer episodes a row than the settings say, for a try")
    runner.add_argument("--jobs", type=int, default=1)
    one = verbs.add_parser("job", help="one network (what run starts)")
    one.add_argument("--out", type=Path, required=True)
    one.add_argument("--environment", required=True)
    one.add_argument("--training", required=True)
    one.add_argument("--seed", type=int, required=True)
    one.add_argument("--steps", type=int, required=True)
    one.add_argument("--starts", type=int, default=0)
    table = verbs.add_parser("table", help="what came out")
    table.add_argument("folder", type=Path)
    table.add_argument("--out", type=Path, metavar="FILE", help="write the figures as JSON")
    args = parser.parse_args(arguments)
    try:
        if args.verb == "run":
            return run(args)
        if args.verb == "job":
            setting = next(s for s in SETTINGS if s.environment == args.environment)
            setting = replace(setting, starts=args.starts or setting.starts)
            place = args.out / setting.environment.replace("/", "_") / f"{args.training}-{args.seed}"
            place.mkdir(parents=True, exist_ok=True)
            if args.training == "references":
                prepare(setting, args.steps)
                references(place, setting)
            else:
                job(place, setting, args.training, args.seed, args.steps)
            return 0
        comparison = Comparison.read(args.folder)
        print(comparison.tables())
        print(comparison.claims())
        if args.out is not None:
            args.out.write_text(json.dumps(comparison.figures(), indent=1) + "\n", encoding="utf-8")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def prepare(setting: Setting, steps: int) -> None:
    """Record the expert once, before several processes ask for it."""
    from flowkit.config.recipe import parse_recipe

    parse_recipe(recipe(setting, "bc", 0, steps), "demonstrations", keys=("data",)).build("data").data.prepare()


if __name__ == "__main__":
    sys.exit(main())
