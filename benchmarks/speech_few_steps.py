"""Few network calls for a voice: the decoder of a trained Matcha-TTS is taught to take 1, 2 or 4 steps by many methods.

Every student has the voice's networks, begins with its weights and is trained for the same seconds; encoder and
durations stay the voice's, so all decode the same means. "flow matching, on" goes on with plain flow matching of the
recordings for as long: what the time alone gives. Pairs are the voice's own, by RK4 with 25 steps, made once; their
seconds and those of the voice, where this script trained it, are told beside.

Measured on the test split with the true durations and the same noise for all: the mean absolute log-mel distance to
the voice's accurate solve and to the recordings, and the deviation over time beside that of the recordings (blurred
speech is below 1). With --listen (pocketsphinx, jiwer, speechmos) also word errors and DNSMOS of the sound, and with
--keep FOLDER the sound itself, for ``speech_quality.py --wavs`` on another machine.

    python benchmarks/speech_few_steps.py --data PREPARED --seconds 60 --device cuda --out few.json --keep few
    python benchmarks/speech_few_steps.py --recipe speech/smoke/matcha-rulemade --steps 20 --device cpu  # a rehearsal

--data is a folder of prepared speech (``flowkit data`` tells where it lies), which travels where espeak-ng does not.
--voice is a run or a model folder; with --recipe and --voice-seconds one is trained first.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if not __package__:  # started as a script: the root of the repository holds the modules
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import yaml

from benchmarks.pictures.methods import Method
from benchmarks.speech import few_steps
from domains.speech.data.prepared import Prepared
from flowkit import atomic
from flowkit.artifacts import describe_run, from_pretrained
from flowkit.config.overrides import Override
from flowkit.config.recipe import Recipe, load_recipe
from flowkit.train.reflow import PAIRS, Reflow
from flowkit.train.summary import device_name
from flowkit.train.teacher import begin_as, teach
from flowkit.train.trainer import Trainer

VOICE, ON = "the voice", "flow matching, on"
CALLS = (1, 2, 4)
#: Pairs that are solved together.
_BATCH = 96
METHODS: dict[str, Method] = {
    VOICE: Method(),
    ON: Method(),
    "reflow": Method(pairs=True),
    "Rectified Diffusion": Method("RectifiedDiffusion", pairs=True),
    "Consistency-FM, 1 segment": Method(
        "ConsistencyFM", {"segments": 1, "delta": 0.01}, {"anchored_steps": 0.5}, pairs=True
    ),
    "Consistency-FM, 2 segments": Method(
        "ConsistencyFM", {"segments": 2, "delta": 0.01}, {"anchored_steps": 0.5}, pairs=True, multiple=2
    ),
    "constant acceleration": Method(
        "ConstantAcceleration", {"speed": 1.5, "distance": "SquaredError"}, {"velocity_steps": 0.4}, pairs=True,
        evaluations_of=1,
    ),
    "SeqRF, 1 segment": Method("SeqRF", {"segments": 1}, follows_teacher=True),
    "SeqRF, 2 segments": Method("SeqRF", {"segments": 2}, multiple=2, follows_teacher=True),
}  # fmt: skip


class Bench:
    """Everything of one process.

    Args:
        arguments: the command line.
        folder: of runs, thrown away afterwards.
    """

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        self.arguments, self.folder = arguments, folder
        self.device = torch.device(arguments.device)
        quiet = ("evaluate_every", "sample_every", "checkpoint_every")
        self.common: list[Override] = [
            *((f"trainer.{key}", "0") for key in quiet), ("trainer.progress", "false"),
            ("trainer.tensorboard", "false"), ("trainer.graphs", "false"), *arguments.set,
        ]  # fmt: skip
        if self.device.type == "cpu":
            self.common += [("trainer.device", "cpu"), ("trainer.precision", "fp32")]
        elif not any(path == "trainer.precision" for path, _ in arguments.set):
            self.common.append(("trainer.precision", "bf16"))
        self.voice_seconds: float | None = None
        self.voice = self._trained() if arguments.recipe else self._copied()
        self.pairs_seconds: float | None = None
        self.results: dict[str, Any] = {}
        loaded = from_pretrained(self.voice, device=self.device, with_data=True)
        self.data: Any = loaded.data
        self.data.prepare()
        self.judge = few_steps.Judge(
            loaded, self.data, temperature=arguments.temperature, seed=arguments.seed, listen=arguments.listen,
            keep=arguments.keep, limit=arguments.limit,
        )  # fmt: skip

    # --- the voice --------------------------------------------------------------------------------------------------

    def _trained(self) -> Path:
        """A voice of this script's own."""
        arguments, run = self.arguments, self.folder / "voice"
        changes = [*self.common, *self._length(arguments.voice_seconds)]
        if arguments.data:
            changes.append(("data", json.dumps(self._prepared())))
        recipe = load_recipe(arguments.recipe, changes, trainer=Trainer)
        made = recipe.build()
        summary = made.trainer.fit(
            made.task, made.data, sampler=made.sampler, seed=arguments.seed, folder=run, recipe_text=recipe.dump()
        )
        self.voice_seconds = summary["seconds"]
        return run

    def _copied(self) -> Path:
        """The given voice, with the given data in its recipe."""
        found, folder = describe_run(self.arguments.voice), self.folder / "voice"
        if not self.arguments.data:
            return Path(found["folder"])
        shutil.copytree(found["folder"], folder, ignore=shutil.ignore_patterns("checkpoints", PAIRS, "samples"))
        recipe = folder / Path(found["recipe"]).relative_to(found["folder"])
        raw = yaml.safe_load(recipe.read_text(encoding="utf-8"))
        atomic.write_text(recipe, yaml.safe_dump({**raw, "data": self._prepared()}, sort_keys=False))
        return folder

    def _prepared(self) -> dict[str, Any]:
        path = f"{Prepared.__module__}.{Prepared.__qualname__}"
        return {"class_path": path, "init_args": {"path": str(self.arguments.data.resolve())}}

    # --- students ---------------------------------------------------------------------------------------------------

    def _length(self, seconds: float) -> list[Override]:
        if self.arguments.steps:
            return [("trainer.steps", str(self.arguments.steps))]
        return [("trainer.steps", "10000000"), ("trainer.seconds", f"{seconds:.1f}")]

    def _changes(self, method: Method, steps: int, seconds: float) -> list[Override]:
        """Of the voice's recipe; ``steps`` is what the training will about take."""
        plain = method.objective == "FlowMatching"
        objective = [] if plain else [c for c in method.overrides(steps) if c[0].startswith("task.")]
        rate = [("trainer.lr", str(self.arguments.lr)), ("trainer.schedule", "cosine"), ("trainer.warmup", "100")]
        return [*self.common, *rate, *objective, *self._length(seconds), ("seed", str(self.arguments.seed))]

    def _train(self, method: Method, folder: Path, steps: int, seconds: float) -> dict[str, Any]:
        changes = self._changes(method, steps, seconds)
        folder.mkdir(parents=True)
        if method.pairs:
            shared = self.folder / PAIRS
            shared.mkdir(exist_ok=True)
            (folder / PAIRS).symlink_to(shared, target_is_directory=True)
            reflow = Reflow(
                pairs=self.arguments.pairs, batch=min(self.arguments.pairs, _BATCH), overrides=changes,
                seed=self.arguments.seed, device=str(self.device),
            )  # fmt: skip
            began = time.perf_counter()
            summary = reflow.round(self.voice, folder)
            made = time.perf_counter() - began - summary["seconds"]
            # The first student's round makes the pairs, the others find them.
            self.pairs_seconds = self.pairs_seconds or made
            return summary
        recipe = self._recipe(changes, method)
        made = recipe.build()
        teacher = teach(recipe, made.task)
        if teacher is None:
            begin_as(made.task, from_pretrained(self.voice).task, str(self.voice))
            for name, parameter in made.task.named_parameters():
                parameter.requires_grad_(name.startswith("networks."))
        return made.trainer.fit(
            made.task, made.data, sampler=made.sampler, seed=self.arguments.seed, folder=folder,
            recipe_text=recipe.dump(), warm_start=True, teacher=teacher,
        )  # fmt: skip

    def _recipe(self, changes: Sequence[Override], method: Method) -> Recipe:
        path = describe_run(self.voice)["recipe"]
        taught = [("teacher", json.dumps(str(self.voice)))] if method.follows_teacher else []
        return load_recipe(str(path), [*changes, *taught], trainer=Trainer)

    def _steps(self, name: str, method: Method) -> int:
        """Steps that fit, by the pace of a few seconds; only stages need to know."""
        if self.arguments.steps or not method.stages:
            return self.arguments.steps
        seconds = min(6.0, self.arguments.seconds / 5)
        summary = self._train(method, self.folder / "paces" / name, 40, seconds)
        return round(summary["steps"] * self.arguments.seconds / summary["seconds"])

    # --- everything -------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Train and judge, method by method; results are written as they come."""
        for name in self.arguments.methods:
            method, taken, run = METHODS[name], {}, self.voice
            if name != VOICE:
                steps, run = self._steps(name, method), self.folder / "students" / name.replace(" ", "-")
                summary = self._train(method, run, steps, self.arguments.seconds)
                taken = {key: summary[key] for key in ("steps", "seconds", "peak_memory_mb")}
                taken |= {"voice_seconds": self.voice_seconds}
                taken |= {"pairs_seconds": self.pairs_seconds} if method.pairs else {}
            loaded = from_pretrained(run, device=self.device)
            calls = {n: steps for n in CALLS if (steps := method.steps(n)) is not None}
            self.results[name] = taken | {"calls": self.judge(name, loaded, calls)}
            atomic.write_json(self.arguments.out, self.report())
            shown = {n: round(point["to_voice"], 3) for n, point in self.results[name]["calls"].items()}
            print(f"{name}: {taken.get('steps', 0)} steps, distance to the voice's accurate solve {shown}", flush=True)

    def report(self) -> dict[str, Any]:
        """What is written: one run, to be merged with others."""
        run = {
            "seed": self.arguments.seed, "seconds": self.arguments.seconds, "pairs": self.arguments.pairs,
            "temperature": self.judge.temperature, "references": self.judge.references, "methods": self.results,
        }  # fmt: skip
        return {"machine": device_name(self.device), "torch": torch.__version__, "runs": [run]}


