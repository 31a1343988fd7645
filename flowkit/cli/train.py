"""``flowkit train RECIPE``: train from a recipe, or go on with a run that was stopped."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from flowkit.cli import options
from flowkit.config.overrides import Override
from flowkit.errors import UserError

if TYPE_CHECKING:
    from flowkit.config.recipe import Recipe

EXAMPLE = """examples:
  flowkit train generic/mixture-flow-matching --trainer.steps 500 --out runs/mixture
  flowkit train speech/matcha-prompts --task.objective.path.floor 1e-4 --sampler.solver Midpoint
  flowkit train runs/mixture --resume last
  torchrun --nproc_per_node 8 -m flowkit.cli.main train speech/matcha-ljspeech

Every value of the recipe can be changed by its dotted path (flowkit show RECIPE prints them all)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this verb."""
    parser.add_argument(
        "recipe",
        metavar="RECIPE",
        help="a YAML file, a recipe's name (flowkit list recipes), or a run folder to go on with",
    )
    parser.add_argument("--out", metavar="FOLDER", help="the run's folder (default runs/ and the recipe's name)")
    parser.add_argument("--resume", metavar="WHICH", help="go on with the run in --out: last, best or a step")
    parser.add_argument("--teacher", metavar="RUN", help="a trained run that the objective learns from")
    parser.add_argument("--seed", type=int, help="instead of the recipe's seed")
    parser.add_argument("--device", choices=("auto", "cpu"), help="auto takes the GPUs that the launch gives (default)")
    parser.add_argument("--dry-run", action="store_true", help="two steps, one evaluation, one sample; nothing is kept")
    parser.add_argument("--overfit-batch", action="store_true", help="always the same batch: the loss must fall")
    options.add_json_argument(parser)
    parser.set_defaults(overrides=True)


def run(args: argparse.Namespace) -> None:
    """Train and say what came out."""
    from flowkit.config.recipe import load_recipe
    from flowkit.train.teacher import teach

    source, folder = _source_and_folder(args)
    overrides: list[Override] = list(args.overrides)
    if args.teacher is not None:
        overrides.append(("teacher", json.dumps(args.teacher)))
    if args.seed is not None:
        overrides.append(("seed", str(args.seed)))
    if args.device is not None:
        overrides.append(("trainer.device", args.device))
    recipe = load_recipe(source, overrides, trainer=options.trainer_class())
    _refuse_finetuning(recipe, source, folder)
    built = recipe.build()
    teacher = teach(recipe, built.task)
    summary = built.trainer.fit(
        built.task, built.data, sampler=built.sampler, seed=built.seed, folder=folder, recipe_text=recipe.dump(),
        resume=args.resume, overfit_batch=args.overfit_batch, dry_run=args.dry_run, teacher=teacher,
    )  # fmt: skip
    if int(os.environ.get("RANK", "0")):
        return  # one process speaks for all
    if args.json:
        options.print_json({"folder": str(folder), "dry_run": args.dry_run, "summary": summary})
    elif args.dry_run:
        print("dry run: the recipe trains, evaluates and samples; nothing was kept")
    else:
        print(
            f"run: {folder}\n{_use(type(built.task), folder)}"
            f"go on: flowkit train {folder} --resume last --trainer.steps N"
        )


def _refuse_finetuning(recipe: Recipe, source: str | Path, folder: Path) -> None:
    """Such a recipe knows the base by its name alone: without its weights adapters would learn on drawn ones, and what
    was learnt would not be saved as an adapter."""
    if "finetune" in recipe.sections:
        base = recipe.resolved["finetune"]["base"]
        raise UserError(
            f"{source} is of a fine-tuning: flowkit finetune {base} --out {folder} (--resume last to go on)"
        )


def _use(task: type, folder: Path) -> str:
    """What to do with the run, as its plugin says; else to sample from it."""
    from flowkit.config import plugins

    for plugin in plugins.plugins().values():
        if plugin.use and any(f"{task.__module__}.".startswith(f"{module}.") for module in plugin.modules):
            return f"use it: {plugin.use.format(run=folder)}\n"
    return f"sample it: flowkit sample {folder}\n"


def _source_and_folder(args: argparse.Namespace) -> tuple[str | Path, Path]:
    """Where the recipe is read and where the run lies."""
    path = Path(args.recipe)
    if not path.is_dir():
        return args.recipe, Path(args.out or Path("runs") / path.with_suffix("").name)
    if not (path / "recipe.yaml").is_file():
        raise UserError(f"{path} is a folder without recipe.yaml: give a recipe, or the folder of a run")
    if args.resume is None and args.out is None:
        raise UserError(f"{path} is a run: go on with --resume last, or train its recipe anew with --out FOLDER")
    return path / "recipe.yaml", Path(args.out or path)
