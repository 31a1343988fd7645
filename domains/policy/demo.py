"""``make demo``, the policy half: learn to pass an obstacle on either side, act, and film it.

    python -m domains.policy.demo [--out demo/policy] [--minutes 1] [--episodes 100] [--seed 0]

Trains an AdaFlow policy for about a minute, and behaviour cloning with the same data, network and steps; then both act
from the same starts, beside the scripted expert and chance. Writes films (mp4), their contact sheets and a picture of
all paths (png).
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from domains.policy.actors import Actor
    from domains.policy.metrics import Summary
    from domains.policy.records import EpisodeRecord
    from domains.policy.rollout import Seat
    from flowkit.config.overrides import Override
    from flowkit.present import Picture

ENVIRONMENT = "FlowKit/Fork-v0"
ADAFLOW, CLONING = "policy/adaflow-fork", "policy/bc-fork"


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m domains.policy.demo", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument(
        "--out", type=Path, default=Path("demo") / "policy", help="folder to write (default %(default)s)"
    )
    parser.add_argument("--minutes", type=float, default=1.0, help="of training (default %(default)s)")
    parser.add_argument("--episodes", type=int, default=100, help="of each rollout (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)

    from flowkit.errors import UserError

    try:
        demo(args.out, minutes=args.minutes, episodes=args.episodes, seed=args.seed)
    except UserError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


@dataclass
class Shown:
    """One who acted: the records, their summary, and the path of each episode, (steps + 1, 2)."""

    label: str
    actor: Actor
    paths: dict[int, list[np.ndarray]] = field(default_factory=dict)
    records: list[EpisodeRecord] = field(default_factory=list)
    summary: Summary | None = None

    def act(self, episodes: int, seed: int) -> None:
        """Roll out and remember where it went."""
        from domains.policy.evaluation import summary_of
        from domains.policy.rollout import rollout

        def follow(seat: Seat) -> None:
            assert seat.start is not None
            self.paths.setdefault(seat.start, []).append(np.array(seat.observation[:2]))

        self.records = rollout(self.actor, ENVIRONMENT, episodes=episodes, seed=seed, envs=25, on_step=follow)
        self.summary = summary_of(self.actor, ENVIRONMENT, self.records, seed=seed)


def demo(out: Path, *, minutes: float, episodes: int, seed: int) -> None:
    """Train both policies, let everybody act, film, and report.

    Raises:
        UserError: a value out of range, or a folder that cannot be written.
    """
    import torch

    from domains.policy.actors import ExpertActor, RandomActor
    from domains.policy.film import contact_sheet, film, tiled, worth_seeing
    from flowkit.errors import UserError

    if not minutes > 0 or episodes < 1:
        raise UserError(f"--minutes must be positive and --episodes at least 1, not {minutes} and {episodes}")
    began = time.monotonic()
    torch.set_num_threads(1)  # a second one gains nothing in a network of this size
    print(
        "The fork: 200 demonstrations pass an obstacle, half of them on the left, half on the right.\n"
        "Their mean runs into it. (FlowKit's own environment and expert: nothing is downloaded.)\n"
    )
    print(f"Training {ADAFLOW} from scratch for {minutes:g} min:", flush=True)
    steps = train(ADAFLOW, out / "adaflow", [("trainer.seconds", str(60 * minutes))], seed)
    print(f"\nTraining {CLONING}, the same data, network and {steps} steps:", flush=True)
    train(CLONING, out / "cloning", [("trainer.steps", str(steps))], seed)

    print(f"\nEach acts {episodes} times from the same starts ...", flush=True)
    everybody = [
        Shown("AdaFlow", policy(out / "adaflow", "AdaFlow")),
        Shown("AdaFlow, always 10 steps", policy(out / "adaflow", "AdaFlow", steps=10)),
        Shown("behaviour cloning", policy(out / "cloning", "behaviour cloning")),
        Shown("scripted expert", ExpertActor(ENVIRONMENT)),
        Shown("random actions", RandomActor()),
    ]
    for shown in everybody:
        shown.act(episodes, seed)
    files = [("all paths", path_picture([everybody[0], everybody[2]]).save(out / "paths"))]
    for shown, name in ((everybody[0], "adaflow"), (everybody[2], "cloning")):
        films = film(shown.actor, ENVIRONMENT, worth_seeing(shown.records, failures=2), seed=seed)
        files += [
            (f"film, {shown.label}", tiled(films, columns=min(3, len(films))).save(out / name)),
            (f"contact sheet, {shown.label}", contact_sheet(films[:4]).save(out / name)),
        ]
    print(report(out, everybody, files, time.monotonic() - began))


def policy(run: Path, name: str, *, steps: int | None = None) -> Actor:
    """A trained policy that acts under ``name``, with the run's own sampler or with as many steps everywhere."""
    from domains.policy.actors import FlowActor
    from domains.policy.pipeline import FlowPolicy

    return FlowActor(FlowPolicy.from_pretrained(run, steps=steps), name)


