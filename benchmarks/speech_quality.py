"""How well a trained English voice says 22 sentences it never saw, beside the recordings and the limit of the vocoder.

    python benchmarks/speech_quality.py RUN [--steps 2 4 10] [--out FILE.json] [--keep FOLDER]
    python benchmarks/speech_quality.py --wavs FOLDER --texts TABLE

RUN is a run folder, a pretrained name (speech/prompts-en) or a model folder. The sentences are named test clips of the
English prompts, which are fetched and prepared on first use. With --wavs the sound files FOLDER/NAME.wav are judged
instead; TABLE holds a line ``NAME|text`` for each.

Closed set: clips that a recogniser with a grammar of 100 whole sentences takes for the right one; its control, the same
voice with the symbols of each sentence shuffled, should be near 0. WER and CER: the same recogniser with its own
language model, a floor that mishears recordings too. DNSMOS: overall quality, 1 to 5. Duration ratio: seconds said over
seconds recorded. Mel deviation ratio: deviation over time of each mel bin, said over recorded. mu is the encoder's
mean mel, what regression alone would say.
"""

from __future__ import annotations

import argparse
import datetime as dt
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

if not __package__:  # started as a script: the root of the repository holds the modules
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.speech import measures
from benchmarks.speech.measures import Clip, Judge, Scores
from benchmarks.speech.recognise import RATE, dictionary
from benchmarks.speech.sentences import UNSEEN, candidates, judged, words
from domains.speech import audio
from domains.speech.data.prompts import Prompts
from domains.speech.vocoder import GriffinLim, Vocoder
from flowkit import atomic
from flowkit.caching import cache_root
from flowkit.errors import UserError

if TYPE_CHECKING:
    from domains.speech.features import MelConfig

TEMPERATURE = 0.667


def main(arguments: Sequence[str] | None = None) -> int:
    """Score, print the table, write the JSON."""
    args = parse(arguments)
    torch.set_num_threads(1)
    try:
        rows, extra = judge_folder(args) if args.wavs else judge_voice(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(measures.table(rows))
    for name, value in extra.items():
        print(f"{name}: {value}")
    if args.out is not None:
        machine = {"torch": torch.__version__, "date": dt.date.today().isoformat()}
        content = {"model": args.model, **machine, "rows": [row.as_dict() for row in rows], **extra}
        atomic.write_json(args.out, content)
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", nargs="?", metavar="RUN", help="the voice; without it only the reference rows")
    parser.add_argument("--steps", type=int, nargs="*", default=[2, 4, 10], help="Euler steps (default 2 4 10)")
    parser.add_argument("--temperature", type=float, default=TEMPERATURE, help="of the noise (default %(default)s)")
    parser.add_argument("--draws", type=int, default=1, help="times each sentence is said, with other noise")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--listens", type=int, default=3, help="times the open recogniser hears each clip")
    parser.add_argument("--no-references", action="store_true", help="skip the rows of recordings and true mels")
    parser.add_argument("--no-control", action="store_true", help="skip the control with shuffled symbols")
    parser.add_argument(
        "--split",
        choices=("test", "validation"),
        default="test",
        help="validation: its own sentences by the same rule, to choose a temperature or a checkpoint without the test",
    )
    parser.add_argument("--keys", nargs="*", help="other clips of the split than those of three words or more")
    parser.add_argument("--vocoder", choices=("own", "plain"), default="own", help="plain: the anchor figures' vocoder")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="write the clips as wav files")
    parser.add_argument("--wavs", type=Path, metavar="FOLDER", help="judge the wav files of a folder instead")
    parser.add_argument("--texts", type=Path, metavar="TABLE", help="NAME|text, a line for each wav file")
    parser.add_argument("--cache", type=Path, default=cache_root() / "recognised", help="answers already heard")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the figures as JSON")
    args = parser.parse_args(arguments)
    if bool(args.wavs) != bool(args.texts):
        parser.error("--wavs and --texts go together")
    return args


# The recordings


@dataclass
class Recording:
    """A test clip: what is said, how it sounds and its mel."""

    key: str
    text: str
    wave: torch.Tensor
    mel: torch.Tensor
    words: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.words = words(self.text)


