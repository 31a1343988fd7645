"""Matcha-TTS: from text to mel, learning its own alignment.

Mehta et al., "Matcha-TTS: A fast TTS architecture with conditional flow matching" (arXiv 2309.03199).
The text encoder gives a mean mel frame and a log-duration per token; monotonic alignment search says which token each
frame belongs to; the decoder is any network trained by *any* objective, conditioned on the means spread over the
frames. The loss is the objective's plus those of durations and means (:mod:`domains.speech.aligned`), all averaged per
utterance, then over the batch (exact across processes), where the official code divides by the batch's sums.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from domains.speech.aligned import Aligned, frame_mask, prior_loss
from domains.speech.alignment import spread, token_of_frame
from domains.speech.durations import round_durations, total_frames
from domains.speech.features import MelConfig
from domains.speech.models.text_encoder import EncoderSizes, TextEncoder
from domains.speech.vocoder import GriffinLim, Vocoder
from domains.speech.voice import STORED, Voice
from flowkit.cond import Cond
from flowkit.couplings.coupling import Batch
from flowkit.data import DataSource, RawBatch, Samples
from flowkit.errors import UserError
from flowkit.nn.network import Network, NetworkSpec
from flowkit.objectives.objective import Loss, Networks, Objective
from flowkit.programs import Exportable
from flowkit.random import RandomSource
from flowkit.solvers.sampler import Sampler
from flowkit.solvers.solver import Solution
from flowkit.tasks import Presentation, Task

#: How fast the running means behind ``duration_scale`` forget, per training step.
_FORGET = 0.01


@dataclass(frozen=True)
class Synthesis:
    """Generated log-mels (valid up to ``lengths``), frames per token, the encoder's means as log-mels, the solve."""

    mel: Float[Tensor, "b c t"]
    lengths: Int[Tensor, " b"]
    durations: Float[Tensor, "b n"]
    mu: Float[Tensor, "b c t"]
    solution: Solution


