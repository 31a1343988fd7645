"""``flowkit rollout RUN``: let a trained policy act, count its successes, and film it."""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowkit.cli import options
from flowkit.errors import UserError, writing

if TYPE_CHECKING:
    from domains.policy.actors import Actor
    from domains.policy.metrics import Summary
    from domains.policy.records import EpisodeRecord
    from flowkit.artifacts import Artifact

EXAMPLE = """examples:
  flowkit rollout runs/fork --episodes 200 --expert --random
  flowkit rollout runs/fork --eta 0.125 --video fork.mp4
  flowkit rollout runs/fork --steps 10 --out rollouts/ten-steps --resume
  flowkit rollout --expert --env FlowKit/Fork-v0"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this verb."""
    parser.add_argument(
        "run",
        metavar="RUN",
        nargs="?",
        help="a run folder, a pretrained name (flowkit list pretrained) or a model folder; may be left out with "
        "--expert or --random",
    )
    parser.add_argument("--env", metavar="ID", help="gymnasium id (default: the one the policy learned in)")
    parser.add_argument("--episodes", type=int, default=50, metavar="N", help="how many episodes (default 50)")
    parser.add_argument(
        "--first-start",
        type=int,
        default=100_000,
        metavar="S",
        help="episode i starts from seed S + i (default 100000, where no demonstration starts; choose settings on "
        "200000)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the policy's own noise (default 0)")
    parser.add_argument("--envs", type=int, default=8, metavar="N", help="side by side; only the speed differs")
    parser.add_argument("--execute", type=int, metavar="N", help="actions of a chunk before the next decision")
    parser.add_argument("--step-limit", type=int, metavar="N", help="cut episodes off (default: as the environment)")
    parser.add_argument("--expert", action="store_true", help="also the environment's scripted expert: the ceiling")
    parser.add_argument("--random", action="store_true", help="also random actions: the floor")
    parser.add_argument("--video", metavar="FILE", help="film the first 4 episodes and up to 4 failures: mp4 and png")
    parser.add_argument(
        "--video-layout", choices=("tiles", "sequence"), default="tiles", help="all at once, or one after the other"
    )
    parser.add_argument("--render", choices=("none", "human"), default="none", help="human: watch in a window")
    parser.add_argument(
        "--out", metavar="FOLDER", help="where the episodes go (default: a new one, rollouts/RUN-1, -2, ...)"
    )
    parser.add_argument("--resume", action="store_true", help="go on with the rollout in --out (default: the last one)")
    options.add_device_argument(parser)
    options.add_json_argument(parser)
    options.add_sampler_arguments(parser)
    parser.set_defaults(overrides=True)


def run(args: argparse.Namespace) -> None:
    """Roll out, print the table, say where the files are."""
    _check(args)
    loaded = options.load_run(args) if args.run else None
    actors = _actors(args, loaded)
    env_id = _environment(args, actors)
    out = Path(args.out) if args.out else _default_folder(args, env_id)
    results: dict[str, tuple[Actor, list[EpisodeRecord], Summary]] = {}
    for place, (name, actor) in enumerate(actors.items()):
        folder = out if place == 0 else out / name
        settings = _settings(args, loaded if name == "policy" else None, env_id, name)
        records, summary = _roll(args, actor, env_id, folder, settings)
        results[name] = (actor, records, summary)
    files = {"episodes": str(out / "episodes.jsonl"), "summary": str(out / "summary.json")}
    failure: UserError | None = None
    if args.video:
        first, records, _ = next(iter(results.values()))
        try:
            files |= _film(args, first, env_id, records)
        except UserError as error:
            failure = error
    _tell(args, env_id, {name: summary for name, (_, _, summary) in results.items()}, files, out)
    if failure is not None:  # after the table: the episodes were made
        raise failure