def tables(report: dict[str, Any]) -> str:
    """Markdown, means over the seeds."""
    runs = report["runs"]
    measures = {"to_voice": "to the voice's accurate solve", "to_real": "to the recording", "deviation": "deviation"}
    measures |= {name: name for name in ("wer", "dnsmos") if name in runs[0]["references"]["recordings"]}
    lines = []
    for key, title in measures.items():
        lines += [f"\n{title}; seeds {', '.join(str(run['seed']) for run in runs)}\n"]
        lines += ["| method | " + " | ".join(f"{n} calls" for n in CALLS) + " | steps | train s (voice, pairs) |"]
        lines += ["|" + "---|" * (len(CALLS) + 3)]
        for name in METHODS:
            rows = [run["methods"][name] for run in runs if name in run["methods"]]
            if rows:
                cells = [_mean([row["calls"].get(str(n), row["calls"].get(n, {})) for row in rows], key) for n in CALLS]
                beside = [_mean(rows, k, 0) for k in ("voice_seconds", "pairs_seconds")]
                spent = _mean(rows, "seconds", 0) + (f" ({', '.join(beside)})" if name != VOICE else "")
                lines.append(f"| {name} | {' | '.join(cells)} | {_mean(rows, 'steps', 0)} | {spent} |")
        known = [run["references"] for run in runs]
        lines += [f"| {name} | {_mean([r[name] for r in known], key)} | | | | |" for name in known[0]]
    return "\n".join(lines)


