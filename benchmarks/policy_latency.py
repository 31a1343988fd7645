"""Time of one decision beside lerobot's Diffusion Policy: the same U-Net sizes, one CPU thread, turns in one run.

    python -m venv rival && rival/bin/pip install lerobot==0.4.4
    python benchmarks/policy_latency.py --rival rival/bin/python [--out latency.json]

Both sides get a batch of observations (20 numbers of state, two steps of history), plan 16 actions of 2 numbers and
return the first: with random weights, for time does not depend on them. lerobot runs in its own process with its own
packages; both processes are single-threaded and take turns, and ratios are medians over the turns. lerobot's
normalisation lies outside of what is timed, ours inside.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

if not __package__:  # started as a script: the root of the repository holds the modules
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import time

import numpy as np
import torch

from domains.policy.data.demonstrations import Demonstrations
from domains.policy.episodes import Episodes
from domains.policy.models.unet import ChunkUNet
from domains.policy.observations import ObservationLayout
from domains.policy.pipeline import FlowPolicy
from domains.policy.task import PolicyTask
from flowkit import atomic
from flowkit.fields.predictions import DataPrediction, NoisePrediction
from flowkit.objectives.ada_flow import AdaFlow
from flowkit.objectives.flow_matching import FlowMatching
from flowkit.objectives.objective import Objective
from flowkit.paths.diffusion import DiffusionPath
from flowkit.solvers.ddim import DDIM
from flowkit.solvers.euler import Euler
from flowkit.solvers.sampler import Sampler
from flowkit.solvers.variance_adaptive import VarianceAdaptive

STATE, ACTIONS, TIME_WIDTH = 20, 2, 256
#: U-Net widths -> batches. The last is the published size.
SIZES: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = (((64, 128, 256), (1, 256)), ((256, 512, 1024), (1,)))


class Noise(Demonstrations):
    """Demonstrations that only tell sizes and ranges."""

    def episodes(self) -> Episodes:
        """One episode of random numbers."""
        rng = np.random.default_rng(0)
        return Episodes(
            observations={"state": rng.standard_normal((200, STATE)).astype(np.float32)},
            actions=rng.uniform(-1, 1, (200, ACTIONS)).astype(np.float32),
            ends=np.array([100, 200]),
            layout=ObservationLayout((("", STATE),)),
            action_low=np.full(ACTIONS, -1.0, np.float32),
            action_high=np.full(ACTIONS, 1.0, np.float32),
        )


def policy(widths: Sequence[int], objective: Objective, sampler: Sampler) -> FlowPolicy:
    """An untrained policy with the U-Net of Diffusion Policy."""
    torch.manual_seed(0)
    network: Any = partial(ChunkUNet, widths=list(widths), time_width=TIME_WIDTH)
    task = PolicyTask(network, objective, state=STATE, actions=ACTIONS, history=2, horizon=16, execute=8)
    data = Noise(history=2, horizon=16, execute=8)
    data.prepare()
    task.adapt(data)
    return FlowPolicy(task, sampler)


def ours(widths: Sequence[int]) -> dict[str, FlowPolicy]:
    """What is timed: the flow with few steps, the adaptive rule where one step is enough, and DDIM."""
    flow, diffusion = (
        lambda: AdaFlow(prediction=DataPrediction()),
        lambda: FlowMatching(path=DiffusionPath(), prediction=NoisePrediction()),
    )
    return {
        "adaptive, one step": policy(widths, flow(), Sampler(Euler(), controller=VarianceAdaptive(eta=1e9))),
        "Euler 1": policy(widths, flow(), Sampler(Euler(), 1)),
        "Euler 2": policy(widths, flow(), Sampler(Euler(), 2)),
        "DDIM 10": policy(widths, diffusion(), Sampler(DDIM(clip=1.0), 10)),
    }


def decide(model: FlowPolicy, batch: int) -> float:
    """Seconds of one decision, its history and chunks filled afresh."""
    rows = model.vector(batch)
    observations = np.random.default_rng(0).standard_normal((batch, STATE)).astype(np.float32)
    began = time.perf_counter()
    rows.act(observations)
    return time.perf_counter() - began


class Rival:
    """lerobot's Diffusion Policy in a process of its own."""

    def __init__(self, python: str) -> None:
        server = Path(__file__).parent / "policy" / "lerobot_server.py"
        self.process = subprocess.Popen(
            [python, str(server)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        """One request and its answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("the rival's process ended: run the server by hand to see why")
        return json.loads(line)


def main(arguments: Sequence[str] | None = None) -> int:
    """Time, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rival", metavar="PYTHON", help="Python of an environment with lerobot; without it ours only")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, metavar="FILE")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rival = Rival(args.rival) if args.rival else None
    rows = [
        row for widths, batches in SIZES for batch in batches for row in turns(widths, batch, rival, rounds=args.rounds)
    ]
    print("| U-Net widths | batch | | parameters | ms a decision | lerobot, DDIM 10, over this |")
    print("|---|---|---|---|---|---|")
    for r in rows:
        ratio = "" if r["ratio"] is None else f"{r['ratio']:.2f}"
        print(f"| {r['widths']} | {r['batch']} | {r['name']} | {r['parameters']:,} | {r['ms']:.2f} | {ratio} |")
    if args.out is not None:
        machine = {"torch": torch.__version__, "date": dt.date.today().isoformat()}
        atomic.write_json(args.out, {**machine, "rows": rows})
    return 0


def turns(widths: Sequence[int], batch: int, rival: Rival | None, *, rounds: int) -> list[dict[str, Any]]:
    """All rivals in turn, ``rounds`` times after a warm-up."""
    models = ours(widths)
    parameters = {name: sum(p.numel() for p in m.task.parameters()) for name, m in models.items()}
    timers: dict[str, Callable[[], float]] = {name: partial(decide, m, batch) for name, m in models.items()}
    if rival is not None:
        built = rival.ask(widths=list(widths), steps=10, state=STATE, actions=ACTIONS, time_width=TIME_WIDTH)
        parameters["lerobot, DDIM 10"] = built["parameters"]
        timers["lerobot, DDIM 10"] = lambda: rival.ask(batch=batch)["seconds"]
    times: dict[str, list[float]] = {name: [] for name in timers}
    for turn in range(rounds + 1):
        for name, timer in timers.items():
            seconds = timer()
            if turn:
                times[name].append(seconds)
    theirs = times.get("lerobot, DDIM 10")
    return [
        {
            "widths": "/".join(map(str, widths)), "batch": batch, "name": name, "parameters": parameters[name],
            "ms": 1e3 * median(values),
            "ratio": median(t / o for t, o in zip(theirs, values, strict=True)) if theirs else None,
        }
        for name, values in times.items()
    ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
