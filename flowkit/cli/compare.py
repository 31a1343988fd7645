"""``flowkit compare RECIPE``: train objectives on the same data for the same time; quality by network calls."""

from __future__ import annotations

import argparse
import csv
import io
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flowkit.cli import options
from flowkit.errors import UserError

EXAMPLE = """examples:
  flowkit compare generic/mixture-flow-matching --objectives FlowMatching,ConsistencyFM --nfe 1,2,4 --steps 1000
  flowkit compare RECIPE --objectives FlowMatching FlowMatching:coupling=MinibatchOT --minutes 5 --seeds 3
  flowkit compare RECIPE --objectives FlowMatching ConsistencyFM:segments=2:anchored_steps=50% my-objective.yaml
  flowkit compare RECIPE --objectives FlowMatching FlowMatching:pairs=9999 ConstantAcceleration:pairs=9999

An objective is a class and its settings, or a YAML file with class_path and init_args. Settings reach into parts
(coupling.beta=5); 50% of a setting that counts steps is half of the training; pairs=N trains on N pairs that the first
FlowMatching (or --teacher RUN) made, beginning with its weights; data., task., trainer. and sampler. change the recipe.
Dotted overrides of the recipe hold for all. The same command goes on where it was interrupted; each training is a run
in --out that can be sampled, evaluated and shown."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this verb."""
    parser.add_argument("recipe", metavar="RECIPE", help="a YAML file or a recipe's name (flowkit list recipes)")
    parser.add_argument(
        "--objectives", nargs="+", required=True, metavar="NAME[:KEY=VALUE...]",
        help="what is compared, by spaces or commas (flowkit list methods)",
    )  # fmt: skip
    parser.add_argument("--nfe", default="1,2,4,8", metavar="N,N,...", help="network calls (default 1,2,4,8)")
    parser.add_argument("--steps", type=int, default=0, help="of each training (default: the recipe's)")
    parser.add_argument("--minutes", type=float, default=0.0, help="of each training: equal time instead of steps")
    parser.add_argument("--seeds", default="1", metavar="N", help="trainings of each, or seeds as 0,1,2 (default 1)")
    parser.add_argument("--solver", default="Euler", help="where an objective names none (default Euler)")
    parser.add_argument("--metric", default="", help="to tabulate (default: the recipe's best, else the first)")
    parser.add_argument("--better", choices=("low", "high"), help="what is good of it (default: what its name says)")
    parser.add_argument(
        "--split",
        choices=("train", "validation", "test"),
        default="",
        help="default test, or validation if it is empty",
    )
    parser.add_argument("--limit", type=int, help="measure at most this many samples")
    parser.add_argument("--teacher", default="", metavar="RUN", help="makes pairs and gives lessons")
    parser.add_argument(
        "--out", metavar="FOLDER", help="runs, results.json, results.csv, pictures (default runs/compare-NAME)"
    )
    options.add_device_argument(parser)
    options.add_json_argument(parser)
    parser.set_defaults(overrides=True)


def run(args: argparse.Namespace) -> int | None:
    """Train, measure, tabulate, draw."""
    from flowkit import atomic
    from flowkit.config.recipe import load_recipe
    from flowkit.train.comparison import Comparison
    from flowkit.train.comparison_entry import Entry
    from flowkit.train.comparison_measures import metric_of

    if args.steps < 0 or args.minutes < 0:
        raise UserError(f"--steps {args.steps} --minutes {args.minutes}: positive numbers, please")
    if args.limit is not None and args.limit < 1:
        raise UserError(f"--limit {args.limit}: at least 1 sample")
    entries = [Entry.parse(text) for text in split_entries(args.objectives)]
    out = Path(args.out) if args.out else Path("runs") / f"compare-{Path(args.recipe).stem}"
    comparison = Comparison(
        args.recipe, entries, nfe=numbers("--nfe", args.nfe), steps=args.steps, seconds=60.0 * args.minutes,
        seeds=seeds(args.seeds), overrides=args.overrides, solver=args.solver, split=args.split, limit=args.limit,
        device=options.device(args.device), teacher=args.teacher, tell=lambda line: print(line, file=sys.stderr),
    )  # fmt: skip
    comparison.check()
    report = comparison.run(options.output_folder(out))
    shown = {entry.name: report["results"][entry.name] for entry in entries}
    report = {**report, "results": {name: runs for name, runs in shown.items() if runs}}
    if not report["results"]:
        print("stopped before anything was measured: the same command goes on", file=sys.stderr)
        return 130
    recipe = load_recipe(args.recipe, args.overrides, trainer=options.trainer_class())
    mode = {"low": "min", "high": "max", None: ""}[args.better]
    metric, mode = metric_of(report, args.metric, recipe, mode)
    atomic.write_text(out / "results.csv", table_of_runs(report))
    pictures = draw(report, metric, out, comparison.device)
    if args.json:
        options.print_json({"folder": str(out), "metric": metric, "mode": mode, "pictures": pictures, **report})
        return None
    options.print_table(rows(report, metric, mode, comparison.nfe))
    for name, runs in report["results"].items():
        for calls, reason in next(iter(runs.values()))["missing"].items():
            print(f"{name} at {calls}: {reason}")
    print("\n".join([str(out / "results.json"), str(out / "results.csv"), *pictures]))
    if report["status"] != "complete":
        print("stopped: the same command goes on", file=sys.stderr)
        return 130
    return None


