"""``flowkit reflow RUN``: straighten a trained flow by training it on its own pairs, so that few steps suffice."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowkit.cli import options
from flowkit.config.overrides import Override
from flowkit.errors import UserError

if TYPE_CHECKING:
    from flowkit.train.reflow import Reflow

EXAMPLE = """examples:
  flowkit reflow runs/mixture --pairs 30000 --trainer.steps 3000
  flowkit sample runs/mixture-reflow/round-1 --solver Euler --steps 1
  flowkit reflow runs/mixture --rounds 2 --distill 1 --sampler.solver Euler --sampler.steps 1
  flowkit reflow speech/prompts-en --pairs 5000 --guidance 2 --out runs/fast-voice

--steps, --solver, --tolerance, --guidance and --temperature say how the teacher makes pairs (default: RK4 with 25
steps, the run's own guidance); dotted overrides change the student's recipe. The same command goes on where it was
interrupted."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this verb."""
    options.add_run_arguments(parser)
    options.add_sampler_arguments(parser)
    parser.add_argument("--rounds", type=int, default=1, help="rectifications, each from the last (default 1)")
    parser.add_argument(
        "--pairs", type=int, default=30_000, metavar="N", help="pairs of each round (default 30000; images: a million)"
    )
    parser.add_argument(
        "--inverted", type=float, default=0.0, metavar="SHARE",
        help="share of pairs that run from real data back to noise, 0 to 1 (default 0)",
    )  # fmt: skip
    parser.add_argument(
        "--project", action="store_true", help="make the noise of inverted pairs normal (of equal shapes)"
    )
    parser.add_argument(
        "--batch", type=int, default=0, metavar="N", help="pairs solved together (default: the trainer's batch)"
    )
    parser.add_argument("--shard", type=int, default=0, metavar="N", help="pairs of one file (default: eight batches)")
    parser.add_argument(
        "--distill", type=int, default=0, metavar="STEPS",
        help="after the rounds, train for an Euler sampler of this many steps alone (usually 1)",
    )  # fmt: skip
    parser.add_argument(
        "--out", metavar="FOLDER", help="gets round-1, round-2, ... and distilled (default runs/NAME-reflow)"
    )
    parser.add_argument("--dry-run", action="store_true", help="a few pairs and two steps; nothing is kept")
    parser.set_defaults(overrides=True)


def run(args: argparse.Namespace) -> None:
    """Make pairs, train, round after round; say where the runs are."""
    from flowkit.artifacts import find_run
    from flowkit.train.reflow import Reflow

    if args.rounds < 0 or args.distill < 0 or not args.rounds + args.distill:
        raise UserError(f"--rounds {args.rounds} --distill {args.distill}: at least one round, or a distillation")
    if args.pairs < 1 or min(args.shard, args.batch) < 0:
        raise UserError(f"--pairs {args.pairs} --shard {args.shard} --batch {args.batch}: positive numbers, please")
    find_run(args.run)
    out = Path(args.out) if args.out else Path("runs") / f"{Path(args.run).name}-reflow"
    overrides: list[Override] = list(args.overrides)
    if args.device == "cpu":
        overrides.insert(0, ("trainer.device", "cpu"))
    settings = Reflow(
        pairs=args.pairs, batch=args.batch, shard=args.shard, inverted=args.inverted, project=args.project,
        seed=args.seed,
        sampler=options.sampler_overrides(args), overrides=overrides, device=options.device(args.device),
        dry_run=args.dry_run, on_progress=_Told(),
    )  # fmt: skip
    if args.dry_run:
        with tempfile.TemporaryDirectory(prefix="flowkit-reflow-") as folder:
            done = [_round(settings, args.run, Path(folder) / "round-1", 0 if args.rounds else args.distill)]
    else:
        stages = [(f"round-{number + 1}", 0) for number in range(args.rounds)]
        stages += [("distilled", args.distill)] if args.distill else []
        done, teacher = [], args.run
        for name, distil in stages:
            done.append(_round(settings, teacher, options.output_folder(out) / name, distil))
            teacher = str(out / name)
            if str(done[-1]["summary"]["status"]).startswith("stopped"):
                break  # by a signal: the next round would begin from an unfinished one
    if int(os.environ.get("RANK", "0")):
        return  # one process speaks for all
    if args.json:
        options.print_json({"teacher": args.run, "dry_run": args.dry_run, "rounds": done})
    elif args.dry_run:
        print("dry run: the run makes pairs, and its student trains on them; nothing was kept")
    else:
        for entry in done:
            print(f"run: {entry['folder']} ({entry['summary']['status']})")
        print(f"sample it: flowkit sample {done[-1]['folder']} --solver Euler --steps 2")


def _round(settings: Reflow, teacher: str, folder: Path, distil: int) -> dict[str, Any]:
    return {"folder": str(folder), "summary": settings.round(teacher, folder, distil=distil)}


class _Told:
    """A line of progress on standard error: rewritten on a terminal, now and then in a log."""

    def __init__(self) -> None:
        self._printed = float("-inf")

    def __call__(self, done: int, total: int) -> None:
        last, now = done == total, time.monotonic()
        if not last and now - self._printed < (0.2 if sys.stderr.isatty() else 10.0):
            return
        self._printed = now
        line = f"pairs {done:,}/{total:,}"
        if sys.stderr.isatty():
            print("\r" + line, end="\n" if last else "", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)
