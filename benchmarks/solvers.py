"""Solvers against their rivals: what a fixed step costs over the bare loop, and a batch of stiff and easy oscillators.

    python benchmarks/solvers.py [--out FILE.json] [--rounds N]

One thread; the rivals take turns in one process and the ratios are medians over the turns. Overhead: a small network,
1 and 41 Euler and Heun steps: the cost of a step and that of a solve follow. Van der Pol: 1024 oscillators, mu from
0.1 to 20 evenly in the logarithm, start (2, 0), 10 units of time mapped to [0, 1], float32, Dormand-Prince 5(4) with
rtol = atol = 1e-5; the reference is a float64 solve at 1e-12 checked by scipy on the stiffest samples.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from flowkit import atomic
from flowkit.cond import Cond
from flowkit.fields.field import Evaluation, Field
from flowkit.solvers.controllers import FixedSteps, Tolerance
from flowkit.solvers.dormand_prince import DormandPrince
from flowkit.solvers.euler import Euler
from flowkit.solvers.heun import Heun
from flowkit.solvers.solve import solve

LENGTH = 10.0
RTOL = ATOL = 1e-5


def rivals() -> tuple[Any, Any]:
    """The module torchode and torchdiffeq's odeint; untyped, for their stubs know only their own tensors."""
    return importlib.import_module("torchode"), importlib.import_module("torchdiffeq").odeint


def interleaved(runs: dict[str, Callable[[], Any]], rounds: int, repeat: int = 1) -> dict[str, list[float]]:
    """Seconds of each run in each round; every round runs all of them in turn, each ``repeat`` times in a row."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    names = list(runs)
    for r in range(rounds):
        for name in names[r % len(names) :] + names[: r % len(names)]:
            begin = time.perf_counter()
            for _ in range(repeat):
                runs[name]()
            seconds[name].append((time.perf_counter() - begin) / repeat)
    return seconds


def median_difference(a: list[float], b: list[float]) -> float:
    """The median of a - b, round by round."""
    return statistics.median(x - y for x, y in zip(a, b, strict=True))


def lowest_decile(values: list[float]) -> float:
    """The value that a tenth of ``values`` does not exceed."""
    return sorted(values)[len(values) // 10]


def median_ratio(a: list[float], b: list[float]) -> float:
    """The median of a / b, round by round."""
    return statistics.median(x / y for x, y in zip(a, b, strict=True))


class NetworkField(Field):
    """A small network that reads the time."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.inner = torch.randn(3, 64, generator=generator) / 2
        self.outer = torch.randn(64, 2, generator=generator) / 8

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.tanh(torch.cat([x, t[:, None]], 1) @ self.inner) @ self.outer

    def __call__(self, x: Tensor, t: Tensor, cond: Cond | None = None) -> Evaluation:
        return Evaluation(self.velocity(x, t))


def bare(field: NetworkField, x: Tensor, steps: int, method: str) -> Tensor:
    """The loop one writes by hand."""
    h, b = 1 / steps, x.shape[0]
    for i in range(steps):
        t = torch.full((b,), i * h)
        v = field.velocity(x, t)
        if method == "euler":
            x = x + h * v
        else:
            x = x + (h / 2) * (v + field.velocity(x + h * v, t + h))
    return x


def torchode_fixed(field: NetworkField, x: Tensor, steps: int, method: str) -> Callable[[], Any]:
    torchode, _ = rivals()

    term = torchode.ODETerm(lambda t, y: field.velocity(y, t))
    step = (torchode.Euler if method == "euler" else torchode.Heun)(term=term)
    solver = torchode.AutoDiffAdjoint(step, torchode.FixedStepController())
    problem = torchode.InitialValueProblem(
        y0=x,
        t_start=torch.zeros(x.shape[0]),
        t_end=torch.ones(x.shape[0]),
    )
    dt0 = torch.full((x.shape[0],), 1 / steps)
    return lambda: solver.solve(problem, dt0=dt0)


