"""A voice as programs: phoneme ids to means and durations, means spread over frames and noise to a mel.

How many frames there are is known only when the durations are: between the two programs whoever runs them rounds the
durations and repeats each token's means (:class:`domains.speech.exported.ExportedVoice` does). A neural vocoder is a
third program; Griffin-Lim is none.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from domains.speech.aligned import frame_mask
from domains.speech.vocoder import GriffinLim, Vocoder
from flowkit.cond import Cond
from flowkit.errors import UserError
from flowkit.programs import Axis, Exportable, Port, Program, generate, planned, reads_noise
from flowkit.solvers.sampler import Sampler

if TYPE_CHECKING:
    from domains.speech.matcha import Matcha

ENCODER, DECODER, VOCODER = "encoder", "decoder", "vocoder"

_CARD = """1. Phonemes to token numbers: `facts.voice.symbols` in their order, with token 0 between and around them
   where `facts.voice.blank` is true.
2. `encoder` gives for each token a mean mel frame and its length in frames, not rounded.
3. Round the ends of the tokens to whole frames (each token but the blank gets at least one), and repeat each token's
   mean over its frames: `mu` of (batch, bins, frames), filled up with zeros to a multiple of what `frames` asks for.
   `lengths` says how many frames are real.
4. `decoder` makes log-mels of `mu` and standard normal noise; what lies beyond `lengths` is without meaning.
5. A vocoder makes sound of the mel: the program `vocoder` where there is one, else Griffin-Lim for the settings
   `facts.voice.mel`."""


class EncoderProgram(nn.Module):
    """``tokens`` (b, n), ``token_lengths`` (b,) and, where the voice has several, ``speaker``, ``language`` (b,)."""

    def __init__(self, task: Matcha) -> None:
        super().__init__()
        self.task = task

    def forward(self, tokens: Tensor, token_lengths: Tensor, *who: Tensor) -> tuple[Tensor, Tensor]:
        """Means (b, n, bins) in the decoder's units, and frames (b, n), not rounded, 0 on padding."""
        encoded = self.task.encoder(tokens, token_lengths, speaker_vector(self.task, who))
        return encoded.mu.float(), self.task.real_durations(encoded.log_durations, encoded.real)


class DecoderProgram(nn.Module):
    """``mu`` (b, bins, t), ``lengths`` (b,), the noise and, where the voice has several, ``speaker``, ``language``."""

    def __init__(self, task: Matcha, sampler: Sampler) -> None:
        super().__init__()
        self.task, self.sampler = task, sampler

    def forward(self, mu: Tensor, lengths: Tensor, *more: Tensor) -> Tensor:
        """Log-mels (b, bins, t)."""
        task = self.task
        noisy = reads_noise(task.objective)
        noise, who = (more[0], more[1:]) if noisy else (torch.zeros_like(mu), more)
        vector = speaker_vector(task, who)
        values = {"mu": mu} if vector is None else {"mu": mu, "speaker": vector}
        cond = Cond(values, padding=frame_mask(lengths, mu.shape[2]))
        return task.denormalise(generate(task.objective, task.networks, noise, cond, self.sampler))


class VocoderProgram(nn.Module):
    """``mel`` (b, bins, t) to a wave (b, samples)."""

    def __init__(self, vocoder: Vocoder) -> None:
        super().__init__()
        self.vocoder = vocoder

    def forward(self, mel: Tensor) -> Tensor:
        """The wave."""
        return self.vocoder(mel)


def speaker_vector(task: Matcha, who: tuple[Tensor, ...]) -> Tensor | None:
    """The embeddings of the numbers that are inputs: ``speaker`` where there are several, then ``language``."""
    names = who_inputs(task)
    numbers = dict(zip(names, who, strict=True))
    return task.speaker_vector(numbers.get("speaker"), numbers.get("language"))


def who_inputs(task: Matcha) -> list[str]:
    """Names of the inputs that say who speaks, and in which language."""
    return [name for name, count in (("speaker", task.speakers), ("language", task.languages)) if count > 1]


def exports(task: Matcha, sampler: Sampler) -> Exportable:
    """See :meth:`flowkit.tasks.Task.exports`."""
    sampler = planned(sampler)
    voice, vocoder = task.voice, task.make_vocoder(task.voice.mel).eval()
    if not voice.symbols:
        raise UserError("this voice knows no symbols: train it first")
    multiple = getattr(task.networks.main, "multiple", 1)
    frames = tuple(multiple * size for size in (6, 9, 23, 3))
    axes = {"batch": Axis(), "tokens": Axis((7, 12, 2, 19), least=2)}
    timed = {"batch": Axis(), "frames": Axis(frames, least=3 * multiple, multiple=multiple)}
    numbers = {"speaker": task.speakers, "language": task.languages}
    who = [Port(name, ("batch",), "number", torch.int64, 0, numbers[name] - 1) for name in who_inputs(task)]
    bins = task.features
    tokens = Port("tokens", ("batch", "tokens"), "numbers of symbols", torch.int64, 0, len(voice.symbols) - 1)
    lengths = Port("token_lengths", ("batch",), "real tokens of each row", torch.int64, 1, "tokens")
    mu = Port("mu", ("batch", bins, "frames"), "means spread over the frames, 0 beyond the real ones")
    real = Port("lengths", ("batch",), "real frames of each row", torch.int64, 1, "frames")
    noise = [Port("noise", ("batch", bins, "frames"), "standard normal")] if reads_noise(task.objective) else []
    means = Port("mu", ("batch", "tokens", bins), "a mean frame a token")
    unrounded = Port("frames", ("batch", "tokens"), "of a token, not rounded")
    mel = Port("mel", ("batch", bins, "frames"), "log-mel")
    programs = {
        ENCODER: Program(
            EncoderProgram(task).eval(), [tokens, lengths, *who],
            [means, unrounded],
            axes, "From phonemes to a mean frame and a length of each.",
        ),
        DECODER: Program(
            DecoderProgram(task, sampler).eval(), [mu, real, *noise, *who], [mel],
            timed, "From means and noise to a mel.",
        ),
    }  # fmt: skip
    if not isinstance(vocoder, GriffinLim):
        free = {"batch": Axis(), "frames": Axis((24, 9, 46, 17), least=2)}
        wave = Port("wave", ("batch", "samples"), f"sound in about -1 .. 1, {voice.mel.sample_rate} samples a second")
        programs[VOCODER] = Program(VocoderProgram(vocoder).eval(), [mel], [wave], free, "From a mel to sound.")
    facts: dict[str, Any] = {
        "voice": asdict(voice), "rounding": task.rounding, "features": bins, "speakers": task.speakers,
        "languages": task.languages, "noise": bool(noise),
    }  # fmt: skip
    if isinstance(vocoder, GriffinLim):
        facts["vocoder"] = {
            "iterations": vocoder.iterations, "momentum": vocoder.momentum, "settle": vocoder.settle,
        }  # fmt: skip
    return Exportable(programs, facts, _CARD)
