"""Training speed of the Matcha, AdaFlow and RIVER recipes by the library's own trainer, and where a step's time goes.

    python benchmarks/training_speed.py --out speed.json [--recipes matcha adaflow river] [--device cpu|cuda]
        [--modes bf16 bf16+graphs ...] [--data PREPARED] [--batches N] [--rounds N] [--profile bf16 ...]

A mode is a precision (fp32 without TF32, tf32, bf16) with ``+graphs``, ``+compile`` and ``+former`` (the layers before
they were mended) as wanted. A case is the training of one process: its loop runs ``rounds`` times over the recipe's
first ``batches`` batches, which the loader reads again each time; two rounds more warm up (shapes are captured and
compiled there). Samples per second are those of the loop by the clock, the GPU waited for at both ends; the parts of a
step add up to it (benchmarks/training/parts.py). ``--profile`` writes the ten costliest operators of those modes beside
FILE.

Matcha reads generated utterances as long as LJSpeech's, or a prepared folder (``--data``); AdaFlow generated recordings
of PushT's shapes; RIVER its own sprites. ``RECIPE:MODE`` is a mode of one recipe.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

if not __package__:  # started as a script: the root of the repository holds the modules
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from flowkit import atomic

RECIPES = {
    "matcha": "speech/matcha-ljspeech",
    "adaflow": "policy/adaflow-pusht",
    "river": "video/river-sprites",
    "adaflow-small": "policy/adaflow-fork",
}
GPU_MODES = ("bf16+graphs", "bf16", "tf32+graphs", "tf32", "fp32", "bf16+compile", "bf16+compile+graphs")
CPU_MODES = ("fp32", "bf16", "fp32+compile")
#: Batches of a round and rounds: on a GPU, on a CPU.
SIZES = {"cuda": (8, 3), "cpu": (1, 2)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every case, print the tables, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    parser.add_argument("--recipes", nargs="+", choices=sorted(RECIPES), default=["matcha", "adaflow", "river"])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--modes", nargs="+", metavar="MODE")
    parser.add_argument("--profile", nargs="*", default=[], metavar="MODE", help="modes whose operators are listed")
    parser.add_argument("--batch", type=int, default=0, help="samples of a batch (default: the recipe's)")
    parser.add_argument("--batches", type=int, default=0, help="batches of a round")
    parser.add_argument("--rounds", type=int, default=0, help="timed rounds")
    parser.add_argument("--data", type=Path, help="prepared speech for Matcha")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default %(default)s)")
    parser.add_argument("--minutes", type=float, default=0, help="begin no case after so many minutes, 0 for no limit")
    parser.add_argument("--here", action="store_true", help="all cases in one process: quicker, less apart")
    parser.add_argument("--case", nargs=2, metavar=("RECIPE", "MODE"), help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    if args.case:
        atomic.write_json(args.out, case(args.case[0], args.case[1], args))
        return 0
    began, rows = time.monotonic(), []
    modes = args.modes or (CPU_MODES if args.device == "cpu" else GPU_MODES)
    # Modes outside: where time runs out, each recipe has its first modes.
    for mode in modes:
        for recipe in args.recipes:
            if 0 < 60 * args.minutes < time.monotonic() - began:
                print(f"no time left for {recipe} {mode}", flush=True)
                continue
            if mode.partition(":")[0] in RECIPES and not mode.startswith(f"{recipe}:"):
                continue
            row = here(recipe, mode, args) if args.here else asked(recipe, mode, args)
            if row:
                rows.append(row)
                atomic.write_json(args.out, {"machine": machine(args), "rows": rows})
                print(line(row), flush=True)
    print("\n" + table(rows))
    for row in rows:
        if row["operators"]:
            print(f"\n{row['recipe']} {row['mode']}: {row['busy']:.0%} of the time busy\n{operators(row)}")
    text = "\n\n".join(f"{r['recipe']} {r['mode']}\n{operators(r)}" for r in rows if r["operators"])
    if text:
        atomic.write_text(args.out.with_suffix(".txt"), text + "\n")
    return 0


def here(recipe: str, mode: str, args: argparse.Namespace) -> dict[str, Any] | None:
    """One case in this process, which saves its start."""
    import gc

    try:
        return case(recipe, mode, args)
    except Exception as error:  # the other cases shall be measured
        print(f"{recipe} {mode}: failed: {type(error).__name__}: {error}", flush=True)
        return None
    finally:
        gc.collect()
        if args.device == "cuda":
            torch.cuda.empty_cache()


def asked(recipe: str, mode: str, args: argparse.Namespace) -> dict[str, Any] | None:
    """One case in a process of its own, which a failing case cannot take along."""
    with tempfile.TemporaryDirectory(prefix="training-speed-") as folder:
        out = Path(folder) / "case.json"
        command = [sys.executable, __file__, "--out", str(out), "--device", args.device, "--case", recipe, mode]
        for name in ("batch", "batches", "rounds", "threads"):
            command += [f"--{name}", str(getattr(args, name))]
        command += ["--data", str(args.data)] if args.data else []
        command += ["--profile", *args.profile] if args.profile else []
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode or not out.exists():
            last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
            print(f"{recipe} {mode}: failed: {''.join(last)}", flush=True)
            return None
        return json.loads(out.read_text())


def case(recipe: str, mode: str, args: argparse.Namespace) -> dict[str, Any]:
    """Train by the recipe in the mode, and what was measured."""
    from benchmarks.training.parts import PARTS, Marks
    from flowkit.train.loop import Loop
    from flowkit.train.signals import StopSignals

    mode = mode.rpartition(":")[2]
    restore = formerly() if "former" in mode.split("+") else lambda: None
    if args.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    batches, rounds = (args.batches or SIZES[args.device][0]), (args.rounds or SIZES[args.device][1])
    with tempfile.TemporaryDirectory(prefix="training-speed-run-") as folder:
        run = build(recipe, mode, Path(folder), device=args.device, batch=args.batch, data=args.data)
        batches = min(batches, run.loader.order.batches)
        # The order begins again after so many batches: the same shapes in every round.
        run.loader._next = lambda _epoch, index: (0, (index + 1) % batches)
        marks = Marks(run)
        warm = 2 * batches
        steps = rounds * batches
        wall: list[float] = []
        busy_from: list[float] = []

        def shares(count: int, skip: int) -> Any:
            source = iter(run.loader)
            for number, share in enumerate(marks.handed(source, skip=skip)):
                if number == skip:
                    waited(args.device)
                    wall.append(time.perf_counter())
                    busy_from.append(time.process_time())
                if number == count:
                    source.close()
                    return
                yield share

        began = time.perf_counter()
        with StopSignals() as stop:
            loop = Loop(run, stop)
            went(loop, shares(warm + steps, warm))
            waited(args.device)
            seconds, worked = time.perf_counter() - wall[0], time.process_time() - busy_from[0]
            parts = marks.milliseconds()
            found, busy = ([], 0.0) if mode not in args.profile else profiled(loop, run, batches, args.device)
        restore()
        run.metrics.close()
        total = sum(parts.values())
        return {
            "recipe": recipe, "mode": mode, "device": args.device, "batch": run.loader.total,
            "parameters": sum(p.numel() for p in run.task.parameters()),
            "steps": steps, "ms": 1e3 * seconds / steps, "host_ms": 1e3 * worked / steps,
            "samples_per_s": steps * run.loader.total / seconds,
            "parts": {name: parts.get(name, 0.0) / total for name in PARTS if parts.get(name)},
            "marked_ms": total / steps, "warm_up_s": wall[0] - began,
            "peak_memory_gb": torch.cuda.max_memory_allocated() / 1e9 if args.device == "cuda" else None,
            "loss": [float(v) for v in run.window.fetched.get("train/loss", [])][-1:],
            "operators": found, "busy": busy,
        }  # fmt: skip


def went(loop: Any, shares: Any) -> None:
    """Run the trainer's loop until the shares end; an end that the trainer itself never sees."""
    from contextlib import suppress

    with suppress(StopIteration):
        loop.go(shares)