def train(recipe: str, folder: Path, overrides: list[Override], seed: int) -> int:
    """Train a recipe; a run of an earlier demo in ``folder`` makes room. Returns the steps made."""
    from flowkit.config.recipe import load_recipe
    from flowkit.train.trainer import Trainer

    shutil.rmtree(folder, ignore_errors=True)
    quiet: list[Override] = [
        (f"trainer.{name}", "0") for name in ("evaluate_every", "sample_every", "checkpoint_every")
    ]
    settings = [
        *quiet, ("trainer.log_every", "50"), ("trainer.device", "cpu"), ("trainer.tensorboard", "false"),
        ("seed", str(seed)), *overrides,
    ]  # fmt: skip
    loaded = load_recipe(recipe, settings, trainer=Trainer)
    built = loaded.build()
    summary: dict[str, Any] = built.trainer.fit(
        built.task, built.data, sampler=built.sampler, seed=built.seed, folder=folder, recipe_text=loaded.dump()
    )
    return int(summary["steps"])


def path_picture(shown: list[Shown]) -> Picture:
    """The paths of all episodes, a panel for each policy; a dot where a plan was made, its colour the NFE."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle
    from matplotlib.ticker import MaxNLocator

    from domains.policy.envs.fork import LANE, OBSTACLE, STEPS, TOLERANCE
    from flowkit.present import Picture

    figure = Figure(figsize=(6.2 * len(shown), 4.6), layout="constrained")
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    most = max((d.network_calls for s in shown for r in s.records for d in r.decisions), default=1)
    dots = None
    for axes, one in zip(panels, shown, strict=True):
        assert one.summary is not None
        end = STEPS * 0.05
        axes.add_patch(Rectangle((OBSTACLE[0], -0.2), OBSTACLE[1] - OBSTACLE[0], 0.4, color="#545c6b", zorder=3))
        for side in (-1, 1):
            axes.add_patch(Rectangle((end - 0.02, side * LANE - TOLERANCE), 0.06, 2 * TOLERANCE, color="#bee2c8"))
        decided, nfe = [], []
        for record in one.records:
            path = np.stack(one.paths[record.start])
            axes.plot(*path.T, color="#2e7cd6" if record.success else "#d63a34", alpha=0.35, linewidth=1)
            decided += [path[d.step] for d in record.decisions]
            nfe += [d.network_calls for d in record.decisions]
        if decided:
            order = np.argsort(nfe)
            dots = axes.scatter(
                *np.stack(decided)[order].T, c=np.array(nfe)[order], cmap="viridis_r", vmin=1, vmax=most, s=26,
                zorder=4, edgecolors="white", linewidths=0.5,
            )  # fmt: skip
        success, calls = one.summary.success.value, one.summary.network_calls.mean
        axes.set(
            title=f"{one.label}: success {100 * success:.0f} %, NFE {calls:.2f}",
            xlabel="x", xlim=(-0.05, end + 0.06), ylim=(-0.75, 0.75),
        )  # fmt: skip
    panels[0].set_ylabel("y")
    figure.suptitle("Each line is an episode: blue ones end in a lane, red ones fail", fontsize=10)
    if dots is not None:
        bar = figure.colorbar(dots, ax=list(panels), label="network calls of the plan made there (NFE)")
        bar.locator = MaxNLocator(integer=True)
        bar.update_ticks()
    return Picture.of_figure(figure)


def report(out: Path, everybody: list[Shown], files: list[tuple[str, Path]], elapsed: float) -> str:
    """What came out, what it cost, where it is, and how to go on."""
    from domains.policy.evaluation import TABLE_HEAD, table_row

    rows = [TABLE_HEAD, *(table_row(s.label, s.summary) for s in everybody if s.summary is not None)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(TABLE_HEAD))]
    lines = ["", *("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows), ""]
    histogram = everybody[0].summary.nfe_histogram if everybody[0].summary else {}
    lines += [
        "AdaFlow's decisions: " + ", ".join(f"{count} with NFE {nfe}" for nfe, count in histogram.items()),
        "It calls its network once where the demonstrations agree, more often before the obstacle, where they do not.",
        "Behaviour cloning is the mean of the demonstrations: it meets the obstacle.",
        "",
        *(f"{label + ':':<36}{path}" for label, path in files),
        "",
        f"Train longer:   flowkit train {out / 'adaflow'} --resume last --trainer.seconds 300 --trainer.steps 20000",
        f"Other samplers: flowkit rollout {out / 'adaflow'} --eta 0.06 --episodes 200 --video fork.mp4",
        f"From the start: flowkit train {ADAFLOW} --out runs/fork",
        f"This half of the demo took {elapsed / 60:.1f} minutes.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