def _check(args: argparse.Namespace) -> None:
    """Before a model is loaded: a long wait must not end in a wrong option."""
    if not (args.run or args.expert or args.random):
        raise UserError("give a RUN, or --expert or --random with --env ID")
    if not args.run and not args.env:
        raise UserError("--expert and --random need --env ID where no RUN names an environment")
    for option in ("episodes", "envs", "execute", "step_limit"):
        value = getattr(args, option)
        if value is not None and value < 1:
            raise UserError(f"--{option.replace('_', '-')} {value}: at least 1")
    if args.first_start < 0:
        raise UserError(f"--first-start {args.first_start}: at least 0")
    if args.video and Path(args.video).suffix.lower() != ".mp4":
        raise UserError(f"--video {args.video}: the name must end in .mp4")
    if args.video and find_spec("av") is None:
        raise UserError("--video needs PyAV, which is not installed: pip install 'flowkit-fm[policy]'")
    if args.execute is not None and not args.run:
        raise UserError("--execute changes how a policy's chunks are carried out: give a RUN")


def _actors(args: argparse.Namespace, loaded: Artifact | None) -> dict[str, Actor]:
    """Those who act, in the order of the table."""
    from domains.policy.actors import ExpertActor, FlowActor, RandomActor

    actors: dict[str, Actor] = {}
    if loaded is not None:
        from domains.policy.pipeline import FlowPolicy

        policy = loaded.pipeline()
        if not isinstance(policy, FlowPolicy):
            raise UserError(f"{args.run} is no policy: it is a {type(loaded.task).__name__} model")
        if args.execute is not None:
            policy = FlowPolicy(policy.task, policy.sampler, execute=args.execute)
        actors["policy"] = FlowActor(policy)
        args.env = args.env or policy.environment
    if args.expert:
        actors["expert"] = ExpertActor(args.env)
    if args.random:
        actors["random"] = RandomActor()
    return actors


def _environment(args: argparse.Namespace, actors: dict[str, Actor]) -> str:
    """The id, tried with a first action of everybody: a mistake must show before anything is written."""
    import numpy as np

    from domains.policy.envs.make import make_env

    if not args.env:
        raise UserError(f"{args.run} does not name the environment it learned in: give --env ID")
    env = make_env(args.env)
    try:
        for actor in actors.values():
            actor.open(1, env)
        try:
            observation, _ = env.reset(seed=args.first_start)
        except UserError:
            raise
        except Exception:  # it breaks down at once: the rollout has a record and a sentence for that
            return args.env
        for actor in actors.values():
            actor.reset(0, env, args.seed)
            actor.act([env], [observation], np.ones(1, bool))
    finally:
        env.close()
    return args.env


def _default_folder(args: argparse.Namespace, env_id: str) -> Path:
    """``rollouts/NAME-1``, or the next number that is free; with ``--resume`` the last one that is not."""
    name = Path(args.run).resolve().name if args.run else env_id.rpartition("/")[2]
    number = 1
    while (Path("rollouts") / f"{name}-{number}").exists():
        number += 1
    return Path("rollouts") / f"{name}-{max(number - 1, 1) if args.resume else number}"


def _settings(args: argparse.Namespace, loaded: Artifact | None, env_id: str, name: str) -> dict[str, Any]:
    """What decides the episodes; a resumed rollout must agree with it."""
    settings: dict[str, Any] = {"who": name, "environment": env_id, "seed": args.seed, "step_limit": args.step_limit}
    if loaded is not None:
        settings |= {
            "run": str(loaded.folder.resolve()),
            "step": loaded.info.get("step"),
            "sampler": loaded.recipe.resolved.get("sampler"),
            "execute": args.execute,
        }
    return settings


