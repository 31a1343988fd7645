"""Does RIVER learn the motion from its random past frame, and draw one of two futures (acceptance 2 and 4 of its card)?

Frames of 16 pixels on a ring, 2 exp(4 (cos(theta_i - phi) - 1)) - 1: a bump at phi, which turns by w a frame, |w| ~
U(0.3, 0.7), either sign. A perceptron of width 256, 3000 steps of 512 clips of 6 frames, 5 known ones. Asked:

(a) PSNR of the next frame at 10 Euler steps: with the past frame at least 10 dB above the reference frame alone, and at
    least 12 dB above copying the last frame;
(b) with the sign of w drawn anew at each frame: at least 0.4 of the samples have an MSE below 0.02 to one of the two
    true next frames at 20 Euler steps, at most 0.05 at 1, and they split 0.5 +- 0.05.

    python benchmarks/river_ring.py --out benchmarks/out/river_ring.json
"""

from __future__ import annotations

import argparse
import itertools
import math
import platform
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from domains.video.judge import predict
from domains.video.metrics import finite_mean, psnr
from domains.video.river import RiverTask, pixels, scaled
from flowkit import atomic
from flowkit.nn.network import Network, NetworkSpec
from flowkit.objectives import FlowMatching
from flowkit.paths import LinearPath
from flowkit.random import Rows, mix_seed
from flowkit.solvers.rk4_three_eighths import RK4ThreeEighths
from flowkit.solvers.sampler import Sampler

FRAMES, CONTEXT, PIXELS = 6, 5, 16


def ring(phi: Tensor) -> Tensor:
    """Frames (*n, 1, 4, 4) in [-1, 1] with the bump at phi (*n)."""
    theta = 2 * math.pi * torch.arange(PIXELS) / PIXELS
    return (2 * torch.exp(4 * ((theta - phi[..., None]).cos() - 1)) - 1).reshape(*phi.shape, 1, 4, 4)


def clips(n: int, generator: torch.Generator, *, flips: bool) -> tuple[Tensor, Tensor, Tensor]:
    """uint8 (n, FRAMES, 1, 4, 4), the angles (n, FRAMES) and the speeds |w| (n,)."""
    w = 0.3 + 0.4 * torch.rand(n, generator=generator)
    signs = torch.randint(2, (n, FRAMES - 1), generator=generator) * 2.0 - 1
    turn = w[:, None] * (signs if flips else signs[:, :1].expand(-1, FRAMES - 1))
    start = 2 * math.pi * torch.rand(n, 1, generator=generator)
    phi = torch.cat([start, start + turn.cumsum(1)], 1)
    return pixels(ring(phi)), phi, w


class RingMLP(Network):
    """Three hidden SiLU layers; ``blind`` hides the past frame and its distance."""

    def __init__(self, spec: NetworkSpec, *, width: int = 256, blind: bool = False) -> None:
        super().__init__(spec)
        self.blind = blind
        sizes = [3 * PIXELS + 8, width, width, width]
        layers = [m for i, o in itertools.pairwise(sizes) for m in (nn.Linear(i, o), nn.SiLU())]
        self.layers = nn.Sequential(*layers, nn.Linear(width, PIXELS))

    def forward(self, inputs: Any, times: Any, cond: Any) -> dict[str, Tensor]:
        """See :class:`Network`."""
        x, t = inputs[0], times[0].to(inputs[0].dtype)[:, None]
        phase = math.pi * t * torch.arange(1, 4)
        past, far = cond["past"].flatten(1), cond["distance"].to(x.dtype).log()[:, None]
        if self.blind:
            past, far = torch.zeros_like(past), torch.zeros_like(far)
        read = [x.flatten(1), cond["reference"].flatten(1), past, far, t, phase.sin(), phase.cos()]
        return {"v": self.layers(torch.cat(read, 1)).reshape(x.shape)}


