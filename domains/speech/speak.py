"""``flowkit speak RUN --text "..."``: say a text with a trained voice and write a wav file."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowkit.cli import options
from flowkit.errors import UserError

if TYPE_CHECKING:
    from domains.speech.pipeline import Speech, TextToSpeech

EXAMPLE = (
    'example:\n  flowkit speak runs/matcha-prompts --text "Hello, world." --out hello.wav --steps 4 --solver Midpoint'
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this verb."""
    options.add_run_arguments(parser)
    options.add_sampler_arguments(parser)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--text", help="what to say")
    what.add_argument("--file", metavar="FILE", help="say every line of this text file")
    parser.add_argument(
        "--out",
        default="speech.wav",
        metavar="FILE",
        help="wav or flac; several lines are numbered (default speech.wav)",
    )
    parser.add_argument(
        "--length-scale", type=float, default=1.0, metavar="X", help="1.1 speaks ten percent slower (default 1)"
    )
    parser.add_argument("--speaker", metavar="NAME", help="name or number (default: the first)")
    parser.add_argument("--language", metavar="NAME", help="name or number (default: the first)")
    parser.add_argument(
        "--runtime",
        choices=("eager", "onnx", "torch"),
        help="what computes: eager torch (default), or programs as flowkit export makes them, here or before: RUN may "
        "be an export's folder",
    )
    parser.add_argument("--mel", metavar="PNG", help="also draw the mel")
    parser.add_argument("--alignment", metavar="PNG", help="also draw which symbol is said when")
    parser.set_defaults(overrides=True)


def run(args: argparse.Namespace) -> None:
    """Speak, write, and say where the files are and how fast it went."""
    texts = _texts(args)
    out = _wav(args.out)
    pipeline, folder = _pipeline(args)
    results = []
    for number, text in enumerate(texts, 1):
        speech = pipeline.speak(
            text, length_scale=args.length_scale, speaker=args.speaker, language=args.language, seed=args.seed
        )
        files = {"wav": str(speech.save(_numbered(out, number, len(texts))))}
        if args.mel:
            files["mel"] = str(speech.mel_picture().save(_numbered(_png(args.mel), number, len(texts))))
        if args.alignment:
            files["alignment"] = str(
                speech.alignment_picture().save(_numbered(_png(args.alignment), number, len(texts)))
            )
        results.append(_told(speech, files))
        for note in speech.notes:
            print(f"note: {note}", file=sys.stderr)
        if not args.json:
            print(
                f"{', '.join(files.values())}: {speech.seconds:.2f} s of speech in {sum(speech.elapsed):.2f} s "
                f"(real-time factor {speech.rtf:.3f}, acoustic model alone {speech.acoustic_rtf:.3f}), "
                f"{speech.nfe:g} network calls a sentence"
            )
    if args.json:
        options.print_json({"run": str(folder), "seed": args.seed, "speech": results})


def _pipeline(args: argparse.Namespace) -> tuple[TextToSpeech, Path]:
    """The voice that was asked for, and its folder."""
    from flowkit.export.runtime import is_export

    if is_export(args.run):
        return _exported(args), Path(args.run)
    if args.runtime in ("onnx", "torch"):
        args.device = "cpu"
    loaded = options.load_run(args)
    if args.runtime in ("onnx", "torch"):
        from domains.speech.exported import speech_of
        from flowkit.export.cached import cached_export

        made = cached_export(loaded, runtime=args.runtime, tell=lambda line: print(line, file=sys.stderr, flush=True))
        return speech_of(made), made.folder
    pipeline = loaded.pipeline()
    if not hasattr(pipeline, "speak"):
        raise UserError(f"{args.run} is no voice: it is a {type(loaded.task).__name__} model")
    return pipeline, loaded.folder


def _exported(args: argparse.Namespace) -> TextToSpeech:
    """The voice of an export's folder."""
    from domains.speech.exported import exported_speech

    if args.runtime == "eager":
        raise UserError(f"{args.run} is an export: --runtime eager speaks with a run or a model")
    if args.overrides or options.sampler_overrides(args):
        raise UserError(f"{args.run} is an export, whose sampler is fixed: export the run again with the other options")
    return exported_speech(args.run, runtime=args.runtime)


def _told(speech: Speech, files: dict[str, str]) -> dict[str, Any]:
    return {
        "text": speech.text,
        "phonemes": "".join(s for s in speech.phonemes if s != speech.phonemes[0]) if speech.phonemes else "",
        "files": files,
        "seconds": round(speech.seconds, 4),
        "sample_rate": speech.sample_rate,
        "rtf": round(speech.rtf, 5),
        "acoustic_rtf": round(speech.acoustic_rtf, 5),
        "nfe": speech.nfe,
        "evaluations": speech.evaluations,
        "notes": list(speech.notes),
    }


def _texts(args: argparse.Namespace) -> list[str]:
    if args.text is not None:
        if not args.text.strip():
            raise UserError("--text is empty: nothing to say")
        return [args.text]
    try:
        text = Path(args.file).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"--file {args.file}: no text in UTF-8") from None
    except OSError as error:
        raise UserError(f"--file {args.file}: {error.strerror}") from None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise UserError(f"--file {args.file} is empty: nothing to say")
    return lines


def _wav(name: str) -> Path:
    """Checked before a model is loaded: a long wait must not end in a wrong suffix."""
    path = Path(name)
    if path.suffix.lower() not in (".wav", ".flac"):
        raise UserError(f"--out {name}: the name must end in .wav or .flac")
    return path


def _png(name: str) -> Path:
    path = Path(name)
    return path if path.suffix.lower() == ".png" else path.with_name(path.name + ".png")


def _numbered(path: Path, number: int, of: int) -> Path:
    return path if of == 1 else path.with_name(f"{path.stem}-{number:03d}{path.suffix}")
