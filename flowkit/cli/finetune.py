"""``flowkit finetune RUN``: fit a trained model to data of your own."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from flowkit.cli import options
from flowkit.config.overrides import Override
from flowkit.errors import UserError

EXAMPLE = """examples:
  flowkit finetune speech/prompts-en --data LJSpeech --data.folder my-voice
  flowkit finetune policy/fork --data policy/adaflow-minari --data.dataset my/demonstrations --rank 16
  flowkit finetune runs/river --data.folder my-clips --adapter full --trainer.steps 5000
  flowkit sample runs/river-finetuned/adapter

--data takes the data of a recipe, or a class by its name; dotted overrides change its arguments, and anything else of
the recipe. The adapter alone lies in OUT/adapter: it is used like a run, and flowkit merge makes a model of it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this verb."""
    parser.add_argument(
        "run", metavar="RUN", help="a run folder, a pretrained name (flowkit list pretrained) or a model folder"
    )
    parser.add_argument(
        "--adapter", choices=("lora", "head", "full"), default="lora",
        help="what learns: low-rank adapters (default), the output layer alone, or everything",
    )  # fmt: skip
    parser.add_argument("--rank", type=int, help="of the adapters (default 8)")
    parser.add_argument(
        "--alpha", type=float, default=0.0, help="their term is multiplied by alpha / rank (default: alpha = 2 rank)"
    )
    parser.add_argument("--dropout", type=float, default=0.0, help="of the adapters' inputs (default 0)")
    parser.add_argument(
        "--target", action="append", default=[], metavar="PATTERN",
        help="put adapters into layers with names like this only; may be repeated (flowkit show RUN lists the layers)",
    )  # fmt: skip
    parser.add_argument("--data", default="", metavar="RECIPE|CLASS", help="other data (default: the base's source)")
    parser.add_argument("--out", metavar="FOLDER", help="the run's folder (default runs/NAME-finetuned)")
    parser.add_argument("--resume", metavar="WHICH", help="go on with the run in --out: last, best or a step")
    parser.add_argument("--seed", type=int, help="instead of the base's seed")
    parser.add_argument("--device", choices=("auto", "cpu"), help="auto takes the GPUs that the launch gives (default)")
    parser.add_argument("--dry-run", action="store_true", help="two steps, one evaluation, one sample; nothing is kept")
    options.add_json_argument(parser)
    parser.set_defaults(overrides=True)


def run(args: argparse.Namespace) -> None:
    """Fine-tune and say what came out."""
    from flowkit.train.finetune import ADAPTER, Finetuning

    if args.adapter != "lora" and (args.rank is not None or args.target or args.alpha or args.dropout):
        raise UserError(f"--rank, --target, --alpha and --dropout are of --adapter lora, not of {args.adapter}")
    folder = Path(args.out) if args.out else Path("runs") / f"{Path(args.run).resolve().name}-finetuned"
    overrides: list[Override] = list(args.overrides)
    if args.device is not None:
        overrides.append(("trainer.device", args.device))
    settings = Finetuning(
        base=args.run, method=args.adapter, rank=8 if args.rank is None else args.rank, alpha=args.alpha,
        dropout=args.dropout, targets=args.target, data=args.data, overrides=overrides, seed=args.seed,
    )  # fmt: skip
    summary = settings.run(folder, resume=args.resume, dry_run=args.dry_run)
    if int(os.environ.get("RANK", "0")):
        return  # one process speaks for all
    alone = folder / ADAPTER if args.adapter != "full" else None
    if args.json:
        kept = {"folder": str(folder), "adapter": None if alone is None else str(alone)}
        options.print_json({**({} if args.dry_run else kept), "dry_run": args.dry_run, "summary": summary})
    elif args.dry_run:
        print("dry run: the model trains on the data, evaluates and samples; nothing was kept")
    else:
        _tell(folder, alone, str(summary["status"]))


def _tell(folder: Path, alone: Path | None, status: str) -> None:
    if status.startswith("stopped"):
        print(f"{status}: the same command with --resume last goes on")
    if alone is None:
        print(f"run: {folder}\nsample it: flowkit sample {folder}")
        return
    size = sum(path.stat().st_size for path in alone.iterdir()) / 2**20
    print(f"run: {folder}\nadapter: {alone} ({size:.2f} MiB)\nsample it: flowkit sample {alone}")
    print(f"make a model of it: flowkit merge {alone} --out {folder}-merged")