def recordings(data: Prompts, split: Literal["test", "validation"], keys: Sequence[str] | None) -> list[Recording]:
    """The clips ``keys`` of a split (None: those that can be judged), trimmed as in training; features of the data."""
    from domains.speech.features import MelSpectrogram

    clips = data.split(split)
    texts = dict(zip(clips.column("key"), clips.column("text"), strict=True))
    if keys is None:
        seconds = dict(zip(clips.column("key"), clips.column("seconds"), strict=True))
        keys = UNSEEN if split == "test" else judged(texts, seconds, dictionary())
    transform = MelSpectrogram(data.mel)
    found = []
    for key in keys:
        if key not in texts:
            raise UserError(f"{key!r} is no {split} clip of the prompts; there are: {', '.join(sorted(texts))}")
        wave = data.waveform(key)
        found.append(Recording(key, texts[key], wave, transform(wave.unsqueeze(0))[0]))
    return found


def corpus(data: Prompts) -> dict[str, float]:
    """Text -> seconds of everything in the data: where candidate sentences come from."""
    rows = data.packed.manifest["rows"]
    return dict(zip(rows["text"], rows["seconds"], strict=True))


def at_16khz(wave: torch.Tensor, rate: int) -> np.ndarray:
    """Samples for the judges."""
    return audio.resample(wave.detach().float().cpu(), rate, RATE).numpy()


def reference_rows(clips: Sequence[Recording], vocoder: Vocoder, judge: Judge, device: str) -> Iterator[Scores]:
    """Recordings, and their own mels through the vocoder."""
    rate = vocoder.config.sample_rate
    real = [Clip(r.key, r.words, at_16khz(r.wave, rate)) for r in clips]
    yield judge.score("recordings", real)
    spoken = [vocoder(r.mel.unsqueeze(0).to(device))[0] for r in clips]
    through = [Clip(r.key, r.words, at_16khz(wave, rate)) for r, wave in zip(clips, spoken, strict=True)]
    yield judge.score("true mels, vocoder", through)


# A voice


@dataclass
class Speaker:
    """A trained voice that says a whole text in one go, as it saw texts in training (users' texts are cut up)."""

    pipeline: Any
    vocoder: Vocoder
    temperature: float
    seed: int

    def say(self, recording: Recording, steps: int, draw: int = 0, *, shuffled: bool = False) -> tuple[Clip, Clip]:
        """The clip, and the same from the encoder's means alone; ``shuffled`` puts the symbols in random order."""
        from flowkit.random import Rows, mix_seed

        voice, task = self.pipeline.voice, self.pipeline.task
        seed = mix_seed(self.seed, draw, *recording.key.encode())
        phonemes = voice.read(recording.text, "en")
        if shuffled:
            phonemes = "".join(random.Random(seed).sample(phonemes, len(phonemes)))
        tokens = voice.encode(phonemes, recording.text).to(task.device)
        lengths = torch.tensor([tokens.shape[0]], device=task.device)
        sampler = self.pipeline.with_sampler(steps=steps, solver="Euler", temperature=self.temperature)
        made = task.synthesise(tokens.unsqueeze(0), lengths, sampler=sampler, generator=Rows(seed, total=1))
        clips = []
        for mel in (made.mel, made.mu):
            wave = self.vocoder(mel.float())[0]
            clips.append(
                Clip(
                    recording.key,
                    recording.words,
                    at_16khz(wave, voice.mel.sample_rate),
                    mel[0].float().cpu().numpy(),
                    recording.mel.numpy(),
                    mel.shape[2] / voice.mel.frame_rate,
                    recording.wave.shape[0] / voice.mel.sample_rate,
                )
            )
        return clips[0], clips[1]


def voice_rows(
    speaker: Speaker, clips: Sequence[Recording], steps: Sequence[int], draws: int, judge: Judge, keep: Keep
) -> Iterator[Scores]:
    """mu alone, then one row for each number of steps."""
    for place, number in enumerate(steps):
        said = [speaker.say(clip, number, draw) for draw in range(draws) for clip in clips]
        if place == 0:
            means = [mean for _, mean in said[: len(clips)]]
            keep("mu", means)
            yield judge.score("mu", means)
        spoken = [clip for clip, _ in said]
        keep(f"euler-{number}", spoken[: len(clips)])
        yield judge.score(f"Euler, {number} step{'s' if number != 1 else ''}", spoken)