def _roll(
    args: argparse.Namespace, actor: Actor, env_id: str, folder: Path, settings: dict[str, Any]
) -> tuple[list[EpisodeRecord], Summary]:
    from tqdm import tqdm

    from domains.policy.evaluation import summary_of
    from domains.policy.records import RolloutLog
    from domains.policy.rollout import rollout

    log = RolloutLog(folder, settings, resume=args.resume)
    wanted = range(args.first_start, args.first_start + args.episodes)
    done = [record for start, record in log.records.items() if start in wanted]
    ended, succeeded = len(done), sum(record.success for record in done)
    # disable=None: a log file gets no line that rewrites itself.
    with tqdm(total=args.episodes, initial=ended, desc=actor.name, unit="episode", disable=None) as line:

        def ends(record: EpisodeRecord) -> None:
            nonlocal ended, succeeded
            ended, succeeded = ended + 1, succeeded + record.success
            line.set_postfix_str(f"success {100 * succeeded / ended:.1f} %", refresh=False)
            line.update()
            if record.failed:
                tqdm.write(f"start {record.start}: the environment broke down: {record.failed}", file=sys.stderr)

        try:
            records = rollout(
                actor, env_id, episodes=args.episodes, seed=args.seed, first_start=args.first_start,
                envs=1 if args.render == "human" else args.envs, render=args.render, step_limit=args.step_limit,
                log=log, on_episode=ends,
            )  # fmt: skip
        except KeyboardInterrupt:
            tqdm.write(f"{ended} episodes are kept in {log.path}: --out {folder} --resume goes on", file=sys.stderr)
            raise
    return records, summary_of(actor, env_id, records, seed=args.seed)


def _film(args: argparse.Namespace, actor: Actor, env_id: str, records: list[EpisodeRecord]) -> dict[str, str]:
    from domains.policy.film import contact_sheet, film, in_sequence, tiled, worth_seeing

    films = film(actor, env_id, worth_seeing(records), seed=args.seed, step_limit=args.step_limit)
    if not films:
        raise UserError(f"{env_id} broke down before there was anything to film")
    path = Path(args.video)
    options.output_folder(path.parent)
    clip = (tiled if args.video_layout == "tiles" else in_sequence)(films)
    return {"video": str(clip.save(path)), "picture": str(contact_sheet(films).save(path.with_suffix(".png")))}


def _tell(
    args: argparse.Namespace, env_id: str, summaries: dict[str, Summary], files: dict[str, str], out: Path
) -> None:
    from domains.policy.evaluation import TABLE_HEAD, table_row
    from flowkit import atomic

    told = {
        "run": args.run,
        "environment": env_id,
        "seed": args.seed,
        "first_start": args.first_start,
        "results": {name: summary.to_json() for name, summary in summaries.items()},
        "files": files,
    }
    with writing(out / "summary.json"):
        atomic.write_json(out / "summary.json", told)
    if args.json:
        options.print_json(told)
        return
    last = args.first_start + args.episodes - 1
    print(f"{env_id}: starts {args.first_start} to {last}, seed {args.seed}\n")
    options.print_table([TABLE_HEAD, *(table_row(name, summary) for name, summary in summaries.items())])
    print()
    for name, summary in summaries.items():
        for note in _notes(args, env_id, summary):
            print(f"{name}: {note}")
    options.print_table(files.items())


def _notes(args: argparse.Namespace, env_id: str, summary: Summary) -> list[str]:
    from domains.policy.evaluation import mode_names

    notes = []
    if summary.nfe_histogram:
        counts = ", ".join(f"{count} at NFE {nfe}" for nfe, count in summary.nfe_histogram.items())
        notes.append(f"decisions: {counts}")
    if summary.sigma is not None:
        low, middle, high = summary.sigma
        notes.append(f"predicted spread at t = 0: {low:.3g}, {middle:.3g}, {high:.3g} (10, 50, 90 %)")
    if summary.alone_ms is not None:
        import torch

        where = options.device(args.device)
        count = torch.get_num_threads()
        threads = f"{count} thread{'s' * (count > 1)}" if where == "cpu" else "a GPU"
        notes.append(
            f"a decision alone takes {summary.alone_ms.p50:.2f} ms (median; p95 {summary.alone_ms.p95:.2f}) on "
            f"{where}, {threads}; {summary.latency_ms.p50:.2f} ms for {summary.latency_batch:.1f} at once"
        )
    if summary.modes:
        names = dict(enumerate(mode_names(env_id)))
        shares = ", ".join(f"{names.get(int(m), m)} {100 * share:.0f} %" for m, share in summary.modes.items())
        notes.append(f"ways of the successful episodes: {shares} (entropy {summary.mode_entropy:.2f} nats)")
    if summary.failed:
        notes.append(f"{summary.failed} episodes in which the environment broke down count as failures")
    return notes