def waited(device: str) -> None:
    """The device has done all it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def build(
    recipe: str, mode: str, folder: Path, *, device: str, batch: int = 0, data: Path | None = None,
    overrides: Sequence[tuple[str, str]] = (),
) -> Any:  # fmt: skip
    """A training run of the recipe, ready to go."""
    from benchmarks.training.inputs import pushes, utterances
    from domains.speech.data.prepared import Prepared
    from flowkit.config.recipe import load_recipe
    from flowkit.train.run import Run
    from flowkit.train.trainer import Trainer

    precision, *switches = mode.split("+")
    on_cpu = device == "cpu"
    settings = {
        "steps": "1000000", "device": "cpu" if on_cpu else "auto", "progress": "false", "tensorboard": "false",
        "precision": "bf16" if precision == "bf16" else "fp32", "tf32": str(precision != "fp32").lower(),
        "graphs": str("graphs" in switches).lower(), "compile": str("compile" in switches).lower(),
        "evaluate_every": "0", "sample_every": "0", "checkpoint_every": "0", "log_every": "1000000",
    }  # fmt: skip
    changes = [(f"trainer.{name}", value) for name, value in settings.items()]
    if batch:
        changes.append(("trainer.batch", str(batch)))
    names = ["task", "trainer", "sampler", "data"]
    source: Any = None
    if recipe == "matcha":
        names.remove("data")
        source = Prepared(str(data or utterances(folder / "speech", 64 if on_cpu else 384)))
    elif recipe == "adaflow":
        changes += [("data.file", str(pushes(folder / "pusht.npz"))), ("task.rollout_episodes", "0")]
    elif recipe == "adaflow-small":
        changes += [("task.rollout_episodes", "0")]
    else:
        changes += [("data.clips", "512" if on_cpu else "4096")]
    built = load_recipe(RECIPES[recipe], [*changes, *overrides], trainer=Trainer).build(*names)
    run = Run(
        built.trainer, built.task, source or built.data, sampler=built.sampler, seed=built.seed, folder=folder / "run",
        recipe_text="", resume=None, overfit_batch=False, dry_run=False,
    )  # fmt: skip
    run.begin()
    return run


def formerly() -> Callable[[], None]:
    """Use the layers as they were before what this benchmark found, torch's convolution of chunks and its dropout;
    returns what undoes it."""
    from domains.policy.models.layers import Convolution
    from domains.video.models import transformer
    from flowkit.nn import dropout

    places: tuple[tuple[Any, str, Any], ...] = (
        (transformer, "dropout", torch.nn.functional.dropout),
        (Convolution, "forward", torch.nn.Conv1d.forward),
        (dropout.Dropout, "forward", torch.nn.Dropout.forward),
    )
    now = [(owner, name, getattr(owner, name)) for owner, name, _ in places]
    for owner, name, former in places:
        setattr(owner, name, former)

    def restore() -> None:
        for owner, name, ours in now:
            setattr(owner, name, ours)

    return restore


# What computes


def profiled(loop: Any, run: Any, batches: int, device: str) -> tuple[list[dict[str, Any]], float]:
    """The ten operators (on a GPU: kernels) that take the most time of a round, and the share of it that they all
    fill."""
    from itertools import islice

    from torch._C._autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device == "cuda" else [])
    began = time.perf_counter()
    with profile(activities=activities) as profiler:
        source = iter(run.loader)
        went(loop, islice(source, batches))
        source.close()
        waited(device)
        seconds = time.perf_counter() - began
    kind = DeviceType.CUDA if device == "cuda" else DeviceType.CPU
    events = [event for event in profiler.key_averages() if event.device_type == kind]
    times = [(e.self_device_time_total if device == "cuda" else e.self_cpu_time_total, e.key, e.count) for e in events]
    total = sum(t for t, _, _ in times) or 1.0
    rows = [
        {"name": name, "ms_a_step": 1e-3 * t / batches, "share": t / total, "calls_a_step": count / batches}
        for t, name, count in sorted(times, reverse=True)[:10]
    ]
    return rows, 1e-6 * total / seconds


# Shown


def line(row: dict[str, Any]) -> str:
    """One case in a line."""
    parts = "  ".join(f"{name} {share:.1%}" for name, share in row["parts"].items())
    times = f"{row['ms']:.1f} ms, {row['host_ms']:.1f} of the processor"
    return f"{row['recipe']} {row['mode']}: {row['samples_per_s']:.1f}/s, {times}  {parts}"


def table(rows: Sequence[dict[str, Any]]) -> str:
    """All cases as a Markdown table."""
    text = ["| recipe | mode | batch | ms a step | samples/s | data, transfer | forward | backward | replay | rest |"]
    text.append("|---|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        part = row["parts"]
        told = [part.get("data", 0) + part.get("move", 0), part.get("forward"), part.get("backward")]
        told += [
            part.get("replay"),
            sum(part.get(name, 0) for name in ("exchange", "clip", "optimiser", "average", "rest")),
        ]
        cells = " | ".join("" if share is None else f"{share:.1%}" for share in told)
        head = f"{row['recipe']} | {row['mode']} | {row['batch']} | {row['ms']:.2f} | {row['samples_per_s']:.1f}"
        text.append(f"| {head} | {cells} |")
    return "\n".join(text)


def operators(row: dict[str, Any]) -> str:
    """The costliest operators of a case."""
    return "\n".join(
        f"{o['ms_a_step']:9.3f} ms {o['share']:6.1%} {o['calls_a_step']:7.1f} calls  {o['name'][:110]}"
        for o in row["operators"]
    )


def machine(args: argparse.Namespace) -> dict[str, Any]:
    """What the figures were measured on."""
    import datetime as dt
    import platform

    name = torch.cuda.get_device_name() if args.device == "cuda" else platform.processor() or platform.machine()
    return {
        "device": name, "threads": args.threads, "torch": torch.__version__, "python": platform.python_version(),
        "date": dt.date.today().isoformat(),
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
