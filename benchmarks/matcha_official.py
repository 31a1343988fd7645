"""Matcha-TTS against the official implementation: one training step, and the decoder's real-time factor.

    python benchmarks/matcha_official.py train --recipe speech/matcha-prompts-published --official CHECKOUT
    python benchmarks/matcha_official.py decoder --official CHECKOUT

CHECKOUT is a clone of the official repository (it needs the packages diffusers, conformer and einops; its own alignment
search is used where it was built in place). Without ``--official`` only ours is timed. The rivals run in one process
and take turns; the ratio is the median of the ratios of neighbouring rounds, so a busy machine disturbs both alike.

Our training step is the trainer's own: forward, backward, clipping, the optimiser, the moving average and the record of
losses. The official one is forward, backward, clipping and Adam under the same autocast, without its Lightning trainer.
It is timed on our batches (similar lengths together) and on batches as its own loader makes them (any lengths).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

if not __package__:  # started as a script: the root of the repository holds the modules
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from flowkit import atomic
from flowkit.errors import UserError

FRAMES = 432
SECONDS = FRAMES * 256 / 22050
STEPS = (2, 4, 10)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a benchmark, print its table and write its JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    train = verbs.add_parser("train", help="seconds of one training step at the published size")
    train.add_argument(
        "--recipe", default="speech/matcha-ljspeech", help="a recipe of the published size (default %(default)s)"
    )
    train.add_argument("--data", type=Path, help="a prepared data folder, instead of the recipe's data")
    train.add_argument("--batches", type=int, default=13, help="batches of a round (default %(default)s)")
    train.add_argument("--batch", type=int, default=32, help="utterances of a batch (default %(default)s)")
    train.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    train.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="PATH=VALUE",
        help="override a value of the recipe",
    )
    decoder = verbs.add_parser("decoder", help="real-time factor of the decoder at 2, 4 and 10 Euler steps")
    for verb in (train, decoder):
        verb.add_argument("--official", type=Path, metavar="CHECKOUT", help="a clone of the official repository")
        verb.add_argument("--device", default="cuda" if verb is train and torch.cuda.is_available() else "cpu")
        verb.add_argument("--threads", type=int, default=1, help="CPU threads (default %(default)s)")
        verb.add_argument("--rounds", type=int, default=10, help="timed rounds of each rival (default %(default)s)")
        verb.add_argument("--out", type=Path, help="write the figures as JSON")
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    try:
        result = training(args) if args.verb == "train" else decoding(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    result["machine"] = machine(args.device)
    print(json.dumps(result["machine"]))
    if args.out is not None:
        atomic.write_json(args.out, result)
    return 0


# The decoder


def decoding(args: argparse.Namespace) -> dict[str, Any]:
    """Real-time factors of the Euler decoder on one utterance of 5.016 s, random weights of the published size."""
    device = torch.device(args.device)
    rivals: dict[str, Callable[[int], Any]] = {"ours": our_decoder(device)}
    if args.official is not None and (official := loaded(lambda: official_decoder(args.official, device))) is not None:
        rivals["official"] = official
    flops = {name: gigaflops(rival) for name, rival in rivals.items()}
    rows, result = [], {}
    for steps in STEPS:
        walls: dict[str, list[float]] = {name: [] for name in rivals}
        busy: dict[str, list[float]] = {name: [] for name in rivals}
        for round_ in range(args.rounds + 1):
            for name, rival in rivals.items():
                wall, thread = timed(lambda rival=rival, steps=steps: rival(steps), device)
                if round_:  # the first round warms up
                    walls[name].append(wall)
                    busy[name].append(thread)
        entry: dict[str, Any] = {
            name: {
                "rtf": statistics.median(walls[name]) / SECONDS,
                "rtf_cpu_time": statistics.median(busy[name]) / SECONDS,
            }
            for name in rivals
        }
        if "official" in rivals:
            entry["ratio"] = ratio(walls["ours"], walls["official"])
            entry["ratio_cpu_time"] = ratio(busy["ours"], busy["official"])
        result[str(steps)] = entry
        cells = [f"{entry[name]['rtf']:.3f} ({entry[name]['rtf_cpu_time']:.3f})" for name in rivals]
        rows.append(
            [str(steps), *cells, f"{entry['ratio']:.2f} ({entry['ratio_cpu_time']:.2f})" if "ratio" in entry else ""]
        )
    print(markdown(["steps", *(f"{name}: RTF (by CPU time)" for name in rivals), "ours / official"], rows))
    print("GFLOP of one evaluation: " + ", ".join(f"{name} {value:.2f}" for name, value in flops.items()))
    return {
        "verb": "decoder",
        "frames": FRAMES,
        "seconds": SECONDS,
        "threads": args.threads,
        "rounds": args.rounds,
        "gigaflops": flops,
        "steps": result,
    }


def our_decoder(device: torch.device) -> Callable[[int], Any]:
    """A function of the number of steps that runs our decoder once."""
    from domains.speech.models.decoder import MatchaDecoder
    from flowkit.cond import Cond
    from flowkit.objectives.flow_matching import FlowMatching
    from flowkit.objectives.objective import Networks
    from flowkit.paths.linear import LinearPath
    from flowkit.solvers.sampler import Sampler

    torch.manual_seed(0)
    objective = FlowMatching(path=LinearPath(floor=1e-4))
    networks = Networks.build(objective.needs(), MatchaDecoder).to(device).eval()
    mu = torch.randn(1, 80, FRAMES, device=device)
    cond = Cond({"mu": mu}, padding=torch.ones(1, 1, FRAMES, dtype=torch.bool, device=device))
    generator = torch.Generator(device).manual_seed(0)

    @torch.inference_mode()
    def run(steps: int) -> Tensor:
        return objective.generate(
            networks, mu, cond, sampler=Sampler(steps=steps, temperature=0.667), generator=generator
        ).x

    return run


def official_decoder(checkout: Path, device: torch.device) -> Callable[[int], Any]:
    """The same for the official decoder."""
    from benchmarks.speech.official import official_model

    torch.manual_seed(0)
    decoder = official_model(checkout).decoder.to(device).eval()
    mu, mask = torch.randn(1, 80, FRAMES, device=device), torch.ones(1, 1, FRAMES, device=device)
    return lambda steps: decoder(mu, mask, steps, temperature=0.667)


def gigaflops(rival: Callable[[int], Any]) -> float:
    """Floating-point work of one network evaluation (one Euler step)."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        rival(1)
    return counter.get_total_flops() / 1e9