def split_entries(texts: Sequence[str]) -> list[str]:
    """Entries by spaces and by commas; commas inside brackets and braces belong to a value."""
    found, depth = [""], 0
    for text in texts:
        for character in text + ",":
            depth += (character in "[{(") - (character in "]})")
            if character == "," and depth <= 0:
                found.append("")
            else:
                found[-1] += character
    return [entry.strip() for entry in found if entry.strip()]


def numbers(option: str, text: str) -> list[int]:
    """``1,2,4`` as numbers.

    Raises:
        UserError: it is written otherwise.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdigit() for part in parts):
        raise UserError(f"{option} {text}: whole numbers with commas between them, e.g. 1,2,4")
    return list(dict.fromkeys(int(part) for part in parts))


def seeds(text: str) -> list[int]:
    """``3`` is 0, 1, 2; ``4,5`` are those."""
    found = numbers("--seeds", text)
    if len(found) == 1 and "," not in text:
        if found[0] < 1:
            raise UserError("--seeds 0: at least one training")
        return list(range(found[0]))
    return found


def rows(report: Mapping[str, Any], metric: str, mode: str, nfe: Sequence[int]) -> list[tuple[str, ...]]:
    """The table for the screen: means over seeds with deviations; the best of each column has a star."""
    means: dict[tuple[str, int], list[float]] = {}
    for name, runs in report["results"].items():
        for run in runs.values():
            for calls, point in run["points"].items():
                means.setdefault((name, int(calls)), []).append(float(point[metric]))
    best = {}
    for calls in nfe:
        column = {name: statistics.mean(v) for (name, n), v in means.items() if n == calls}
        if column:
            best[calls] = (max if mode == "max" else min)(column, key=lambda name, column=column: column[name])
    table = [(f"{metric} at", *(f"{n} calls" for n in nfe), "S/E|D|^2", "steps", "train s", "teacher, pairs s")]
    for name, runs in report["results"].items():
        cells = []
        for calls in nfe:
            values = means.get((name, calls))
            if not values:
                cells.append("-")
                continue
            spread = f" ±{statistics.stdev(values):.2g}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.4g}{spread}{'*' if best[calls] == name else ''}")
        straight = mean_of(runs, "relative_straightness")
        beside = [mean_of(runs, key) for key in ("teacher_seconds", "pairs_seconds")]
        table.append((
            name, *cells, "-" if straight is None else f"{straight:.3g}", f"{mean_of(runs, 'steps') or 0:.0f}",
            f"{mean_of(runs, 'seconds') or 0:.3g}",
            ", ".join("-" if value is None else f"{value:.3g}" for value in beside) if any(beside) else "",
        ))  # fmt: skip
    return table


def mean_of(runs: Mapping[str, Any], key: str) -> float | None:
    """Mean over the trainings that know ``key``."""
    values = [float(run[key]) for run in runs.values() if run.get(key) is not None]
    return statistics.mean(values) if values else None


def table_of_runs(report: Mapping[str, Any]) -> str:
    """CSV: a row for each objective, seed and number of network calls."""
    found = [
        {"objective": name, "seed": seed, "calls": calls, **point,
         **{f"train_{key}": run.get(key) for key in ("steps", "seconds", "teacher_seconds", "pairs_seconds")},
         "relative_straightness": run.get("relative_straightness")}
        for name, runs in report["results"].items() for seed, run in runs.items()
        for calls, point in run["points"].items()
    ]  # fmt: skip
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in found for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)
    return text.getvalue()


def draw(report: Mapping[str, Any], metric: str, out: Path, device: str) -> list[str]:
    """Write the pictures; returns their files."""
    from flowkit.artifacts import from_pretrained
    from flowkit.train.comparison_entry import Entry
    from flowkit.train.comparison_measures import judged, trajectories
    from flowkit.train.comparison_plots import bars, plane, quality

    made = {"quality": quality(report, metric)}
    found = {name: mean_of(runs, "relative_straightness") for name, runs in report["results"].items()}
    straight = {name: value for name, value in found.items() if value is not None}
    if straight:
        made["straightness"] = bars(straight, "S / E|D|^2: 0 is straight")
    paths = {}
    for name, runs in report["results"].items():
        if name not in straight:
            continue
        loaded = from_pretrained(
            out / Entry.parse(name).folder / f"seed-{next(iter(runs))}", device=device, with_data=True
        )
        if loaded.data is None:
            continue
        loaded.data.prepare()
        states = trajectories(loaded.task, judged(loaded.data, report["settings"]["split"]))
        if states is None or tuple(states[0].shape[2:]) != (2,):
            break
        paths[name] = states[0]
    if paths:
        made["trajectories"] = plane(paths)
    return [str(picture.save(out / name)) for name, picture in made.items()]