def _mean(rows: Sequence[dict[str, Any]], key: str, digits: int = 3) -> str:
    values = [float(row[key]) for row in rows if row.get(key) is not None]
    return f"{statistics.fmean(values):.{digits}f}" if values else "-"


def _override(text: str) -> Override:
    path, _, value = text.partition("=")
    return path, value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out/speech_few_steps.json"))
    parser.add_argument("--voice", default="speech/prompts-en", help="the teacher (default %(default)s)")
    parser.add_argument("--recipe", default="", help="train a voice by this recipe instead")
    parser.add_argument("--voice-seconds", type=float, default=425.0, help="of that training")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="prepared speech, instead of the recipe's data")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seed", type=int, default=0, help="one process for each, then --merge")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each student's training")
    parser.add_argument("--steps", type=int, default=0, help="of each training instead: for rehearsals")
    parser.add_argument("--lr", type=float, default=2e-4, help="of the students (default %(default)s)")
    parser.add_argument("--pairs", type=int, default=6000)
    parser.add_argument("--temperature", type=float, help="of the noise when judged (default: the voice's)")
    parser.add_argument("--limit", type=int, default=64, help="test utterances judged, at most")
    parser.add_argument("--listen", action="store_true", help="recognise the sound and rate it")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="write the sound as wav files")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--set", nargs="*", type=_override, default=[], metavar="PATH=VALUE", help="of the recipe")
    parser.add_argument("--merge", nargs="+", type=Path, metavar="JSON")
    arguments = parser.parse_args()
    if arguments.merge:
        reports = [json.loads(file.read_text(encoding="utf-8")) for file in arguments.merge]
        whole = {**reports[0], "runs": [run for report in reports for run in report["runs"]]}
        atomic.write_json(arguments.out, whole)
        print(tables(whole))
        return
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(arguments, Path(folder))
        bench.run()
    print(tables(bench.report()))


if __name__ == "__main__":
    main()
