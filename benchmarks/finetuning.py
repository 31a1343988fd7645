"""Fine-tuning against its base and against training from scratch for the same seconds, on data held out of the base.

Cases: ``speech`` (the English voice, fitted to recordings in another language), ``policy`` (a Meta-World task, fitted
to a few demonstrations of another) and ``video`` (bouncing sprites, fitted to another scene). Rows: the base as it is;
from scratch (the base's recipe on the new data); adapters of rank 8 and 32; the output layer alone; all weights. Every
row but the first trains for the same seconds, by ``flowkit finetune``'s own code and defaults, and is judged by the
same measures, draws and held-out samples. Beside it: numbers that learn, size of the file, samples a second, and the
peak memory of a few uncaptured steps at the recipe's batch, above what lay there before (with --memory).

    python benchmarks/finetuning.py speech --data PREPARED --seconds 20 --seeds 0 1 --out speech.json --keep mels
    python benchmarks/finetuning.py policy --environment FlowKit/MetaWorld-door-open-v0 --device cpu --out policy.json
    python benchmarks/finetuning.py video --data push64.npz --seconds 20 --out video.json
    python benchmarks/finetuning.py take-few --data PREPARED --count 200 --out FOLDER  # 200 recordings to train on
    python benchmarks/finetuning.py merge --files a.json b.json --out all.json
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

if not __package__:  # started as a script: the root of the repository holds the modules
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.tuning.case import Case
from flowkit import atomic
from flowkit.artifacts import describe_run
from flowkit.config.overrides import Override
from flowkit.config.recipe import load_recipe
from flowkit.train.finetune import ADAPTER, Finetuning
from flowkit.train.summary import device_name
from flowkit.train.trainer import Trainer

#: Row -> options of :class:`Finetuning`, or None for what is no fine-tuning.
ROWS: dict[str, dict[str, Any] | None] = {
    "base": None,
    "scratch": None,
    "lora 8": {"method": "lora", "rank": 8},
    "lora 32": {"method": "lora", "rank": 32},
    "head": {"method": "head"},
    "full": {"method": "full"},
}
WARMUP = 100
#: Steps by which memory is measured.
_FEW = 6


def make_case(arguments: argparse.Namespace) -> Case:
    """The case of the command line."""
    common: dict[str, Any] = {"device": arguments.device, "limit": arguments.limit}
    if arguments.base:
        common["base"] = arguments.base
    if arguments.case == "speech":
        from benchmarks.tuning.speech import SpeechCase

        return SpeechCase(folder=arguments.data, **common)
    if arguments.case == "policy":
        from benchmarks.tuning.policy import PolicyCase

        return PolicyCase(environment=arguments.environment, demonstrations=arguments.count, **common)
    from benchmarks.tuning.video import VideoCase

    return VideoCase(file=arguments.data, videos=arguments.count, **common)


class Bench:
    """Trainings of one process.

    Args:
        arguments: the command line.
        folder: of runs, thrown away afterwards.
    """

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        self.arguments, self.folder, self.case = arguments, folder, make_case(arguments)
        self.cuda = arguments.device != "cpu"

    def _changes(self, seconds: float, steps: int, *, memory: bool = False) -> list[Override]:
        quiet = ("evaluate_every", "sample_every", "checkpoint_every")
        changes: list[Override] = [
            ("data", json.dumps(self.case.data(light=memory))), *((f"trainer.{key}", "0") for key in quiet),
            ("trainer.progress", "false"), ("trainer.tensorboard", "false"),
            ("trainer.log_every", "6" if memory else "200"),
            ("trainer.device", "auto" if self.cuda else "cpu"),
            ("trainer.precision", "bf16" if self.cuda else "fp32"), *self.case.overrides(),
            *self.arguments.set,
        ]  # fmt: skip
        if memory or not self.cuda:
            changes.append(("trainer.graphs", "false"))
        if steps:
            return [*changes, ("trainer.steps", str(steps)), ("trainer.warmup", "0")]
        return [*changes, ("trainer.steps", "10000000"), ("trainer.seconds", f"{seconds:g}")]

    def _train(self, name: str, changes: list[Override], seed: int, folder: Path) -> dict[str, Any]:
        options = ROWS[name]
        if options is not None:
            return Finetuning(base=self.case.base, overrides=changes, seed=seed, **options).run(folder)
        recipe = load_recipe(
            str(describe_run(self.case.base)["recipe"]),
            [
                ("trainer.schedule", "cosine"), ("trainer.warmup", str(WARMUP)), ("trainer.ema", "0.99"), *changes,
                ("seed", str(seed)),
            ],
            trainer=Trainer,
        )  # fmt: skip
        made = recipe.build()
        return made.trainer.fit(
            made.task, made.data, sampler=made.sampler, seed=seed, folder=folder, recipe_text=recipe.dump()
        )

    def memory(self, name: str) -> float:
        """MiB of the GPU that a few steps take above what is there already."""
        _clean()
        before = torch.cuda.memory_allocated() / 2**20
        torch.cuda.reset_peak_memory_stats()
        summary = self._train(name, self._changes(0.0, _FEW, memory=True), 0, self.folder / f"memory-{name}")
        return float(summary["peak_memory_mb"]) - before

    def row(self, name: str, seed: int) -> dict[str, Any]:
        """Train and judge one row."""
        found: dict[str, Any] = {"row": name, "seed": seed}
        model = self.case.base
        if name != "base":
            if self.arguments.memory and self.cuda and seed == self.arguments.seeds[0]:
                found["peak_memory_mib"] = self.memory(name)
            _clean()
            run = self.folder / f"{name}-{seed}".replace(" ", "-")
            summary = self._train(name, self._changes(self.arguments.seconds, self.arguments.steps), seed, run)
            alone = run / ADAPTER
            tensors = (
                alone / "adapter.safetensors" if alone.is_dir()
                else run / "checkpoints" / "last" / "model" / "model.safetensors"
            )  # fmt: skip
            model = str(alone if alone.is_dir() else run)
            found |= {
                "steps": summary["steps"], "seconds": summary["seconds"],
                "samples_per_second": summary["samples_seen"] / summary["seconds"],
                "parameters": sum(summary["parameters"].values()), "file_mib": tensors.stat().st_size / 2**20,
                "loss": summary["metrics"].get("train/loss"),
            }  # fmt: skip
        began = time.perf_counter()
        keep = self.arguments.keep
        stem = f"{name}-{seed}".replace(" ", "-")
        self.case.seed = seed
        measures = self.case.judge(model, None if keep is None else keep / stem)
        return found | {"judge_seconds": time.perf_counter() - began, "measures": measures}

    def run(self) -> None:
        """All rows; results are written as they come."""
        arguments, rows = self.arguments, []
        if self.cuda and arguments.warm:  # the first training would pay for the start of the libraries
            self._train("lora 8", self._changes(0.0, _FEW), 0, self.folder / "warm")
        reference = self.case.reference()
        for seed in arguments.seeds:
            for name in arguments.rows:
                rows.append(self.row(name, seed))
                print(json.dumps(rows[-1]), flush=True)
                settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(arguments).items()}
                found = {
                    "case": arguments.case, "base": self.case.base, "reference": reference, "settings": settings,
                    "machine": device_name(torch.device("cuda" if self.cuda else "cpu")),
                    "torch": torch.__version__, "rows": rows,
                }  # fmt: skip
                atomic.write_json(arguments.out, {"cases": [found]})


def _clean() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def merged(files: list[Path]) -> dict[str, Any]:
    """Cases of several files; rows of the same case, base and data come together."""
    cases: dict[str, dict[str, Any]] = {}
    for path in files:
        for case in json.loads(path.read_text(encoding="utf-8"))["cases"]:
            key = json.dumps([case["case"], case["base"], case["reference"]], sort_keys=True)
            if key in cases:
                cases[key]["rows"] += case["rows"]
            else:
                cases[key] = case
    return {"cases": list(cases.values())}


def tables(found: dict[str, Any]) -> str:
    """Markdown: means over the seeds, with the range of the measures."""
    lines = []
    for case in found["cases"]:
        lines.append(f"\n{case['case']}: {case['base']}, {json.dumps(case['reference'], ensure_ascii=False)}\n")
        measures = list(case["rows"][0]["measures"])
        beside = {
            "steps": 0, "seconds": 1, "samples_per_second": 0, "parameters": 0, "file_mib": 2, "peak_memory_mib": 0,
        }  # fmt: skip
        lines.append("| row | seeds | " + " | ".join([*measures, *beside]) + " |")
        lines.append("|" + "---|" * (2 + len(measures) + len(beside)))
        for name in ROWS:
            rows = [row for row in case["rows"] if row["row"] == name]
            if rows:
                cells = [_spread([row["measures"][m] for row in rows if m in row["measures"]]) for m in measures]
                cells += [_mean([row[k] for row in rows if k in row], digits) for k, digits in beside.items()]
                lines.append(f"| {name} | {len({row['seed'] for row in rows})} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _mean(values: list[float], digits: int) -> str:
    return f"{statistics.fmean(values):.{digits}f}" if values else "-"


def _spread(values: list[float]) -> str:
    if not values:
        return "-"
    mean = statistics.fmean(values)
    return f"{mean:.4g}" if len(values) == 1 else f"{mean:.4g} ({min(values):.4g} to {max(values):.4g})"


def _override(text: str) -> Override:
    path, _, value = text.partition("=")
    return path, value


def main() -> None:
    """See the head of the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=("speech", "policy", "video", "take-few", "merge"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="prepared speech, or an array of videos")
    parser.add_argument("--environment", default="FlowKit/MetaWorld-door-open-v0")
    parser.add_argument("--count", type=int, default=0, help="demonstrations, videos or utterances to train on")
    parser.add_argument("--base", default="", help="instead of the case's")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="of each training")
    parser.add_argument("--steps", type=int, default=0, help="of each training instead: for rehearsals")
    parser.add_argument("--limit", type=int, default=64, help="held-out samples or episodes judged, at most")
    parser.add_argument("--memory", action="store_true", help="measure the peak memory of each row on the GPU")
    parser.add_argument("--warm", action="store_true", help="a few steps before the first row")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="of the speech made (log-mels)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--set", nargs="*", type=_override, default=[], metavar="PATH=VALUE", help="of the recipe")
    parser.add_argument("--threads", type=int, default=0, help="of the CPU")
    parser.add_argument("--files", nargs="+", type=Path, default=[], metavar="JSON", help="to merge")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.case == "take-few":
        from benchmarks.tuning.speech import take_few

        take_few(arguments.data, arguments.out, arguments.count or 200)
        return
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    if arguments.case == "merge":
        found = merged(arguments.files)
        atomic.write_json(arguments.out, found)
        print(tables(found))
        return
    if arguments.case == "policy":
        arguments.count = arguments.count or 20
    with tempfile.TemporaryDirectory(prefix="finetuning-") as folder:
        Bench(arguments, Path(folder)).run()
    print(tables(json.loads(arguments.out.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
