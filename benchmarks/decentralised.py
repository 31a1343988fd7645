"""Agents without a server: do they leave a saddle, agree in the end, and learn what none of them has seen?

(a) Eight agents, f_n = x^2/2 - y^2/2 + y^4/4 + c_n . (x, y) with sum c = 0 and c ~ N(0, 1), from (1, 0) on the saddle's
stable manifold, noise 0.1, a_k = 0.3 k^-0.6, b_k = k^-0.1 / lambda_max. Asked are 95 % escapes (|y| > 0.7 by step
5000), none without noise and c, a disagreement that falls like k^-0.5 (fitted over 300 .. 20000, within 0.05) and is
ordered ring > exponential > complete, and at the end at most 0.2 of that with constant weights.
(b) Four agents with two of eight Gaussians each learn one flow: the average's loss within 5 % of central training with
equal samples, and each agent alone at least 20 % worse on all eight.

    python benchmarks/decentralised.py --out benchmarks/out/decentralised.json
"""

from __future__ import annotations

import argparse
import math
import platform
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flowkit import atomic
from flowkit.couplings.coupling import Batch
from flowkit.nn.mlp import MLP
from flowkit.objectives.flow_matching import FlowMatching
from flowkit.objectives.objective import Networks
from flowkit.random import Rows, mix_seed
from flowkit.train.decentralised.communicator import InProcess
from flowkit.train.decentralised.dsgd import DecentralisedSGD
from flowkit.train.decentralised.graph import Graph
from flowkit.train.decentralised.schedule import DecayingWeights

AGENTS = 8
DECAYING = DecayingWeights(step=0.3, step_decay=0.6, mix=0.0, mix_decay=0.1)


def saddle(
    graph: Graph, steps: int, *, seed: int, runs: int, noise: float = 0.1, spread: float = 1.0,
    schedule: DecayingWeights = DECAYING, at: tuple[int, ...] = (),
) -> tuple[Tensor, dict[int, float]]:  # fmt: skip
    """Final agents (n, runs, 2) of ``runs`` independent runs side by side, and the mean disagreement at some steps."""
    generator = torch.Generator().manual_seed(seed)
    pull = spread * torch.randn(graph.agents, runs, 2, generator=generator, dtype=torch.float64)
    pull = pull - pull.mean(0)
    agents = [
        [nn.Parameter(torch.tensor([1.0, 0.0], dtype=torch.float64).repeat(runs, 1))] for _ in range(graph.agents)
    ]
    dsgd = DecentralisedSGD(
        agents, communicator=InProcess(graph), schedule=schedule, noise=noise, generator=generator
    )  # fmt: skip
    curve: dict[int, float] = {}
    for k in range(1, steps + 1):
        for n, (point,) in enumerate(agents):
            x, y = point.detach().unbind(1)
            point.grad = torch.stack([x, y**3 - y], 1) + pull[n]
        dsgd.step()
        if k in at:
            curve[k] = dsgd.disagreement() / math.sqrt(runs)
    return torch.stack([point.detach() for (point,) in agents]), curve


def slope(curve: dict[int, float], first: int) -> float:
    """Of log disagreement against log step from ``first`` on."""
    k = torch.tensor([math.log(k) for k in curve if k >= first], dtype=torch.float64)
    d = torch.tensor([math.log(v) for k, v in curve.items() if k >= first], dtype=torch.float64)
    k = k - k.mean()
    return float((k * d).sum() / k.square().sum())


def experiment(seed: int, steps: int, runs: int) -> dict[str, Any]:
    """(a)."""
    marks = tuple(sorted({round(10 ** (i / 10)) for i in range(10, 44)} & set(range(1, steps + 1)) | {steps}))
    found: dict[str, Any] = {"disagreement": {}, "slope": {}}
    for name in ("ring", "exponential", "complete"):
        _, curve = saddle(Graph.named(name, AGENTS), steps, seed=seed, runs=runs, at=marks)
        found["disagreement"][name] = {k: curve[k] for k in marks if k in (100, 1000, 10000) or k == steps}
        found["slope"][name] = slope(curve, 300)
    ring = Graph.named("ring", AGENTS)
    escaped, _ = saddle(ring, 5000, seed=seed, runs=runs)
    found["escaped"] = float((escaped[..., 1].mean(0).abs() > 0.7).double().mean())
    calm, _ = saddle(ring, 1000, seed=seed, runs=2, noise=0.0, spread=0.0)
    found["largest |y| without noise and spread"] = float(calm[..., 1].abs().max())
    constant = DecayingWeights(step=0.05, step_decay=0.0, mix=0.25, mix_decay=0.0)
    _, curve = saddle(ring, min(steps, 5000), seed=seed, runs=runs, schedule=constant, at=(min(steps, 5000),))
    found["disagreement"]["ring, constant weights"] = curve
    return found


