"""Text to speech for users: ``flowkit.load("speech/...").speak("Hello")``."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from domains.speech import audio
from domains.speech.alignment import path as alignment_path
from domains.speech.present import alignment_picture, mel_picture, sound
from domains.speech.splitting import split_text
from domains.speech.vocoder import Vocoder
from flowkit.errors import UserError, nearest
from flowkit.present import Picture
from flowkit.random import Rows, mix_seed
from flowkit.solvers.sampler import Sampler
from flowkit.solvers.solver import Solver

if TYPE_CHECKING:
    from domains.speech.features import MelConfig
    from domains.speech.matcha import Matcha

#: Said when nobody says what to say.
SENTENCES = (
    "Hello, this is a voice that was trained with flow matching.",
    "Please leave a message after the tone.",
    "The weather tomorrow will be mostly sunny.",
)
_REQUEST = ("text", "speaker", "language", "length_scale")


@dataclass(frozen=True)
class Speech:
    """Something said.

    Attributes:
        text: what.
        wave: samples in about [-1, 1], ``sample_rate`` of them per second.
        mel: log-mel (bins, t); pauses between sentences are silent frames.
        alignment: 0/1 (tokens, t).
        phonemes: one symbol per token, blanks included.
        seconds: of sound.
        elapsed: seconds that the acoustic model and the vocoder took.
        evaluations, nfe: evaluations of the field and network calls per sentence, the mean over sentences.
        notes: sentences for people about what did not go as asked: symbols left out, solves that did not arrive.
    """

    text: str
    wave: Float[Tensor, " samples"]
    sample_rate: int
    mel: Float[Tensor, "bins t"]
    alignment: Float[Tensor, "n t"]
    phonemes: tuple[str, ...]
    config: MelConfig = field(repr=False)
    elapsed: tuple[float, float]
    evaluations: float
    nfe: float
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Seconds of sound."""
        return self.wave.shape[0] / self.sample_rate

    @property
    def rtf(self) -> float:
        """Real-time factor: seconds of work per second of sound, vocoder included; below 1 is faster than speaking."""
        return sum(self.elapsed) / self.seconds

    @property
    def acoustic_rtf(self) -> float:
        """Real-time factor of the acoustic model alone."""
        return self.elapsed[0] / self.seconds

    def save(self, stem: str | Path, *, subtype: str = "PCM_16") -> Path:
        """Write a wav (or flac, by suffix) under a temporary name, rename it, and return its path."""
        target = Path(stem)
        if target.suffix.lower() not in (".wav", ".flac"):
            target = target.with_name(target.name + ".wav")
        return audio.write(target, self.wave, self.sample_rate, subtype=subtype)

    def to_tensorboard(self, writer: Any, tag: str, step: int) -> None:
        """Sound for a ``SummaryWriter``."""
        sound(self.wave, self.sample_rate).to_tensorboard(writer, tag, step)

    def mel_picture(self) -> Picture:
        """The log-mel over time."""
        return mel_picture({self.text[:90]: self.mel}, self.config)

    def alignment_picture(self) -> Picture:
        """Tokens over time."""
        return alignment_picture(self.alignment, self.config, "".join(self.phonemes), self.text[:90])