def overhead(rounds: int) -> dict[str, Any]:
    """Microseconds over the bare loop, per step and per solve."""
    _, odeint = rivals()

    field, x = NetworkField(), torch.randn(16, 2, generator=torch.Generator().manual_seed(1))
    few, many = 1, 41
    results: dict[str, Any] = {}
    for method, solver in (("euler", Euler()), ("heun", Heun())):
        runs: dict[str, Callable[[], Any]] = {}
        for steps in (few, many):
            controller, grid = FixedSteps(steps), torch.linspace(0, 1, steps + 1)
            runs[f"bare {steps}"] = lambda s=steps, m=method: bare(field, x, s, m)
            runs[f"flowkit {steps}"] = lambda c=controller, s=solver: solve(field, x, solver=s, controller=c)
            name = "euler" if method == "euler" else "heun2"
            runs[f"torchdiffeq {steps}"] = lambda g=grid, n=name: odeint(
                lambda t, y: field.velocity(y, t.expand(y.shape[0])), x, g, method=n
            )
            runs[f"torchode {steps}"] = torchode_fixed(field, x, steps, method)
        with torch.no_grad():
            exact = bare(field, x, few, method)
            ours = solve(field, x, solver=solver, controller=FixedSteps(few)).x
            assert torch.allclose(ours, exact, atol=1e-5), "the rivals must solve the same problem"
            seconds = interleaved(runs, rounds, repeat=8)
        results[method] = {"bare_step_us": statistics.median(seconds[f"bare {many}"]) / many * 1e6}
        for name in ("flowkit", "torchdiffeq", "torchode"):
            # The lowest decile is what a busy machine shows in its quiet moments.
            for suffix, summary in (("", statistics.median), ("_decile", lowest_decile)):
                if suffix:
                    over = [summary(seconds[f"{name} {n}"]) - summary(seconds[f"bare {n}"]) for n in (few, many)]
                else:
                    over = [median_difference(seconds[f"{name} {n}"], seconds[f"bare {n}"]) for n in (few, many)]
                step = (over[1] - over[0]) / (many - few)
                row = results[method].setdefault(name, {})
                row[f"step_us{suffix}"], row[f"solve_us{suffix}"] = step * 1e6, (over[0] - few * step) * 1e6
    return results


class VanDerPol(Field):
    """x'' = mu (1 - x^2) x' - x, over ``LENGTH`` units of time mapped to [0, 1]; counts the rows it is asked about."""

    def __init__(self) -> None:
        self.calls = self.rows = 0

    def velocity(self, x: Tensor, mu: Tensor) -> Tensor:
        self.calls += 1
        self.rows += x.shape[0]
        place, speed = x.unbind(1)
        return LENGTH * torch.stack([speed, mu * (1 - place * place) * speed - place], 1)

    def __call__(self, x: Tensor, t: Tensor, cond: Cond | None = None) -> Evaluation:
        assert cond is not None
        return Evaluation(self.velocity(x, cond["mu"]))


