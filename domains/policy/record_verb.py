"""``flowkit data record ENV``: demonstrations of a scripted expert, as a Minari data set."""

from __future__ import annotations

import argparse
import time

from flowkit.cli import options

EXAMPLE = (
    "examples:\n"
    "  flowkit data record FlowKit/Fork-v0 --episodes 200\n"
    "  flowkit data record FlowKit/MetaWorld-reach-v0 --episodes 50 --out reach/expert-v0 --workers 2\n\n"
    "Train on it (the sizes are those of the environment; flowkit data stats tells them):\n"
    "  flowkit train policy/adaflow-minari --data.dataset fork/expert-v0 --task.state 2 --task.actions 1\n\n"
    "A recording that was interrupted goes on when the same command is given again."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this verb."""
    parser.add_argument("environment", metavar="ENV", help="gymnasium's id of an environment with a scripted expert")
    parser.add_argument("--episodes", type=int, default=100, metavar="N", help="episodes to write (default 100)")
    parser.add_argument(
        "--out", default="", metavar="DATASET", help="Minari id, (namespace/)name-vN (default: NAME/expert-v0)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of starts and chances (default 0)")
    parser.add_argument(
        "--noise", type=float, metavar="S", help="deviation of what the expert adds to its actions (default: its own)"
    )
    parser.add_argument(
        "--only-successes",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="leave failed attempts out and make more (default)",
    )
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes (default 1)")
    parser.add_argument(
        "--root", default="", metavar="FOLDER", help="of the data sets (default $MINARI_DATASETS_PATH or Minari's own)"
    )
    parser.add_argument("--append", action="store_true", help="add to the data set; give another --seed")
    options.add_json_argument(parser)


def run(args: argparse.Namespace) -> None:
    """Record, then say what was written where."""
    from domains.policy.record import record

    begin = time.perf_counter()
    result = record(
        args.environment,
        args.out,
        episodes=args.episodes,
        seed=args.seed,
        noise=args.noise,
        only_successes=args.only_successes,
        workers=args.workers,
        root=args.root,
        append=args.append,
    )
    row = {
        "dataset": result.dataset,
        "folder": str(result.folder),
        "episodes": result.episodes,
        "steps": result.steps,
        "attempts": result.attempts,
        "failures": result.failures,
        "seconds": round(time.perf_counter() - begin, 1),
    }
    if args.json:
        options.print_json(row)
    else:
        options.print_table(
            (name, f"{value:,}" if isinstance(value, int) else str(value)) for name, value in row.items()
        )
