"""``flowkit predict RUN``: go on with a video file, or with the clip that the model keeps as its example."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowkit.cli import options
from flowkit.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from domains.video.pipeline import NextFrame, VideoPredictor

EXAMPLE = """examples:
  flowkit predict video/river-sprites                       # nothing at hand? it goes on with the model's own example
  flowkit predict runs/sprites --input clip.mp4 --context 5 --frames 30 --samples 4 --out out.mp4
  flowkit predict runs/sprites --input clip.mp4 --start 100 --steps 5 --solver Midpoint"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this verb."""
    options.add_run_arguments(parser)
    parser.add_argument(
        "--input", metavar="FILE", help="a video file: its frames are gone on with (default: the model's example)"
    )
    parser.add_argument("--context", type=int, metavar="N", help="frames to go on from (default: as in training)")
    parser.add_argument("--frames", type=int, default=30, metavar="N", help="frames to predict (default 30)")
    parser.add_argument("--samples", type=int, default=4, metavar="N", help="continuations, side by side (default 4)")
    parser.add_argument(
        "--actions", metavar="FILE", help="for models that read actions: .npy or .csv, a row for each predicted frame"
    )
    parser.add_argument("--start", type=int, default=0, metavar="I", help="first frame of the context (default 0)")
    parser.add_argument("--stride", type=int, default=1, metavar="N", help="take each N-th frame of the file")
    parser.add_argument("--out", default="predicted.mp4", metavar="FILE", help="an mp4 file (default predicted.mp4)")
    parser.add_argument(
        "--redraw", choices=("call", "step", "once"), help="when the past frame is drawn anew (default: as in training)"
    )
    parser.add_argument(
        "--strength", type=float, metavar="S", help="start at t = S on the path to the last frame, 0 <= S < 1"
    )
    parser.add_argument("--horizon", type=int, metavar="N", help="known frames that may be seen, at least 2")
    options.add_sampler_arguments(parser)
    parser.set_defaults(overrides=True)


def run(args: argparse.Namespace) -> None:
    """Predict, write the film, say where it is and what it cost."""
    _check(args)
    predictor = _predictor(args)
    context = args.context or predictor.context
    seen, fps = _frames(args, predictor, context)
    cost = _Cost()
    film = _film(args, seen, context, _predicted(args, predictor, seen[:context], _actions(args, predictor), cost))
    from flowkit.clip import save_film

    path = Path(args.out)
    options.output_folder(path.parent)
    _tell(args, cost, save_film(path, film, fps), context=context, truth=len(seen) - context)


@dataclass
class _Cost:
    """Sums over the frames that were predicted."""

    frames: int = 0
    nfe: float = 0.0
    network_calls: float = 0.0
    seconds: float = 0.0

    def add(self, frame: NextFrame) -> None:
        self.frames += 1
        self.nfe += frame.nfe
        self.network_calls += frame.network_calls
        self.seconds += frame.seconds


def _check(args: argparse.Namespace) -> None:
    """Before a model is loaded: a long wait must not end in a wrong option."""
    for option, least in (("context", 1), ("frames", 1), ("samples", 1), ("start", 0), ("stride", 1)):
        value = getattr(args, option)
        if value is not None and value < least:
            raise UserError(f"--{option} {value}: at least {least}")
    if args.strength is not None and not 0.0 <= args.strength < 1.0:
        raise UserError(f"--strength {args.strength:g}: must lie in [0, 1)")
    if args.horizon is not None and args.horizon < 2:
        raise UserError(f"--horizon {args.horizon}: at least 2")
    if Path(args.out).suffix.lower() != ".mp4":
        raise UserError(f"--out {args.out}: the name must end in .mp4")
    if args.input is None and (args.start or args.stride != 1):
        raise UserError("--start and --stride choose frames of a file: name it with --input")
    for option in ("input", "actions"):
        value = getattr(args, option)
        if value is not None and not Path(value).is_file():
            raise UserError(f"--{option} {value}: no such file")


def _predictor(args: argparse.Namespace) -> VideoPredictor:
    from domains.video.pipeline import VideoPredictor

    loaded = options.load_run(args)
    predictor = loaded.pipeline()
    if not isinstance(predictor, VideoPredictor):
        raise UserError(f"{args.run} predicts no video: it is a {type(loaded.task).__name__} model")
    if predictor.task.actions and args.actions is None:
        raise UserError(
            f"{args.run} needs the actions between the frames, which no video file holds: give --actions FILE, a row "
            f"of {predictor.task.actions} numbers for each predicted frame"
        )
    if predictor.channels != 3:
        raise UserError(f"{args.run} reads frames of {predictor.channels} channels, files have 3: use it in Python")
    return VideoPredictor(
        predictor.task, predictor.sampler, redraw=args.redraw, strength=args.strength, horizon=args.horizon
    )