class Matcha(Task):
    """Text-to-speech by Matcha-TTS with any objective.

    Args:
        decoder: the velocity network's class and sizes, e.g. ``MatchaDecoder``; built once per network that the
            objective needs.
        objective: what trains the decoder and samples from it.
        encoder: sizes of the text encoder.
        symbols: size of the vocabulary; at least what the data uses.
        features: mel bins, as the data has them.
        speakers, languages: how many; more than one adds an embedding table, whose vector widens the encoder and goes
            to the decoder as ``cond["speaker"]`` (give the decoder ``condition: speaker_width + language_width`` of
            those that are in use).
        speaker_width, language_width: of the embeddings.
        prior_weight, duration_weight: of the two extra losses.
        window: train the decoder on a random stretch of this many frames, 0 for whole utterances; the alignment always
            sees the whole.
        weighting: ``utterances`` weighs every utterance's mean loss alike; ``frames`` in proportion to its frames (over
            the mean of the training set, a constant: exact across processes), so that every frame counts alike and long
            sentences are not drowned by short words.
        rounding: ``nearest`` makes the total duration the predicted one; ``ceil`` is the published rule, which is too
            long.
        vocoder: makes sound of mels, built with the mel settings of the data.
    """

    mel_mean: Tensor
    mel_std: Tensor
    mean_frames: Tensor
    duration_totals: Tensor
    stored_voice: Tensor

    def __init__(
        self,
        decoder: Callable[[NetworkSpec], Network],
        objective: Objective,
        *,
        encoder: EncoderSizes = EncoderSizes(),  # noqa: B008  (frozen)
        symbols: int = 178,
        features: int = 80,
        speakers: int = 1,
        languages: int = 1,
        speaker_width: int = 64,
        language_width: int = 64,
        prior_weight: float = 1.0,
        duration_weight: float = 1.0,
        window: int = 0,
        weighting: Literal["utterances", "frames"] = "utterances",
        rounding: Literal["nearest", "ceil"] = "nearest",
        vocoder: Callable[[MelConfig], Vocoder] = GriffinLim,
    ) -> None:
        super().__init__()
        if min(symbols, features, speakers, languages) < 1 or window < 0:
            raise UserError("Matcha: symbols, features, speakers and languages are at least 1, window at least 0")
        if rounding not in ("nearest", "ceil"):
            raise UserError(f"Matcha: rounding is nearest or ceil, not {rounding!r}")
        self.symbols, self.features, self.window = symbols, features, window
        self.rounding: Literal["nearest", "ceil"] = rounding
        self.speakers, self.languages = speakers, languages
        if weighting not in ("utterances", "frames"):
            raise UserError(f"Matcha: weighting is utterances or frames, not {weighting!r}")
        self.weighting = weighting
        self.prior_weight, self.duration_weight = prior_weight, duration_weight
        self.speaker_table = nn.Embedding(speakers, speaker_width) if speakers > 1 else None
        self.language_table = nn.Embedding(languages, language_width) if languages > 1 else None
        condition = speaker_width * (speakers > 1) + language_width * (languages > 1)
        self.encoder = TextEncoder(symbols, features, encoder, condition=condition)
        self.objective = objective
        self.networks = Networks.build(objective.needs(), decoder)
        self._check_decoder(condition)
        self.make_vocoder = vocoder
        self.register_buffer("mel_mean", torch.zeros(()))
        self.register_buffer("mel_std", torch.ones(()))
        self.register_buffer("mean_frames", torch.ones(()))
        # Running means of true and predicted frames per token.
        self.register_buffer("duration_totals", torch.zeros(2))
        self.register_buffer("stored_voice", torch.zeros(STORED, dtype=torch.uint8))

    def _check_decoder(self, condition: int) -> None:
        """The decoder's sizes are a recipe's own words: say early, and in one line, where they do not fit."""
        for name in self.networks:
            network = self.networks[name]
            for wanted, given, key in (
                (self.features, getattr(network, "features", self.features), "features"),
                (condition, getattr(network, "condition", condition), "condition"),
            ):
                if wanted != given:
                    raise UserError(
                        f"Matcha: the decoder has {key} = {given}, this task needs {wanted}: "
                        f"set decoder.init_args.{key}: {wanted}"
                    )

    # --- data -------------------------------------------------------------------------------------------------------

    def adapt(self, data: DataSource) -> None:
        """Take the mel statistics, the symbols, the phonemiser and the names of speakers and languages from the data.

        Raises:
            UserError: the data has more symbols, speakers, languages or other mel bins than the task was built for.
        """
        statistics = data.statistics()
        voice = Voice.of_statistics(statistics)
        voice.check_room(symbols=self.symbols, features=self.features, speakers=self.speakers, languages=self.languages)
        self.mel_mean.fill_(float(statistics["mel_mean"]))
        self.mel_std.fill_(float(statistics["mel_std"]))
        self._take(voice, statistics)

    def refit(self, data: DataSource) -> None:
        """Take phonemiser, names and licence from the data; scales, symbols and mel settings stay.

        Raises:
            UserError: the data has other symbols or mel settings, or more speakers or languages than the model.
        """
        statistics = data.statistics()
        voice = Voice.of_statistics(statistics)
        voice.check_replaces(self.voice, speakers=self.speakers, languages=self.languages)
        self._take(voice, statistics)

    def _take(self, voice: Voice, statistics: Mapping[str, Any]) -> None:
        self.mean_frames.fill_(statistics["frames"]["train"] / max(statistics["utterances"]["train"], 1))
        self.stored_voice.copy_(voice.to_bytes())

    @property
    def voice(self) -> Voice:
        """The text side of the model (reads a buffer: not for inner loops)."""
        return Voice.from_bytes(self.stored_voice)

    def normalise(self, mel: Float[Tensor, "b c t"]) -> Float[Tensor, "b c t"]:
        """Log-mels to the units of the decoder: mean 0, deviation 1 over the training set."""
        return (mel - self.mel_mean) / self.mel_std

    def denormalise(self, mel: Float[Tensor, "b c t"]) -> Float[Tensor, "b c t"]:
        """The inverse of :meth:`normalise`."""
        return mel * self.mel_std + self.mel_mean

    # --- training ---------------------------------------------------------------------------------------------------

    def speaker_vector(
        self, speaker: Int[Tensor, " b"] | None, language: Int[Tensor, " b"] | None
    ) -> Float[Tensor, "b s"] | None:
        """The embeddings of speaker and language side by side, or None where there is one of each."""
        parts = [
            table(number)
            for table, number in ((self.speaker_table, speaker), (self.language_table, language))
            if table is not None and number is not None
        ]
        return torch.cat(parts, dim=1) if parts else None

    def align(self, raw: RawBatch) -> Aligned:
        """Encode the text and find the best alignment with the mel. No synchronisation with the device."""
        speaker = self.speaker_vector(raw.get("speaker"), raw.get("language"))
        encoded = self.encoder(raw["tokens"], raw["token_lengths"], speaker)
        return Aligned.of(encoded, self.normalise(raw["mel"]), raw["token_lengths"], raw["mel_lengths"], speaker)

    def prepare(self, raw: RawBatch, generator: RandomSource | None = None) -> Batch:
        """Normalise, encode, align: x1 is the normalised mel, ``cond["mu"]`` the means, the padding (b, 1, t)."""
        return self._batch(self.align(raw), generator)

    def _batch(self, aligned: Aligned, generator: RandomSource | None) -> Batch:
        mel, mu, real = aligned.mel, aligned.mu, aligned.real
        if self.training and 0 < self.window < mel.shape[2]:
            mel, mu, real = aligned.cut(self.window, generator)
        values = {"mu": mu} if aligned.speaker is None else {"mu": mu, "speaker": aligned.speaker}
        weight = real.sum((1, 2)) / self.mean_frames if self.weighting == "frames" else None
        return Batch(x1=mel, cond=Cond(values, padding=real), keep=real & aligned.alignable, weight=weight)

    def forward(
        self, raw: RawBatch, *, phase: str = "main", step: int = 0, generator: RandomSource | None = None
    ) -> Loss:
        """The objective's loss plus ``dur`` and ``prior``."""
        aligned = self.align(raw)
        batch = self._batch(aligned, generator)
        loss = self.objective.loss(self.networks, batch, phase=phase, step=step, generator=generator)
        assert batch.x1 is not None
        duration = aligned.duration_loss()
        prior = prior_loss(batch.x1, batch.cond["mu"], batch.keep)
        if batch.weight is not None:
            duration, prior = duration * batch.weight, prior * batch.weight
        if self.training:
            self.duration_totals.lerp_(aligned.frames_per_token(), _FORGET)
        total = loss.total + self.duration_weight * duration.mean() + self.prior_weight * prior.mean()
        return Loss(total, {**loss.terms, "dur": duration, "prior": prior})

    # --- durations --------------------------------------------------------------------------------------------------

    @property
    def duration_scale(self) -> Float[Tensor, ""]:
        """True over predicted frames: what the predicted durations are multiplied by where ``rounding`` is ``nearest``.

        Durations are learned in the logarithm, so their exponentials are too small in the mean. The ratio is followed
        during training (running means over about 100 steps) and can be measured on held-out data by :meth:`calibrate`.
        1 before any training.
        """
        true, predicted = self.duration_totals
        return torch.where(predicted > 0, true / predicted.clamp_min(1e-6), torch.ones_like(true))

    @torch.no_grad()
    def calibrate(self, samples: Samples, *, batch: int = 16) -> float:
        """Set ``duration_scale`` from held-out samples (the validation split) and return it."""
        from domains.speech.judge import frames_spoken

        totals = frames_spoken(self, samples, batch=batch)
        if float(totals.min()) <= 0:
            raise UserError(
                "durations cannot be calibrated: the samples hold no utterance with at least one frame per token"
            )
        self.duration_totals.copy_(totals / totals[1])
        return float(self.duration_scale)

    def round_durations(
        self,
        log_durations: Float[Tensor, "b n"],
        real: Bool[Tensor, "b n"],
        tokens: Int[Tensor, "b n"],
        length_scale: float = 1.0,
    ) -> Float[Tensor, "b n"]:
        """Frames per token by the task's ``rounding``; blanks (token 0) may get none under ``nearest``."""
        durations = self.real_durations(log_durations, real)
        return round_durations(durations, real & (tokens != 0), self.rounding, length_scale)

    def real_durations(self, log_durations: Float[Tensor, "b n"], real: Bool[Tensor, "b n"]) -> Float[Tensor, "b n"]:
        """Frames per token, not rounded, 0 on padding; those of ``nearest`` are multiplied by ``duration_scale``."""
        durations = log_durations.float().exp() * real
        return durations if self.rounding == "ceil" else durations * self.duration_scale

    # --- sampling ---------------------------------------------------------------------------------------------------

    def generate(
        self, mu: Float[Tensor, "b c t"], real: Bool[Tensor, "b 1 t"], speaker: Tensor | None, *, sampler: Sampler,
        generator: RandomSource | None = None,
    ) -> Solution:  # fmt: skip
        """Solve the decoder's flow for given means; the state is a normalised mel."""
        values = {"mu": mu} if speaker is None else {"mu": mu, "speaker": speaker}
        cond = Cond(values, padding=real)
        return self.objective.generate(self.networks, torch.zeros_like(mu), cond, sampler=sampler, generator=generator)

    @torch.no_grad()
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
        """Text to mels. ``length_scale`` > 1 speaks slower; ``speaker`` and ``language`` are numbers (default 0)."""
        zero = torch.zeros_like(token_lengths)
        vector = self.speaker_vector(zero if speaker is None else speaker, zero if language is None else language)
        encoded = self.encoder(tokens, token_lengths, vector)
        durations = self.round_durations(encoded.log_durations, encoded.real, tokens, length_scale)
        lengths = total_frames(durations)
        frames = int(lengths.max())
        real = frame_mask(lengths, frames)
        mu = spread(encoded.mu.float(), token_of_frame(durations, frames)) * real
        solution = self.generate(mu, real, vector, sampler=sampler, generator=generator)
        return Synthesis(self.denormalise(solution.x), lengths, durations, self.denormalise(mu), solution)

    # --- judging ----------------------------------------------------------------------------------------------------

    def evaluate(
        self, samples: Samples, *, sampler: Sampler, seed: int = 0, limit: int | None = None
    ) -> dict[str, float]:
        """See :func:`domains.speech.judge.judge`."""
        from domains.speech.judge import judge

        return judge(self, samples, sampler=sampler, seed=seed, limit=limit)

    def present(self, samples: Samples, *, sampler: Sampler, seed: int = 0) -> Mapping[str, Presentation]:
        """Speech, mel and alignment of the first utterance; see :func:`domains.speech.judge.exhibit`."""
        from domains.speech.judge import exhibit

        return exhibit(self, samples, sampler=sampler, seed=seed)

    def sample(
        self, n: int, *, sampler: Sampler, seed: int = 0, request: Mapping[str, Any] | None = None
    ) -> Mapping[str, Presentation]:
        """``n`` takes; ``request`` may hold ``text``, ``speaker``, ``language`` and ``length_scale``."""
        from domains.speech.pipeline import TextToSpeech

        return TextToSpeech(self, sampler).takes(n, seed=seed, request=request or {})

    def pipeline(self, sampler: Sampler) -> Any:
        """A :class:`domains.speech.pipeline.TextToSpeech`."""
        from domains.speech.pipeline import TextToSpeech

        return TextToSpeech(self, sampler)

    def exports(self, sampler: Sampler) -> Exportable:
        """Encoder, decoder and, where it is neural, vocoder; see :mod:`domains.speech.exporting`."""
        from domains.speech import exporting

        return exporting.exports(self, sampler)