def train(*, blind: bool, flips: bool, steps: int, seed: int = 0) -> tuple[RiverTask, float]:
    """A trained task, and the seconds."""
    torch.manual_seed(seed)
    objective = FlowMatching(path=LinearPath(floor=1e-7))
    task = RiverTask(partial(RingMLP, blind=blind), objective, size=4, channels=1, context=CONTEXT)
    task.clip_frames.fill_(FRAMES)
    optimiser = torch.optim.Adam(task.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    generator, began = torch.Generator().manual_seed(mix_seed(seed, 1)), time.perf_counter()
    for step in range(steps):
        raw = {"frames": clips(512, generator, flips=flips)[0]}
        loss = task(raw, step=step, generator=Rows(mix_seed(seed, step), total=512)).total
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return task.eval(), time.perf_counter() - began


def next_frame(task: RiverTask, frames: Tensor, sampler: Sampler, **dials: Any) -> tuple[Tensor, float]:
    """The predicted frame after the known ones, (n, 1, 4, 4), and its NFE."""
    was = task.dials
    task.dials = replace(was, **dials)
    try:
        made = predict(task, frames[:, :CONTEXT], 1, sampler=sampler, seed=1)
    finally:
        task.dials = was
    return made.frames[:, 0], float(made.evaluations.double().mean())


def quality(task: RiverTask, frames: Tensor, sampler: Sampler, **dials: Any) -> float:
    """PSNR of the next frame, dB."""
    return finite_mean(psnr(next_frame(task, frames, sampler, **dials)[0], scaled(frames[:, CONTEXT])))


def modes(task: RiverTask, frames: Tensor, phi: Tensor, w: Tensor, steps: int) -> dict[str, float]:
    """Share of samples near one of the two true next frames, and of those the share of the turn to the left."""
    made, _ = next_frame(task, frames, Sampler(steps=steps))
    error = torch.stack(
        [(made - ring(phi[:, CONTEXT - 1] + sign * w)).square().mean((1, 2, 3)) for sign in (-1.0, 1.0)]
    )
    near = error.min(0).values < 0.02
    left = (error.argmin(0) == 0) & near
    return {"near": float(near.double().mean()), "left": float(left.sum() / near.sum().clamp_min(1))}


def measure(steps: int) -> dict[str, Any]:
    """Both questions, and the dials beside them."""
    frames, _, _ = clips(2000, torch.Generator().manual_seed(99), flips=False)
    both, seconds = train(blind=False, flips=False, steps=steps)
    alone, _ = train(blind=True, flips=False, steps=steps)
    euler, rk4 = Sampler(steps=10), Sampler(solver=RK4ThreeEighths(), steps=10)
    copied = finite_mean(psnr(scaled(frames[:, CONTEXT - 1]), scaled(frames[:, CONTEXT])))
    found: dict[str, Any] = {
        "psnr": {
            "reference and random past": quality(both, frames, euler),
            "reference alone": quality(alone, frames, euler),
            "copy last": copied,
        },
        "psnr by redraw, Euler 10": {how: quality(both, frames, euler, redraw=how) for how in ("call", "once")},
        "psnr by redraw, RK4 10": {how: quality(both, frames, rk4, redraw=how) for how in ("call", "step", "once")},
        "psnr by steps": {n: quality(both, frames, Sampler(steps=n)) for n in (1, 2, 5, 10, 20)},
        "psnr by strength": {
            s: {n: quality(both, frames, Sampler(steps=n), strength=s) for n in (1, 10)} for s in (0.0, 0.1, 0.3)
        },
        "seconds of a training": seconds,
    }
    frames, phi, w = clips(4000, torch.Generator().manual_seed(98), flips=True)
    flipping, _ = train(blind=False, flips=True, steps=steps)
    found["modes"] = {n: modes(flipping, frames, phi, w, n) for n in (1, 20)}
    p, m = found["psnr"], found["modes"]
    found["asked"] = {
        "(a) past frame": p["reference and random past"] - p["reference alone"] >= 10,
        "(a) copying": p["reference and random past"] - copied >= 12,
        "(b) near at 20 steps": m[20]["near"] >= 0.4,
        "(b) near at 1 step": m[1]["near"] <= 0.05,
        "(b) split": abs(m[20]["left"] - 0.5) <= 0.05,
    }
    return found


def main(argv: list[str] | None = None) -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="benchmarks/out/river_ring.json")
    parser.add_argument("--steps", type=int, default=3000)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    found = measure(args.steps)
    for name, values in found.items():
        print(f"{name}: {values}")
    found |= {"machine": platform.processor() or platform.machine(), "torch": torch.__version__}
    path = Path(args.out)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_json(path, found)


if __name__ == "__main__":
    main()
