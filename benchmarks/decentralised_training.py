"""Decentralised SGD as users run it (``trainer.topology`` of a recipe): do agents learn what none of them has seen?

Four agents hold two of eight Gaussians each (recipe generic/mixture-gossip). Asked is that the mean model's
flow-matching loss on all eight lies within 5 % of that of central training on as many samples, and that of each agent
alone at least 20 % above it. A process makes one training; ``table`` puts them together.

    python benchmarks/decentralised_training.py train --kind ring --seed 0 --out out/ring-0.json
    python benchmarks/decentralised_training.py table out/*.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from flowkit import atomic
from flowkit.config.overrides import Override
from flowkit.config.recipe import load_recipe
from flowkit.train.trainer import Trainer

AGENTS, BATCH = 4, 128
#: A weight so small that agents are alone.
NOTHING = "1e-30"


def overrides(args: argparse.Namespace) -> list[Override]:
    """The recipe's values that a kind of training changes."""
    every = {
        "seed": args.seed, "data.held_out": 40_000, "trainer.steps": args.steps, "trainer.ema": 0.0,
        "trainer.clip": args.clip, "trainer.evaluate_every": args.steps, "trainer.sample_every": 0,
        "trainer.checkpoint_every": 0, "trainer.log_every": max(args.steps // 20, 1), "trainer.tensorboard": "false",
        "trainer.progress": "false", "trainer.device": "cpu", "trainer.schedule": args.schedule,
    }  # fmt: skip
    if args.kind == "central":
        kind = {
            "trainer.topology": "OneModel", "trainer.optimiser": "SGD", "trainer.lr": args.step,
            "trainer.batch": BATCH * AGENTS,
        }  # fmt: skip
    else:
        kind = {
            "trainer.batch": BATCH, "trainer.topology.graph": "ring" if args.kind == "alone" else args.kind,
            "trainer.topology.step": args.step, "trainer.topology.step_decay": args.step_decay,
            "trainer.topology.mix": NOTHING if args.kind == "alone" else args.mix,
            "trainer.topology.mix_decay": args.mix_decay, "trainer.topology.hold": args.hold,
            "trainer.topology.split": args.split, "trainer.topology.optimiser": args.optimiser,
            "trainer.topology.spread": str(args.kind == "alone").lower(),
        }  # fmt: skip
    return [(key, str(value)) for key, value in {**every, **kind}.items()]


def train(args: argparse.Namespace) -> dict[str, Any]:
    """One training of the recipe; what came out."""
    torch.set_num_threads(1)
    began = time.perf_counter()
    recipe = load_recipe("generic/mixture-gossip", overrides(args), trainer=Trainer)
    built = recipe.build()
    with tempfile.TemporaryDirectory() as folder:
        summary = built.trainer.fit(
            built.task, built.data, sampler=built.sampler, seed=built.seed, folder=Path(folder) / "run",
            recipe_text=recipe.dump(),
        )  # fmt: skip
        lines = [json.loads(line) for line in (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()]
    settings = {name: value for name, value in vars(args).items() if name not in ("out", "what", "seed")}
    metrics = summary["metrics"]
    return {
        "settings": settings,
        "seed": args.seed,
        "loss": metrics["eval/agents_best_loss" if args.kind == "alone" else "eval/loss"],
        "energy distance": metrics["eval/energy_distance"],
        "consensus": {line["step"]: line["train/consensus"] for line in lines if "train/consensus" in line},
        "metrics": metrics,
        "seconds": time.perf_counter() - began,
        "device": summary["device"],
        "versions": summary["versions"],
    }


def table(files: Sequence[str]) -> None:
    """Losses by setting, over those of central training of the same steps and seed (the best of its step sizes)."""
    found = [json.loads(Path(file).read_text()) for file in files]
    central: dict[tuple[int, int], float] = {}
    for entry in found:
        if entry["settings"]["kind"] == "central":
            key = (entry["settings"]["steps"], entry["seed"])
            central[key] = min(central.get(key, float("inf")), entry["loss"])
    groups: dict[str, list[dict[str, Any]]] = {}
    for entry in found:
        groups.setdefault(json.dumps(entry["settings"]), []).append(entry)
    print(
        "| kind | steps | settings | losses | over central (median) | consensus at the end |\n|---|---|---|---|---|---|"
    )
    for text, entries in sorted(groups.items()):
        entries.sort(key=lambda entry: entry["seed"])
        kind = json.loads(text)
        usual = {name: value for name, value in kind.items() if name not in ("kind", "steps")}
        over = [
            e["loss"] / central[kind["steps"], e["seed"]] - 1 for e in entries if (kind["steps"], e["seed"]) in central
        ]
        last = [next(reversed(e["consensus"].values())) for e in entries if e["consensus"]]
        told = ", ".join(f"{name} {value}" for name, value in usual.items())
        percent = ", ".join(f"{100 * share:.1f}" for share in over)
        median = f" % ({100 * statistics.median(over):.1f})" if over else ""
        losses = ", ".join(f"{e['loss']:.3f}" for e in entries)
        print(
            f"| {kind['kind']} | {kind['steps']} | {told} | {losses} | {percent}{median} | {max(last, default=0):.2g} |"
        )


def main(argv: list[str] | None = None) -> None:
    """Train once, or tabulate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="what", required=True)
    one = verbs.add_parser("train")
    one.add_argument("--kind", choices=("central", "ring", "exponential", "complete", "alone"), required=True)
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--steps", type=int, default=3000)
    one.add_argument("--step", type=float, default=0.1, help="a_1")
    one.add_argument("--step-decay", type=float, default=0.0)
    one.add_argument("--mix", type=float, default=0.0, help="b_1, 0: 1 / the largest eigenvalue")
    one.add_argument("--mix-decay", type=float, default=0.0)
    one.add_argument("--hold", type=float, default=1.0)
    one.add_argument("--schedule", default="cosine")
    one.add_argument("--split", default="blocks")
    one.add_argument("--clip", type=float, default=0.0)
    one.add_argument("--optimiser", default="SGD")
    one.add_argument("--out", required=True)
    several = verbs.add_parser("table")
    several.add_argument("files", nargs="+")
    args = parser.parse_args(argv)
    if args.what == "table":
        table(args.files)
        return
    result = train(args)
    print(args.kind, args.seed, f"{result['loss']:.4f}", f"{result['seconds']:.0f} s", flush=True)
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    atomic.write_json(Path(args.out), result)


if __name__ == "__main__":
    main()
