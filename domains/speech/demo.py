"""``make demo``: train a small voice on real recordings for a few minutes, and hear it beside the voice that ships.

    python -m domains.speech.demo [--out demo] [--minutes 4] [--seed 0]

Writes wav files, mel and alignment pictures, and ``index.html`` that shows and plays them all.
"""

from __future__ import annotations

import argparse
import html
import shutil
import sys
import time
from pathlib import Path
from typing import Any

RECIPE = "speech/matcha-prompts"
SHIPPED = "speech/prompts-en"
#: In none of the recordings.
SENTENCES = (
    "Please press one to hear your new messages.",
    "The office is closed today, and will open again tomorrow.",
    "Thank you for calling, the next agent will be with you soon.",
)


#: Short recordings and small batches: what a few minutes of a CPU can go over often enough.
SHORT = {"maximum": "5.0"}


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m domains.speech.demo", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder to write (default %(default)s)")
    parser.add_argument("--minutes", type=float, default=4.0, help="of training (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)

    from flowkit.errors import UserError

    try:
        demo(args.out, args.minutes, args.seed)
    except UserError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def demo(out: Path, minutes: float, seed: int) -> None:
    """Get recordings, train, speak with both voices, write it all under ``out``.

    Raises:
        UserError: a value out of range, or a folder that cannot be written.
    """
    import flowkit
    from flowkit.errors import UserError

    if not minutes > 0:
        raise UserError(f"--minutes must be positive, not {minutes}")
    began = time.monotonic()
    run, overrides = out / "run", list(_data())
    if run.exists():
        print(f"A run of an earlier demo in {run} makes room for the new one.")
        shutil.rmtree(run)
    print(f"Training {RECIPE} from scratch for {minutes:g} minutes: watch the loss fall.", flush=True)
    train(run, [*overrides, ("trainer.seconds", str(60 * minutes)), ("seed", str(seed))])

    voices = {"fresh": (str(run), f"the fresh model, after {minutes:g} minutes")}
    try:
        shipped = flowkit.load(SHIPPED)
        voices["shipped"] = (SHIPPED, f"the voice that ships ({SHIPPED})")
    except UserError as error:
        print(f"No shipped voice: {error}")
        shipped = None
    spoken: list[dict[str, Any]] = []
    for name, (source, label) in voices.items():
        voice = shipped if name == "shipped" and shipped is not None else flowkit.load(source)
        for number, text in enumerate(SENTENCES, 1):
            speech = voice.speak(text, seed=seed)
            stem = out / f"{name}-{number}"
            spoken.append(
                {
                    "voice": label,
                    "text": text,
                    "wav": speech.save(stem.with_suffix(".wav")),
                    "mel": speech.mel_picture().save(stem.with_name(f"{stem.name}-mel")),
                    "alignment": speech.alignment_picture().save(stem.with_name(f"{stem.name}-alignment")),
                    "rtf": speech.rtf,
                    "nfe": speech.nfe,
                    "seconds": speech.seconds,
                }
            )
    page = write_page(out, spoken)
    print(report(out, page, spoken, time.monotonic() - began))


def _data() -> list[tuple[str, str]]:
    """Prepare the recordings; without a Debian archive say so, and take rule-made speech instead."""
    from domains.speech.data.prompts import Prompts
    from flowkit.errors import UserError

    print(
        "Recordings: English telephone prompts by Allison Smith (CC-BY-SA 3.0), fetched by package name ...", flush=True
    )
    try:
        Prompts(language="en", maximum=float(SHORT["maximum"])).prepare()
        return [(f"data.init_args.{name}", value) for name, value in SHORT.items()]
    except UserError as error:
        print(
            f"They cannot be had here ({error}).\n"
            "Using rule-made speech of espeak-ng instead: the result will sound like a machine."
        )
        return [("data", "RuleMade")]


def train(folder: Path, overrides: list[tuple[str, str]]) -> None:
    """Train the recipe at a constant learning rate: there is no telling how many steps fit into the time."""
    from flowkit.config.recipe import load_recipe
    from flowkit.train.trainer import Trainer

    fixed = [
        ("trainer.steps", "1000000"),
        ("trainer.schedule", "constant"),
        ("trainer.evaluate_every", "0"),
        ("trainer.sample_every", "0"),
        ("trainer.checkpoint_every", "200"),
        ("trainer.log_every", "5"),
        ("trainer.ema", "0.99"),
        ("trainer.batch", "8"),
        ("trainer.lr", "1e-3"),
        ("trainer.warmup", "50"),
    ]
    recipe = load_recipe(RECIPE, [*fixed, *overrides], trainer=Trainer)
    built = recipe.build()
    built.trainer.fit(
        built.task, built.data, sampler=built.sampler, seed=built.seed, folder=folder, recipe_text=recipe.dump()
    )  # fmt: skip


def report(out: Path, page: Path, spoken: list[dict[str, Any]], elapsed: float) -> str:
    """What was made, where it is, what it cost, and how to go on."""
    lines = [""]
    for voice in dict.fromkeys(s["voice"] for s in spoken):
        mine = [s for s in spoken if s["voice"] == voice]
        rtf = sum(s["rtf"] * s["seconds"] for s in mine) / sum(s["seconds"] for s in mine)
        lines.append(f"{voice}: real-time factor {rtf:.2f}, {mine[0]['nfe']:g} network calls (NFE) a sentence")
        lines += [f'  {s["wav"]}  "{s["text"]}"' for s in mine]
    lines += [
        "",
        "Minutes of CPU give mumble: speech that has learned how sentences sound, not yet their words.",
        "The shipped voice is the same network after longer training on a GPU.",
        f"Look and listen: {page}   (mel and alignment pictures lie beside the sounds)",
        f"Train longer:    flowkit train {out / 'run'} --resume last --trainer.seconds 3600",
        f'Speak yourself:  flowkit speak {SHIPPED} --text "Hello." --out hello.wav',
        f"This demo took {elapsed / 60:.1f} minutes.",
    ]
    return "\n".join(lines)


def write_page(out: Path, spoken: list[dict[str, Any]]) -> Path:
    """One HTML page that plays the sounds and shows the pictures; written whole or not at all."""
    from flowkit import atomic

    sections = []
    for said in spoken:
        cost = f"real-time factor {said['rtf']:.2f}, {said['nfe']:g} network calls"
        told = f"{said['voice']}: {said['seconds']:.1f} s, {cost}"
        pictures = "".join(f'<img src="{said[kind].name}" alt="{kind}">' for kind in ("mel", "alignment"))
        sections.append(
            f"<section><h2>{html.escape(said['text'])}</h2><p>{html.escape(told)}</p>"
            f'<audio controls src="{said["wav"].name}"></audio><div>{pictures}</div></section>'
        )
    style = "body{font-family:sans-serif;max-width:70rem;margin:2rem auto}img{max-width:49%}section{margin-top:3rem}"
    page = out / "index.html"
    atomic.write_text(
        page,
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>FlowKit speaks</title><style>{style}</style>'
        f"<h1>FlowKit speaks</h1>{''.join(sections)}</html>\n",
    )
    return page


if __name__ == "__main__":
    sys.exit(main())