def van_der_pol(rounds: int, n: int = 1024) -> dict[str, Any]:
    """Worst error, evaluations per sample and seconds of Dormand-Prince 5(4) in three libraries."""
    torchode, odeint = rivals()

    mu = torch.logspace(np.log10(0.1), np.log10(20.0), n, dtype=torch.float64)
    start = torch.tensor([2.0, 0.0], dtype=torch.float64).repeat(n, 1)
    field = VanDerPol()
    exact = solve(
        field,
        start,
        solver=DormandPrince(),
        controller=Tolerance(1e-12, 1e-12),
        cond=Cond({"mu": mu}),
        max_evaluations=1_000_000,
    )
    assert exact.ok
    # The reference itself, against another implementation.
    for i in (0, n // 2, n - 1):
        m = float(mu[i])
        other = solve_ivp(
            lambda _, y, m=m: [y[1], m * (1 - y[0] ** 2) * y[1] - y[0]],
            (0, LENGTH),
            [2.0, 0.0],
            method="DOP853",
            rtol=1e-12,
            atol=1e-12,
        )
        assert np.abs(other.y[:, -1] - exact.x[i].numpy()).max() < 1e-6, "the reference disagrees with scipy"

    x, mu32 = start.float(), mu.float()
    cond = Cond({"mu": mu32})
    term = torchode.ODETerm(lambda _, y: field.velocity(y, mu32))
    method = torchode.Dopri5(term=term)
    theirs = torchode.AutoDiffAdjoint(method, torchode.IntegralController(atol=ATOL, rtol=RTOL, term=term))
    problem = torchode.InitialValueProblem(y0=x, t_start=torch.zeros(n), t_end=torch.ones(n))
    ends = torch.tensor([0.0, 1.0])
    dp, tolerance = DormandPrince(), Tolerance(RTOL, ATOL)
    last: dict[str, Tensor] = {}
    counts: dict[str, Any] = {}

    def record(name: str, run: Callable[[], Tensor]) -> Callable[[], None]:
        def timed() -> None:
            field.calls = field.rows = 0
            last[name] = run()
            counts[name] = {"calls": field.calls, "rows_per_sample": field.rows / n}

        return timed

    def ours() -> Tensor:
        solution = solve(field, x, solver=dp, controller=tolerance, cond=cond)
        counts["mean"] = solution.evaluations.double().mean().item()
        return solution.x

    runs = {
        "flowkit": record("flowkit", ours),
        "torchode": record("torchode", lambda: theirs.solve(problem).ys[:, -1]),
        "torchdiffeq": record(
            "torchdiffeq",
            lambda: odeint(lambda _, y: field.velocity(y, mu32), x, ends, rtol=RTOL, atol=ATOL, method="dopri5")[-1],
        ),
    }
    with torch.no_grad():
        seconds = interleaved(runs, rounds)
    results: dict[str, Any] = {}
    for name in runs:
        results[name] = {
            "worst_error": (last[name].double() - exact.x).abs().max().item(),
            "seconds": statistics.median(seconds[name]),
            **counts[name],
        }
    results["flowkit"]["evaluations_per_sample"] = counts["mean"]
    results["time_over_torchode"] = median_ratio(seconds["flowkit"], seconds["torchode"])
    results["time_over_torchdiffeq"] = median_ratio(seconds["flowkit"], seconds["torchdiffeq"])
    return results


def report(results: dict[str, Any]) -> str:
    """The table, with what each number is held against."""
    lines = [
        "microseconds over the bare loop: medians, then lowest deciles (bounds for flowkit: 15 a step, 50 a solve)"
    ]
    for method, row in results["overhead"].items():
        lines.append(f"  {method} (bare step {row['bare_step_us']:.1f})          a step  a solve     a step  a solve")
        for name in ("flowkit", "torchdiffeq", "torchode"):
            r = row[name]
            lines.append(
                f"    {name:28s} {r['step_us']:8.1f} {r['solve_us']:8.1f}"
                f"   {r['step_us_decile']:8.1f} {r['solve_us_decile']:8.1f}"
            )
    vdp = results["van_der_pol"]
    lines.append("1024 van der Pol oscillators, dopri5 1e-5      worst error   evaluations per sample   milliseconds")
    for name in ("flowkit", "torchode", "torchdiffeq"):
        row = vdp[name]
        lines.append(
            f"  {name:42s} {row['worst_error']:13.2e} {row['rows_per_sample']:24.1f} {row['seconds'] * 1e3:14.1f}"
        )
    lines.append(
        f"  flowkit counts {vdp['flowkit']['evaluations_per_sample']:.1f} evaluations of unfinished samples (bound 500)"
    )
    lines.append(f"  time over torchode {vdp['time_over_torchode']:.2f} (bound 0.85, aim 0.75)")
    lines.append(f"  time over torchdiffeq {vdp['time_over_torchdiffeq']:.2f} (bound 0.35, aim 0.30)")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")
    parser.add_argument("--rounds", type=int, default=21, help="turns of each rival")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, Any] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "torch": torch.__version__,
        "overhead": overhead(arguments.rounds * 4),
        "van_der_pol": van_der_pol(arguments.rounds),
    }
    print(report(results))
    if arguments.out is not None:
        atomic.write_json(arguments.out, results)


if __name__ == "__main__":
    main()
