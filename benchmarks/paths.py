"""What does an object cost? A point of a path (x_t and its velocity) against the written formula: at most 1.3 times.

One thread, rivals interleaved block by block in one process, medians of the ratios. torchcfm and flow_matching join
where they are installed (in an environment of their own: they pull in a second training stack), else are left out.

    python benchmarks/paths.py --out benchmarks/out/paths.json
"""

from __future__ import annotations

import argparse
import math
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from flowkit import atomic
from flowkit.couplings import Batch
from flowkit.objectives import FlowMatching
from flowkit.paths import LinearPath, TrigonometricPath

SHAPES = {"points": (512, 2), "mels": (32, 80, 200), "images": (64, 3, 32, 32)}
LIMIT = 1.3

Draw = Callable[[Tensor, Tensor, Tensor], object]


def bare_linear(x0: Tensor, x1: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    s = t.reshape(-1, *[1] * (x0.ndim - 1))
    return s * x1 + (1 - s) * x0, x1 - x0


def bare_trigonometric(x0: Tensor, x1: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    angle = (math.pi / 2) * t.reshape(-1, *[1] * (x0.ndim - 1))
    alpha, sigma = angle.sin(), angle.cos()
    return alpha * x1 + sigma * x0, (math.pi / 2) * (sigma * x1 - alpha * x0)


def bare_objective(generator: torch.Generator) -> Draw:
    """The lines that a script of its own would write: noise, times, point."""

    def draw(x0: Tensor, x1: Tensor, t: Tensor) -> object:  # noqa: ARG001
        noise = torch.randn(x1.shape, generator=generator)
        return bare_linear(noise, x1, torch.rand(x1.shape[0], generator=generator))

    return draw


def our_objective(generator: torch.Generator) -> Draw:
    objective = FlowMatching()

    def draw(x0: Tensor, x1: Tensor, t: Tensor) -> object:  # noqa: ARG001
        return objective.draw(Batch(x1=x1), generator)

    return draw


def rivals() -> dict[str, Draw]:
    """Other libraries' linear paths, as far as they are installed."""
    found: dict[str, Draw] = {}
    try:
        from torchcfm.conditional_flow_matching import ConditionalFlowMatcher  # pyright: ignore[reportMissingImports]

        matcher = ConditionalFlowMatcher(sigma=0.0)
        found["torchcfm"] = matcher.sample_location_and_conditional_flow
    except ImportError:
        pass
    try:
        from flow_matching.path import CondOTProbPath  # pyright: ignore[reportMissingImports]

        path = CondOTProbPath()
        found["flow_matching"] = lambda x0, x1, t: path.sample(x_0=x0, x_1=x1, t=t)
    except ImportError:
        pass
    return found


def ratios(reference: Draw, others: dict[str, Draw], shape: tuple[int, ...], *, blocks: int = 60) -> dict[str, float]:
    """Median over blocks of each one's time over the reference's in the same block; ``bare_us`` is the reference."""
    generator = torch.Generator().manual_seed(0)
    x0, x1 = torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)
    t = torch.rand(shape[0], generator=generator)

    def block(draw: Draw, repeats: int) -> float:
        start = time.perf_counter()
        for _ in range(repeats):
            draw(x0, x1, t)
        return (time.perf_counter() - start) / repeats

    repeats = max(1, int(2e-3 / block(reference, 20)))
    times: dict[str, list[float]] = {name: [] for name in ("reference", *others)}
    for i in range(blocks):
        order = [("reference", reference), *others.items()]
        for name, draw in order if i % 2 else reversed(order):  # neither is always the first on a warm cache
            times[name].append(block(draw, repeats))
    result = {"bare_us": 1e6 * statistics.median(times["reference"])}
    for name in others:
        pairs = zip(times[name], times["reference"], strict=True)
        result[name] = statistics.median(mine / bare for mine, bare in pairs)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out/paths.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    generators = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    others = rivals()
    table: dict[str, dict[str, dict[str, float]]] = {"linear": {}, "trigonometric": {}, "objective": {}}
    with torch.no_grad():
        for name, shape in SHAPES.items():
            table["linear"][name] = ratios(bare_linear, {"flowkit": LinearPath().at, **others}, shape)
            table["trigonometric"][name] = ratios(bare_trigonometric, {"flowkit": TrigonometricPath().at}, shape)
            ours = {"flowkit": our_objective(generators[1])}
            table["objective"][name] = ratios(bare_objective(generators[0]), ours, shape)
    for what, rows in table.items():
        for name, row in rows.items():
            figures = "  ".join(f"{key} {value:.2f}" + ("" if key == "bare_us" else "x") for key, value in row.items())
            late = "  (above the limit)" if row["flowkit"] > LIMIT else ""
            print(f"{what:>14} {name:>7}  {figures}{late}")
    machine = platform.processor() or platform.machine()
    result = {"limit": LIMIT, "torch": torch.__version__, "machine": machine, "ratios": table}
    atomic.write_json(arguments.out, result)


if __name__ == "__main__":
    main()
