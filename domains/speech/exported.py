"""A voice whose networks are exported programs: what lies between them, on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from domains.speech.alignment import spread, token_of_frame
from domains.speech.durations import round_durations, total_frames
from domains.speech.exporting import DECODER, ENCODER, VOCODER
from domains.speech.features import MelConfig
from domains.speech.matcha import Synthesis
from domains.speech.vocoder import GriffinLim, Vocoder
from domains.speech.voice import Voice
from flowkit.errors import UserError
from flowkit.random import RandomSource, normal
from flowkit.solvers.sampler import Sampler
from flowkit.solvers.solver import Solution, Status

if TYPE_CHECKING:
    from domains.speech.pipeline import TextToSpeech
    from flowkit.export.runtime import Exported


class ExportedVoice:
    """What :class:`domains.speech.pipeline.TextToSpeech` asks of a task, by programs.

    Args:
        exported: the programs of a voice.

    Raises:
        UserError: they are of something else.
    """

    device = torch.device("cpu")

    def __init__(self, exported: Exported) -> None:
        if ENCODER not in exported or DECODER not in exported:
            raise UserError(f"{exported.folder} is no voice: it is an export of {exported.info['task']}")
        self.exported, facts = exported, exported.facts
        self.voice = Voice.from_plain(facts["voice"])
        self.speakers, self.languages = int(facts["speakers"]), int(facts["languages"])
        #: Stands for what is inside the programs: it cannot be changed.
        self.sampler = Sampler(steps=int(exported.info["sampler"]["steps"]))
        self.make_vocoder: Callable[[MelConfig], Vocoder] = self._vocoder

    def eval(self) -> ExportedVoice:
        """Itself: programs know no training."""
        return self

    def _vocoder(self, mel: MelConfig) -> Vocoder:
        if VOCODER in self.exported:
            return ExportedVocoder(self.exported, mel)
        return GriffinLim(mel, **self.exported.facts["vocoder"])

    def synthesise(
        self,
        tokens: Int[Tensor, "b n"],
        token_lengths: Int[Tensor, " b"],
        *,
        sampler: Sampler,
        length_scale: float = 1.0,
        speaker: Int[Tensor, " b"] | None = None,
        language: Int[Tensor, " b"] | None = None,
        generator: RandomSource | None = None,
    ) -> Synthesis:
        """As :meth:`domains.speech.matcha.Matcha.synthesise`, with the same draws.

        Raises:
            UserError: another sampler than the export's own.
        """
        if sampler != self.sampler:
            made = self.exported.info["sampler"]
            raise UserError(
                f"solver, steps and temperature of an export are fixed ({made['steps']} steps of {made['solver']}, "
                f"temperature {made['temperature']:g}): export the run again with others"
            )
        zero = torch.zeros_like(token_lengths)
        who: dict[str, Any] = {}
        if self.speakers > 1:
            who["speaker"] = zero if speaker is None else speaker
        if self.languages > 1:
            who["language"] = zero if language is None else language
        least, _ = self.exported.axis(ENCODER, "tokens")
        wide = torch.nn.functional.pad(tokens, (0, max(0, least - tokens.shape[1])))
        encoded = self.exported(ENCODER, tokens=wide, token_lengths=token_lengths, **who)
        means, frames = (torch.from_numpy(encoded[name])[:, : tokens.shape[1]] for name in ("mu", "frames"))
        real = torch.arange(tokens.shape[1]) < token_lengths.unsqueeze(1)
        durations = round_durations(frames, real & (tokens != 0), self.exported.facts["rounding"], length_scale)
        lengths = total_frames(durations)
        longest = int(lengths.max())
        inside = torch.arange(longest) < lengths.unsqueeze(1)
        mu = spread(means, token_of_frame(durations, longest)) * inside.unsqueeze(1)
        inputs: dict[str, Any] = {"mu": self._filled(mu), "lengths": lengths, **who}
        if self.exported.facts["noise"]:
            inputs["noise"] = self._filled(normal(tuple(mu.shape), generator))
        mel = torch.from_numpy(self.exported(DECODER, **inputs)["mel"])[:, :, :longest]
        return Synthesis(mel, lengths, durations, mu, self._solution(mel, inside))

    def _filled(self, x: Float[Tensor, "b c t"]) -> np.ndarray:
        """Zeros behind, up to a number of frames that the decoder takes."""
        least, multiple = self.exported.axis(DECODER, "frames")
        frames = max(least, -(-x.shape[2] // multiple) * multiple)
        return torch.nn.functional.pad(x, (0, frames - x.shape[2])).numpy()

    def _solution(self, mel: Tensor, inside: Tensor) -> Solution:
        """Counts are those of the sampler that was exported."""
        made = self.exported.info["programs"][DECODER]
        steps = int(self.exported.info["sampler"]["steps"])
        finite = torch.where(inside.unsqueeze(1), mel, 0.0).isfinite().all(2).all(1)
        return Solution.on_demand(
            mel, evaluations=made["evaluations"], network_calls=made["network_calls"], accepted=steps,
            rejected=0, status=lambda: torch.where(finite, int(Status.OK), int(Status.NON_FINITE)), stopped_at=1.0,
        )  # fmt: skip


class ExportedVocoder(Vocoder):
    """The program ``vocoder`` of an export."""

    def __init__(self, exported: Exported, mel: MelConfig) -> None:
        super().__init__()
        self.exported, self.config = exported, mel

    def forward(
        self, mel: Float[Tensor, "b bins frames"], generator: RandomSource | None = None
    ) -> Float[Tensor, "b samples"]:
        """See :class:`Vocoder`."""
        return torch.from_numpy(self.exported(VOCODER, mel=mel.numpy())["wave"])


def exported_speech(folder: str | Path, *, runtime: str | None = None, threads: int = 0) -> TextToSpeech:
    """A :class:`TextToSpeech` of an export folder."""
    from flowkit.export.runtime import open_export

    return speech_of(open_export(folder, runtime=runtime, threads=threads))


def speech_of(exported: Exported) -> TextToSpeech:
    """A :class:`TextToSpeech` of an open export."""
    from domains.speech.pipeline import TextToSpeech

    voice = ExportedVoice(exported)
    return TextToSpeech(voice, voice.sampler)  # pyright: ignore[reportArgumentType]
