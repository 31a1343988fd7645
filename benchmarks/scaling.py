"""The full Matcha recipe on one GPU and on several: utterances per second at a fixed batch a GPU, memory, losses.

    python benchmarks/scaling.py --out one.json
    torchrun --nproc_per_node 2 benchmarks/scaling.py --out two.json
    python benchmarks/scaling.py --merge one.json two.json --out scaling.json

Each training is the library's own, of ``speech/matcha-ljspeech`` (18.2 M parameters, 32 utterances a GPU) on generated
utterances as long as LJSpeech's: one whole epoch a round, so that every number of processes sees the same utterances;
two rounds warm up, the rest is timed by the clock with the GPUs waited for. ``losses`` are of float32 without dropout
at one global batch. ``large`` is RIVER's network with 0.45 billion parameters, which shows what sharding saves.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

if not __package__:  # started as a script: the root of the repository holds the modules
    sys.path.append(str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.training.parts import Marks
from benchmarks.training_speed import build, machine, waited, went
from flowkit import atomic

#: No draws that depend on how the batch is split.
CALM = (
    ("task.decoder.dropout", "0.0"), ("task.encoder.dropout", "0.0"), ("task.encoder.prenet_dropout", "0.0"),
    ("trainer.lr", "3e-4"),
)  # fmt: skip
TINY = (("task.network.width", "32"), ("task.network.heads", "2"), ("task.network.blocks", "[1,1,1]"))
LARGE = (("task.network.width", "1536"), ("task.network.heads", "16"), ("task.network.blocks", "[5,6,5]"))


@dataclass(frozen=True)
class Case:
    """A training to measure."""

    name: str
    recipe: str
    mode: str
    parallel: str = "ddp"
    checkpointed: bool = False
    losses: bool = False
    alone: bool = True  # measured on one process too


CASES = (
    Case("graphs", "matcha", "bf16+graphs"),
    Case("ddp", "matcha", "bf16"),
    Case("fsdp", "matcha", "bf16", "fsdp", alone=False),
    Case("losses", "matcha", "fp32", losses=True),
    Case("losses, graphs", "matcha", "fp32+graphs", losses=True),
    Case("losses, fsdp", "matcha", "fp32", "fsdp", losses=True, alone=False),
    Case("large, ddp", "river", "bf16"),
    Case("large, fsdp", "river", "bf16", "fsdp", alone=False),
    Case("large, fsdp, recomputed", "river", "bf16", "fsdp", checkpointed=True, alone=False),
    Case("large, recomputed", "river", "bf16", checkpointed=True),
    Case("tf32 graphs", "matcha", "tf32+graphs"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the cases on the processes of this launch, or merge what launches found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    parser.add_argument("--merge", type=Path, nargs="+", metavar="FILE", help="files of launches, one process first")
    parser.add_argument("--cases", nargs="+", choices=[c.name for c in CASES], default=[c.name for c in CASES])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=32, help="samples a process (default %(default)s)")
    parser.add_argument("--utterances", type=int, default=1024, help="training utterances (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="timed epochs (default %(default)s)")
    parser.add_argument("--steps", type=int, default=20, help="steps whose losses are compared (default %(default)s)")
    parser.add_argument("--small", action="store_true", help="small networks, to try the script out")
    parser.add_argument("--minutes", type=float, default=0, help="begin no case after so many minutes")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default %(default)s)")
    args = parser.parse_args(arguments)
    if args.merge:
        found = [json.loads(file.read_text()) for file in args.merge]
        merged = {"machine": found[0]["machine"], "launches": found, "compared": compared(found)}
        atomic.write_json(args.out, merged)
        print(table(merged))
        return 0
    torch.set_num_threads(args.threads)
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    root = Path(tempfile.gettempdir()) / f"flowkit-scaling-{os.environ.get('MASTER_PORT', os.getpid())}"
    data = speech(args.utterances, rank)
    began, rows = time.monotonic(), []
    for number, case in enumerate(c for c in CASES if c.name in args.cases):
        if world == 1 and not case.alone:
            continue
        if 0 < 60 * args.minutes < agreed(time.monotonic() - began, world):
            break
        row = asdict(case) | {"world": world} | measured(case, args, root / f"{number:02d}-{rank}", data, world)
        rows.append(row)
        if rank == 0:
            atomic.write_json(args.out, {"machine": machine(args), "world": world, "rows": rows})
            shown = {k: v for k, v in row.items() if k not in ("recipe", "loss")}
            print(json.dumps(shown), flush=True)
    if world > 1 and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    return 0


def speech(count: int, rank: int) -> Path:
    """The generated utterances, made by the first process; those of one process more than ``count`` are held out."""
    from benchmarks.training.inputs import utterances

    folder = Path(tempfile.gettempdir()) / f"flowkit-scaling-speech-{count}"
    if rank == 0 and not (folder / "manifest.json").exists():
        # 15 of 16 are for training.
        atomic.write_folder(folder, lambda place: utterances(place, -(-count * 16 // 15)) and None)
    while not (folder / "manifest.json").exists():
        time.sleep(0.2)
    return folder


def agreed(seconds: float, world: int) -> float:
    """The first process's clock, so that all stop at one case."""
    if world == 1 or not torch.distributed.is_initialized():
        return seconds
    told = [seconds]
    torch.distributed.broadcast_object_list(told, src=0)
    return told[0]