def _actions(args: argparse.Namespace, predictor: VideoPredictor) -> np.ndarray | None:
    """The rows of --actions, the first from the last known frame to the first predicted one."""
    if args.actions is None:
        return None
    from domains.video.reading import read_actions

    if not predictor.task.actions:
        raise UserError(f"--actions {args.actions}: {args.run} reads no actions, leave the option out")
    actions = read_actions(args.actions, predictor.task.actions)
    if len(actions) < args.frames:
        raise UserError(
            f"--actions {args.actions}: {args.frames} frames need as many rows, it has {len(actions)}: lower --frames"
        )
    return actions


def _frames(args: argparse.Namespace, predictor: VideoPredictor, context: int) -> tuple[np.ndarray, float]:
    """The known frames and, as far as the file goes, those that followed."""
    if args.input is None:
        kept = predictor.task.example.cpu().numpy()
        if context > len(kept):
            raise UserError(
                f"--context {context}: the model's example has {len(kept)} frames; name a file with --input"
            )
        return kept[-context:], predictor.fps or 10.0
    from domains.video.reading import read_square

    seen, fps = read_square(
        args.input, size=predictor.size, start=args.start, count=context + args.frames, stride=args.stride
    )
    if len(seen) < context:
        where = f" from frame {args.start} on" if args.start else ""
        each = f", each {args.stride}-th" if args.stride > 1 else ""
        raise UserError(
            f"{args.input} has {len(seen)} frames{where}{each}, the context needs {context}: lower --context"
        )
    _compare_rates(args, fps, predictor.fps)
    return seen, fps


def _compare_rates(args: argparse.Namespace, given: float, learnt: float) -> None:
    """Say so where things move at another speed than in training: nobody sees it in the frames."""
    stride = max(1, round(args.stride * given / learnt)) if learnt else args.stride
    if stride != args.stride:
        print(
            f"flowkit: {given:g} frames a second are gone on with, the model learnt from {learnt:g}: --stride {stride} "
            "comes nearest",
            file=sys.stderr,
        )


def _predicted(
    args: argparse.Namespace, predictor: VideoPredictor, context: np.ndarray, actions: np.ndarray | None, cost: _Cost
) -> Iterator[np.ndarray]:
    """Predicted frames (samples, c, h, w) as they come; the first is there when this returns."""
    from tqdm import tqdm

    stream = islice(predictor.stream(context, samples=args.samples, seed=args.seed, actions=actions), args.frames)
    # What cannot be solved at all shows now, before a folder is made.
    first = next(stream)

    def each() -> Iterator[np.ndarray]:
        # disable=None: a log file gets no line that rewrites itself.
        for frame in tqdm(chain([first], stream), total=args.frames, desc="predict", unit="frame", disable=None):
            cost.add(frame)
            yield frame.pixels.numpy()

    return each()


def _film(
    args: argparse.Namespace, seen: np.ndarray, context: int, predicted: Iterator[np.ndarray]
) -> Iterator[np.ndarray]:
    """Pictures of the film: the true clip where the file goes on, then the samples. Nothing is kept: a film may be
    long."""
    from domains.video.present import grid

    truth = len(seen) > context
    for t in range(context):
        panels = args.samples + truth
        yield grid([[seen[t]] * panels], [[True] * panels])
    for t, samples in enumerate(predicted, context):
        yield grid([[seen[min(t, len(seen) - 1)]] * truth + list(samples)], [[True] * truth + [False] * args.samples])


def _tell(args: argparse.Namespace, cost: _Cost, written: Path, *, context: int, truth: int) -> None:
    nfe, calls, seconds = (total / cost.frames for total in (cost.nfe, cost.network_calls, cost.seconds))
    told: dict[str, Any] = {
        "run": args.run,
        "input": args.input,
        "out": str(written),
        "context": context,
        "frames": cost.frames,
        "samples": args.samples,
        "true_frames": truth,
        "nfe_per_frame": nfe,
        "network_calls_per_frame": calls,
        "seconds_per_frame": seconds,
        "seed": args.seed,
    }
    if args.json:
        options.print_json(told)
        return
    shown = "the true clip, then " if truth else ""
    print(
        f"{written}: {shown}{args.samples} continuations; {context} known frames in blue, {cost.frames} predicted in "
        "orange"
    )
    print(f"a frame takes {nfe:g} evaluations and {seconds:.3f} s ({args.samples} at once)")