# The training step


def training(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of a training step of each rival."""
    run = our_run(args)
    device = run.device
    shares = [share for share, _ in zip(run.loader, range(args.batches), strict=False)]
    run.task.train()
    rivals: dict[str, Callable[[], None]] = {"ours": lambda: our_round(run, shares)}
    counts = {"ours": len(shares)}
    official = loaded(lambda: OfficialTraining(args.official, run, args.precision)) if args.official else None
    if official is not None:
        same, own = [share.parts[0].raw for share in shares], random_batches(run, args.batches, args.batch)
        rivals |= {"official": lambda: official.round(same), "official, own batches": lambda: official.round(own)}
        counts |= {"official": len(same), "official, own batches": len(own)}
    walls: dict[str, list[float]] = {name: [] for name in rivals}
    for round_ in range(args.rounds + 2):
        for name, rival in rivals.items():
            wall, _ = timed(rival, device)
            if round_ > 1:  # two rounds warm up: compilation, autotuning, the memory pool
                walls[name].append(wall)
    steps = {name: statistics.median(walls[name]) / counts[name] for name in rivals}
    rows = []
    for name, seconds in steps.items():
        against = ratio([w / counts["ours"] for w in walls["ours"]], [w / counts[name] for w in walls[name]])
        rows.append(
            [name, f"{seconds * 1000:.1f}", f"{args.batch / seconds:.0f}", "" if name == "ours" else f"{against:.3f}"]
        )
    print(markdown(["", "ms a step", "utterances/s", "ours / this"], rows))
    frames = sum(int(share.parts[0].raw["mel_lengths"].sum()) for share in shares)
    padded = sum(share.parts[0].raw["mel"].shape[0] * share.parts[0].raw["mel"].shape[2] for share in shares)
    parameters = sum(p.numel() for p in run.task.parameters())
    print(f"parameters {parameters:,}; real frames in our batches {frames / padded:.0%}")
    result = {
        "verb": "train",
        "recipe": args.recipe,
        "batch": args.batch,
        "precision": args.precision,
        "batches": counts,
        "rounds": args.rounds,
        "seconds_a_step": steps,
        "rounds_s": walls,
    }
    if device.type == "cuda":
        result["peak_memory_gb"] = torch.cuda.max_memory_allocated() / 1e9
    return result


def our_run(args: argparse.Namespace) -> Any:
    """A training run of the recipe, ready to step."""
    from flowkit.config.recipe import load_recipe
    from flowkit.train.run import Run
    from flowkit.train.trainer import Trainer

    overrides = [("trainer.batch", str(args.batch)), ("trainer.precision", args.precision)]
    overrides += [
        ("trainer.device", "cpu" if args.device == "cpu" else "auto"),
        ("trainer.progress", "false"),
        ("trainer.tensorboard", "false"),
    ]
    for text in args.overrides:
        path, found, value = text.partition("=")
        if not found:
            raise UserError(f"--set {text}: say PATH=VALUE")
        overrides.append((path, value))
    built = load_recipe(args.recipe, overrides, trainer=Trainer).build(
        "task", "trainer", "sampler", *([] if args.data else ["data"])
    )
    data = built.data
    if args.data is not None:
        from domains.speech.data.prepared import Prepared

        data = Prepared(str(args.data))
    assert data is not None
    folder = Path(tempfile.mkdtemp(prefix="matcha-bench-")) / "run"
    return Run(
        built.trainer, built.task, data, sampler=built.sampler, seed=built.seed, folder=folder, recipe_text="",
        resume=None, overfit_batch=False, dry_run=False,
    )  # fmt: skip


def our_round(run: Any, shares: Sequence[Any]) -> None:
    """One optimiser step on each of ``shares``, as the trainer makes it."""
    for share in shares:
        run.turns.step(run.step, share, run.window)
        if run.ema is not None:
            run.ema.update()
        run.task.objective.after_step(run.task.networks, run.step)
        run.step += 1
    run.window.fetch(run.accelerator)
    run.window.means()


def random_batches(run: Any, number: int, size: int) -> list[dict[str, Any]]:
    """Batches of random utterances, padded to their longest: what the official loader makes."""
    from flowkit.train.loader import pin

    samples = run.loader.samples
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(0))
    # A small set may not fill all batches: go round.
    places = torch.arange(number * size) % len(samples)
    before, samples.pad_multiple = samples.pad_multiple, 1
    raws = [samples.batch(order[rows].tolist()) for rows in places.split(size)]
    samples.pad_multiple = before
    return [pin(raw) for raw in raws] if run.device.type == "cuda" else raws


class OfficialTraining:
    """The official model with Adam, and its step on our raw batches."""

    def __init__(self, checkout: Path, run: Any, precision: str) -> None:
        from benchmarks.speech.official import official_model

        statistics_ = run.loader.samples.packed.manifest
        self.mean, self.std = statistics_["mel_mean"], statistics_["mel_std"]
        self.device, self.precision = run.device, precision
        torch.manual_seed(0)
        self.model = (
            official_model(checkout, mean=self.mean, std=self.std, symbols=max(178, len(statistics_["symbols"])))
            .to(run.device)
            .train()
        )
        self.optimiser = torch.optim.Adam(self.model.parameters(), lr=1e-4)

    def round(self, raws: Sequence[dict[str, Any]]) -> None:
        """One optimiser step on each raw batch."""
        for raw in raws:
            x, lengths = (
                raw["tokens"].to(self.device, non_blocking=True),
                raw["token_lengths"].to(self.device, non_blocking=True),
            )
            y = (raw["mel"].to(self.device, non_blocking=True) - self.mean) / self.std
            y = torch.nn.functional.pad(
                y, (0, -y.shape[2] % 4)
            )  # the official collation makes the length divisible by 4
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                duration, prior, flow, _ = self.model(
                    x, lengths, y, raw["mel_lengths"].to(self.device, non_blocking=True)
                )
            (duration + prior + flow).backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
            self.optimiser.step()
            self.optimiser.zero_grad(set_to_none=True)


# Shared


def loaded(build: Callable[[], Any]) -> Any | None:
    """The rival, or None with a line that says why: it may lack a package, and our figures should come anyway."""
    try:
        return build()
    except (ImportError, RuntimeError, AttributeError, TypeError) as error:
        print(f"the official code cannot be used: {type(error).__name__}: {error}", file=sys.stderr)
        return None


def timed(function: Callable[[], Any], device: torch.device) -> tuple[float, float]:
    """Wall seconds and CPU seconds of this thread."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    wall, thread = time.perf_counter(), time.thread_time()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.thread_time() - thread


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Median of the ratios of neighbouring rounds."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))


def machine(device: str) -> dict[str, str]:
    """What the figures were measured on."""
    import datetime as dt
    import platform

    name = torch.cuda.get_device_name() if device.startswith("cuda") else platform.processor() or platform.machine()
    return {
        "device": name,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": dt.date.today().isoformat(),
    }


if __name__ == "__main__":
    sys.exit(main())