class TextToSpeech:
    """A trained voice.

    Args:
        task: a trained :class:`Matcha`.
        sampler: how to sample unless a call says otherwise.
        vocoder: from mels to sound; None builds the one that the task names.
    """

    def __init__(self, task: Matcha, sampler: Sampler | None = None, *, vocoder: Vocoder | None = None) -> None:
        self.task = task.eval()
        self.sampler = sampler or Sampler()
        self.voice = task.voice
        self.vocoder = (vocoder or task.make_vocoder(self.voice.mel)).to(task.device).eval()
        if self.vocoder.config != self.voice.mel:
            raise UserError(
                f"the vocoder was made for other mels ({self.vocoder.config}) than this voice makes ({self.voice.mel})"
            )

    @classmethod
    def from_pretrained(cls, name: str | Path, *, device: str | torch.device = "cpu") -> TextToSpeech:
        """A run folder, a pretrained name (``speech/...``) or a ``save_pretrained`` folder.

        Raises:
            UserError: there is no such model, its files are damaged, or it is no speech model.
        """
        from flowkit.artifacts import load

        pipeline = load(name, device=device)
        if not isinstance(pipeline, cls):
            raise UserError(f"{name} is no voice: it is a model for {type(pipeline).__name__}")
        return pipeline

    def with_sampler(
        self, *, steps: int | None = None, solver: str | Solver | None = None, temperature: float | None = None
    ) -> Sampler:
        """This voice's sampler with some values changed; steps end an adaptive choice of steps."""
        changes: dict[str, Any] = {}
        if steps is not None:
            if steps < 1:
                raise UserError(f"steps must be at least 1, not {steps}")
            changes |= {"steps": steps, "controller": None}
        if solver is not None:
            changes["solver"] = _solver(solver) if isinstance(solver, str) else solver
        if temperature is not None:
            if not temperature >= 0.0:
                raise UserError(f"temperature must not be negative, got {temperature}")
            changes["temperature"] = temperature
        return replace(self.sampler, **changes)

    @torch.no_grad()
    def speak(
        self,
        text: str,
        *,
        steps: int | None = None,
        solver: str | Solver | None = None,
        temperature: float | None = None,
        length_scale: float = 1.0,
        speaker: str | int | None = None,
        language: str | int | None = None,
        seed: int = 0,
        pause: float = 0.25,
    ) -> Speech:
        """Say ``text``: it is cut into sentences, each is said for itself, ``pause`` seconds apart.

        Args:
            text: any length.
            steps: steps of the solver; None and below: what the voice was saved with.
            solver: name of a solver (``Euler``, ``Midpoint``, ...) or one.
            temperature: scale of the noise; below 1 is calmer.
            length_scale: 1.1 speaks ten percent slower.
            speaker: name or number.
            language: name or number; it also decides how the text is read.
            seed: of the noise; the same seed says the same.
            pause: seconds of silence between sentences.

        Raises:
            UserError: nothing in the text can be pronounced, or a value cannot be.
        """
        if not 0.1 <= length_scale <= 10.0:
            raise UserError(f"length_scale must lie between 0.1 and 10, got {length_scale}")
        sampler = self.with_sampler(steps=steps, solver=solver, temperature=temperature)
        voice, device = self.voice, self.task.device
        chosen = {kind: voice.number(kind, name) for kind, name in (("speaker", speaker), ("language", language))}
        reader = voice.languages[chosen["language"]] if voice.languages else None
        numbers = {kind: torch.tensor([number], device=device) for kind, number in chosen.items()}
        read, notes = self._read(text, reader)

        silence = round(pause * voice.mel.frame_rate)
        waves, mels, paths, symbols = [], [], [], []
        acoustic = vocoding = 0.0
        calls = evaluations = 0.0
        for place, tokens in enumerate(read):
            lengths = torch.tensor([tokens.shape[0]], device=device)
            started = _clock(device)
            made = self.task.synthesise(
                tokens.unsqueeze(0).to(device), lengths, sampler=sampler, length_scale=length_scale, **numbers,
                generator=Rows(mix_seed(seed, place), total=1),
            )  # fmt: skip
            between = _clock(device)
            wave = self.vocoder(made.mel.float())[0]
            acoustic, vocoding = acoustic + between - started, vocoding + _clock(device) - between
            calls, evaluations = (
                calls + float(made.solution.network_calls[0]),
                evaluations + float(made.solution.evaluations[0]),
            )
            if not made.solution.ok:
                notes.append(f"sentence {place + 1}: {made.solution.explain(0).partition(': ')[2]}")
            gap = silence if place + 1 < len(read) else 0
            waves += [wave.cpu(), torch.zeros(gap * voice.mel.hop)]
            quiet = torch.full((voice.mel.bins, gap), float(torch.tensor(voice.mel.floor).log()))
            mels += [made.mel[0].float().cpu(), quiet]
            block = alignment_path(made.durations, made.mel.shape[2])[0].cpu()
            paths.append(torch.cat([block, torch.zeros(block.shape[0], gap)], dim=1))
            symbols += [voice.symbols[i] for i in tokens.tolist()]
        return Speech(
            text, torch.cat(waves), voice.mel.sample_rate, torch.cat(mels, dim=1), torch.block_diag(*paths),
            tuple(symbols), voice.mel, (acoustic, vocoding), evaluations / len(read), calls / len(read), tuple(notes),
        )  # fmt: skip

    def _read(self, text: str, language: str | None) -> tuple[list[Tensor], list[str]]:
        """Tokens of every sentence that can be said, and notes on symbols that were left out."""
        from domains.speech.phonemes import SymbolTable

        table, tokens, unknown = SymbolTable(self.voice.symbols), [], []
        for piece in split_text(text):
            phonemes = self.voice.read(piece, language)
            unknown += table.unknown(phonemes)
            try:
                tokens.append(self.voice.encode(phonemes, piece))
            except UserError:
                continue  # "..." between two sentences is no reason to fall silent
        if not tokens:
            raise UserError(f"text {text!r} holds nothing that can be pronounced")
        left_out = "".join(dict.fromkeys(unknown))
        return tokens, [f"the voice has no symbols for {left_out!r}: left out"] if left_out else []

    def takes(self, n: int, *, seed: int = 0, request: Mapping[str, Any] | None = None) -> dict[str, Speech]:
        """``n`` takes for ``flowkit sample``: of the text in ``request`` with different noise, or of some sentences.

        Raises:
            UserError: the request holds a key that speech does not know.
        """
        request = dict(request or {})
        for key in request:
            if key not in _REQUEST:
                raise UserError(f"speech knows no request {key!r}: {nearest(key, _REQUEST)}")
        text = request.pop("text", None)
        return {
            f"speech-{i + 1}": self.speak(str(text or SENTENCES[i % len(SENTENCES)]), seed=mix_seed(seed, i), **request)
            for i in range(n)
        }


def _solver(name: str) -> Solver:
    from flowkit.config import plugins
    from flowkit.config.classes import resolve

    plugins.import_classes()
    return resolve(Solver, name, "solver")()


def _clock(device: torch.device) -> float:
    """Seconds, with the device's work done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