def make_vocoder(args: argparse.Namespace, pipeline: Any, config: MelConfig) -> Vocoder:
    """The voice's own vocoder (Griffin-Lim where there is no voice), or the plain one."""
    if args.vocoder == "plain":
        from benchmarks.speech.plain_vocoder import PlainGriffinLim

        return PlainGriffinLim(config).to(args.device)
    return pipeline.vocoder if pipeline is not None else GriffinLim(config)


Keep = Callable[[str, Sequence[Clip]], None]


def judge_voice(args: argparse.Namespace) -> tuple[list[Scores], dict[str, Any]]:
    """All rows of a trained voice, or of the references alone."""
    from domains.speech.pipeline import TextToSpeech

    pipeline = TextToSpeech.from_pretrained(args.model, device=args.device) if args.model else None
    data = Prompts("en", mel=pipeline.voice.mel) if pipeline else Prompts("en")
    data.prepare()
    vocoder = make_vocoder(args, pipeline, data.mel)
    clips = recordings(data, args.split, args.keys)
    judge = Judge(candidates([clip.words for clip in clips], corpus(data), dictionary()), args.cache, args.listens)
    rows: list[Scores] = []
    extra: dict[str, Any] = {
        "split": args.split,
        "clips": len(clips),
        "listens": args.listens,
        "vocoder": type(vocoder).__name__,
    }
    if not args.no_references:
        rows += shown(reference_rows(clips, vocoder, judge, args.device))
    if pipeline is None:
        return rows, extra

    def keep(name: str, spoken: Sequence[Clip]) -> None:
        if args.keep is not None:
            for clip in spoken:
                audio.write(args.keep / name / f"{clip.name}.wav", torch.from_numpy(measures.level(clip.audio)), RATE)

    speaker = Speaker(pipeline, vocoder, args.temperature, args.seed)
    extra |= {
        "parameters": sum(p.numel() for p in pipeline.task.parameters()),
        "temperature": args.temperature,
        "draws": args.draws,
        "seed": args.seed,
    }
    rows += shown(voice_rows(speaker, clips, args.steps, args.draws, judge, keep))
    if not args.no_control and args.steps:
        control = [speaker.say(clip, max(args.steps), shuffled=True)[0] for clip in clips]
        extra["control (symbols shuffled), closed set"] = f"{judge.hits(control)}/{len(control)}"
    return rows, extra


def judge_folder(args: argparse.Namespace) -> tuple[list[Scores], dict[str, Any]]:
    """One row for the wav files of a folder; candidates are filled up from the English prompts."""
    texts = table_of_texts(args.texts)
    clips = []
    for name, text in texts.items():
        wave, rate = audio.read(args.wavs / f"{name}.wav")
        clips.append(Clip(name, words(text), at_16khz(wave, rate)))
    data = Prompts("en")
    data.prepare()
    judge = Judge(candidates([clip.words for clip in clips], corpus(data), dictionary()), args.cache, args.listens)
    return shown([judge.score(args.wavs.name, clips)]), {"clips": len(clips), "listens": args.listens}


def table_of_texts(path: Path) -> dict[str, str]:
    """Lines ``NAME|text`` (or with a tab)."""
    try:
        lines = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except OSError as error:
        raise UserError(f"--texts {path}: {error.strerror}") from None
    texts = {}
    for number, line in enumerate(lines, 1):
        name, found, text = line.partition("\t" if "\t" in line else "|")
        if not found or not words(text):
            raise UserError(f"--texts {path}, line {number}: say NAME|text, not {line!r}")
        texts[name.strip().removesuffix(".wav")] = text.strip()
    if not texts:
        raise UserError(f"--texts {path} is empty")
    return texts


def shown(rows: Iterable[Scores]) -> list[Scores]:
    """The rows; each is announced on the way, for they take a minute apiece."""
    result = []
    started = time.perf_counter()
    for row in rows:
        print(f"{time.perf_counter() - started:6.0f} s  {row.name}: WER {row.wer:.3f}", file=sys.stderr, flush=True)
        result.append(row)
    return result


if __name__ == "__main__":
    sys.exit(main())
