"""What a training step of every objective costs over plain flow matching's: time and peak memory, in one table.

Whole steps (loss, gradients, clipping, AdamW), without CUDA graphs, of the U-Net of
``imaging/fashion-flow-matching`` on one batch of random pictures; the same network for all, but for CaLMFlow, which
reads trajectories and has a transformer of about as many weights. Objectives take turns, and ratios are medians over
the rounds. Students are timed on pairs that are there; making those is not in it, teachers that are asked inside a step
are.

    python benchmarks/step_costs.py --device cuda --out benchmarks/out/step_costs.json     # a minute of a GPU
    python benchmarks/step_costs.py --small                                                # a tiny U-Net on a CPU
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if not __package__:  # started as a script: the root of the repository holds the modules
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.pictures import costs
from benchmarks.pictures.methods import METHODS, OTHERS
from flowkit import atomic
from flowkit.config.overrides import Override
from flowkit.train.summary import device_name

RECIPE = "imaging/fashion-flow-matching"
ALL = {**METHODS, **OTHERS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out/step_costs.json"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--methods", nargs="+", default=list(ALL), choices=list(ALL), metavar="NAME")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=20, help="of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--small", action="store_true", help="a tiny U-Net, 16 pictures, 3 rounds of 5 steps")
    arguments = parser.parse_args()
    common: list[Override] = []
    if arguments.small:
        arguments.batch, arguments.steps, arguments.rounds = 16, 5, 3
        common = [("task.network.widths", "[16,24]"), ("task.network.heads", "2"), ("task.network.code", "32")]
    if arguments.device == "cpu":
        torch.set_num_threads(1)
    device, generator = torch.device(arguments.device), torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (arguments.batch, 1, 28, 28), generator=generator).byte()
    raw = {"picture": pictures.to(device), "label": torch.zeros(arguments.batch, dtype=torch.long, device=device)}
    table = costs.cost_table(
        RECIPE, arguments.methods, raw, common=common, steps=arguments.steps, rounds=arguments.rounds, methods=ALL
    )
    print("| objective | weights, millions | step, ms | time over plain | peak memory, MB | memory over plain |")
    print("|---|---|---|---|---|---|")
    for name, row in table.items():
        memory = f"{row['peak_mb']:.0f} | {row['memory_ratio']:.2f}" if "peak_mb" in row else "- | -"
        print(f"| {name} | {row['parameters'] / 1e6:.2f} | {row['step_ms']:.1f} | {row['time_ratio']:.2f} | {memory} |")
    head = {
        "machine": device_name(device),
        "torch": torch.__version__,
        "batch": arguments.batch,
        "small": arguments.small,
    }
    atomic.write_json(arguments.out, {**head, "costs": table})


if __name__ == "__main__":
    main()