def measured(case: Case, args: argparse.Namespace, folder: Path, data: Path, world: int) -> dict[str, Any]:
    """Train and tell speed and memory, or the losses."""
    from flowkit.train.loop import Loop
    from flowkit.train.signals import StopSignals

    on_gpu = args.device == "cuda"
    changes: list[tuple[str, str]] = [] if case.parallel == "ddp" else [("trainer.parallel", case.parallel)]
    if case.checkpointed:
        changes.append(("trainer.checkpoint_activations", "true"))
    batch = args.batch
    if case.recipe == "river":
        changes += [*(TINY if args.small else LARGE), ("data.clips", str(16 * batch))]
    elif args.small:
        changes += [("task.decoder.channels", "[32,32]"), ("task.encoder.width", "32"), ("task.encoder.layers", "1")]
    if case.losses:
        changes += CALM
        batch = args.batch * max(2 // world, 1)
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    folder.mkdir(parents=True, exist_ok=True)
    run = build(case.recipe, case.mode, folder, device=args.device, batch=batch, data=data, overrides=changes)
    # Replayed steps are several times shorter.
    rounds, epoch = args.rounds * (4 if "graphs" in case.mode else 1), run.loader.order.batches
    marks = Marks(run)
    began, frames = 0.0, 0

    def shares(warm: int, steps: int) -> Any:
        nonlocal began, frames
        source = iter(run.loader)
        for number, share in enumerate(marks.handed(source, skip=warm)):
            if number == warm:
                waited(args.device)
                run.accelerator.wait_for_everyone()
                began = time.perf_counter()
            if number == warm + steps:
                source.close()
                return
            if number >= warm and "mel" in share.parts[0].raw:
                frames += sum(part.raw["mel"].shape[0] * part.raw["mel"].shape[2] for part in share.parts)
            yield share

    with StopSignals() as stop:
        loop = Loop(run, stop)
        if case.losses:
            values = [losses(run, loop, shares(0, args.steps))]
            result: dict[str, Any] = {"loss": values[0], "global_batch": run.loader.total, "steps": args.steps}
        else:
            # One epoch over and over: every number of processes sees the same utterances.
            run.loader._next = lambda _epoch, index: (0, (index + 1) % epoch)
            went(loop, shares(2 * epoch, rounds * epoch))
            waited(args.device)
            run.accelerator.wait_for_everyone()
            seconds = time.perf_counter() - began
            parts = marks.milliseconds()
            total = sum(parts.values())
            result = {
                "ms": 1e3 * seconds / (rounds * epoch), "samples_per_s": rounds * epoch * run.loader.total / seconds,
                "steps": rounds * epoch, "global_batch": run.loader.total, "padded_frames": gathered(frames),
                "parts": {name: value / total for name, value in parts.items()},
            }  # fmt: skip
    result["peak_memory_gb"] = gathered(torch.cuda.max_memory_allocated() / 1e9 if on_gpu else 0.0)
    result["parameters"] = sum(p.numel() for p in run.task.parameters())
    run.metrics.close()
    del run, loop, marks
    gc.collect()
    return result


def losses(run: Any, loop: Any, shares: Any) -> list[float]:
    """The mean loss over all processes of every step."""
    run.window.fetched.clear()
    went(loop, shares)
    run.window.fetch(run.accelerator)
    return list(run.window.fetched["train/loss"])


def gathered(value: float) -> list[float]:
    """The values of all processes."""
    from accelerate.utils import gather_object

    return gather_object([value])


# Merged


def compared(launches: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each case of several processes against the one of one process in the same mode and network."""
    alone = {r["name"]: r for r in launches[0]["rows"]}
    base = {"fsdp": "ddp", "losses, fsdp": "losses", "large, fsdp": "large, ddp"}
    base["large, fsdp, recomputed"] = "large, recomputed"
    found = []
    for launch in launches[1:]:
        for row in launch["rows"]:
            one = alone.get(base.get(row["name"], row["name"]))
            if one is None:
                continue
            entry: dict[str, Any] = {"name": row["name"], "world": row["world"]}
            if row["losses"]:
                pairs = list(zip(row["loss"], one["loss"], strict=False))
                entry["worst_relative_difference"] = max(abs(a - b) / abs(b) for a, b in pairs)
            else:
                entry["speedup"] = row["samples_per_s"] / one["samples_per_s"]
            found.append(entry)
    return found


def table(merged: dict[str, Any]) -> str:
    """All as a Markdown table."""
    told = {(c["name"], c["world"]): c for c in merged["compared"]}
    lines = ["| training | processes | global batch | ms a step | samples/s | against one | peak GB a GPU |"]
    lines.append("|---|---|---|---|---|---|---|")
    for launch in merged["launches"]:
        for row in launch["rows"]:
            other = told.get((row["name"], row["world"]), {})
            against = f"{other['speedup']:.2f} x" if "speedup" in other else ""
            if "worst_relative_difference" in other:
                against = f"losses differ by {other['worst_relative_difference']:.1e} at most"
            speed = f"{row['ms']:.1f} | {row['samples_per_s']:.1f}" if "ms" in row else " | "
            memory = ", ".join(f"{m:.2f}" for m in row["peak_memory_gb"])
            lines.append(f"| {row['name']} | {row['world']} | {row['global_batch']} | {speed} | {against} | {memory} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