def learn(
    seed: int, steps: int, batch: int = 128, *, momentum: float = 0.0, peak: float = 0.1, graph: str = "ring"
) -> dict[str, float]:
    """(b): losses on all eight Gaussians of the average, of central training and of agents alone."""
    angles = torch.arange(8) * (2 * math.pi / 8)
    centres = 3.0 * torch.stack([angles.cos(), angles.sin()], 1)
    objective = FlowMatching()
    agents = 4

    def data(step: int, modes: list[int], n: int, salt: int) -> Tensor:
        generator = torch.Generator().manual_seed(mix_seed(seed, step, salt))
        chosen = torch.tensor(modes)[torch.randint(len(modes), (n,), generator=generator)]
        return centres[chosen] + 0.3 * torch.randn(n, 2, generator=generator)

    def networks() -> Networks:
        torch.manual_seed(seed)
        return Networks.build(objective.needs(), lambda spec: MLP(spec, dimension=2, width=128, depth=3))

    def gradient(net: Networks, x1: Tensor, step: int, salt: int) -> None:
        rows = Rows(mix_seed(seed, step, 100 + salt), total=len(x1))
        objective.loss(net, Batch(x1=x1), generator=rows).total.backward()

    def loss(net: Networks) -> float:
        with torch.no_grad():
            x1 = data(0, list(range(8)), 40_000, 77)
            return float(objective.loss(net, Batch(x1=x1), generator=Rows(5, total=len(x1))).total)

    def optimiser(parameters: list[Tensor]) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters) if momentum < 0 else torch.optim.SGD(parameters, lr=1.0, momentum=momentum)

    def train(nets: list[Networks], owned: list[list[int]], each: int, mixed: Graph | None) -> None:
        groups = [(nets, mixed)] if mixed is not None else [([net], Graph.named("ring", 1)) for net in nets]
        makers = [DecentralisedSGD.of_modules(group, optimiser, communicator=InProcess(own)) for group, own in groups]
        for step in range(steps):
            rate = peak * 0.5 * (1 + math.cos(math.pi * step / steps)) + 1e-6
            for n, net in enumerate(nets):
                gradient(net, data(step, owned[n], each, n), step, n)
            for maker in makers:
                maker.schedule = DecayingWeights(step=rate, step_decay=0.0, mix=0.0, mix_decay=0.0)
                maker.step()
                maker.zero_grad()
        if mixed is not None:
            with makers[0].averaged():
                found["average of the agents"] = loss(nets[0])
            found["disagreement at the end"] = makers[0].disagreement()

    found: dict[str, float] = {}
    parts = [[2 * n, 2 * n + 1] for n in range(agents)]
    train([networks() for _ in range(agents)], parts, batch, Graph.named(graph, agents))
    central = [networks()]
    train(central, [list(range(8))], batch * agents, None)
    found["central"] = loss(central[0])
    single = [networks() for _ in range(agents)]
    train(single, parts, batch, None)
    found["alone, the best"] = min(loss(net) for net in single)
    return found


def main(argv: list[str] | None = None) -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="benchmarks/out/decentralised.json")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=20_000, help="of the saddle")
    parser.add_argument("--runs", type=int, default=50, help="of the saddle, side by side")
    parser.add_argument("--learning-steps", type=int, default=3000)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    found: dict[str, Any] = {"machine": platform.processor() or platform.machine(), "torch": torch.__version__}
    path = Path(args.out)
    path.parent.mkdir(parents=True, exist_ok=True)
    for seed in args.seeds:
        began = time.perf_counter()
        found[f"saddle, seed {seed}"] = experiment(seed, args.steps, args.runs)
        found[f"learning, seed {seed}"] = {
            name: learn(seed, args.learning_steps, graph=name) for name in ("ring", "complete")
        }
        print(
            seed, found[f"saddle, seed {seed}"], found[f"learning, seed {seed}"], f"{time.perf_counter() - began:.0f} s"
        )
        atomic.write_json(path, found)


if __name__ == "__main__":
    main()
