"""A batch of utterances, encoded and aligned with its mels, and the losses of text-to-speech beside the flow's.

    duration = mean over tokens of (log w - log(1e-8 + d))^2, the predictor behind a stop-gradient, and
    prior    = mean over frames and bins of ((y - mu)^2 + log 2 pi) / 2,   at least 0.919.

Means are per utterance; float32 throughout, for squares of small numbers under bf16 would stop learning early.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from domains.speech.alignment import align, log_prior, spread, token_of_frame
from domains.speech.models.text_encoder import Encoded
from flowkit.random import RandomSource, uniform
from flowkit.tensors import mean_per_sample


def frame_mask(lengths: Int[Tensor, " b"], frames: int) -> Bool[Tensor, "b 1 t"]:
    """True on the first ``lengths`` of ``frames`` frames."""
    return (torch.arange(frames, device=lengths.device) < lengths.unsqueeze(1)).unsqueeze(1)


@dataclass(frozen=True)
class Aligned:
    """An utterance batch after encoding and alignment.

    Attributes:
        encoded: the text.
        durations: frames of each token; ``token`` is the token of each frame.
        mu: the means spread over the frames; ``mel`` the normalised mel; both 0 in the padding.
        real: True on real frames.
        alignable: False for an utterance with fewer frames than tokens, which has no alignment and must not count.
        speaker: the vector of speaker and language, if any.
    """

    encoded: Encoded
    durations: Int[Tensor, "b n"]
    token: Int[Tensor, "b t"]
    mu: Float[Tensor, "b c t"]
    real: Bool[Tensor, "b 1 t"]
    alignable: Bool[Tensor, "b 1 1"]
    mel: Float[Tensor, "b c t"]
    speaker: Float[Tensor, "b s"] | None

    @classmethod
    def of(
        cls,
        encoded: Encoded,
        mel: Float[Tensor, "b c t"],
        token_lengths: Int[Tensor, " b"],
        mel_lengths: Int[Tensor, " b"],
        speaker: Float[Tensor, "b s"] | None,
    ) -> Aligned:
        """Find the best alignment of the text with the normalised mel. No synchronisation with the device."""
        frames = mel.shape[2]
        real = frame_mask(mel_lengths, frames)
        mel = mel.where(real, mel.new_zeros(()))
        durations = align(log_prior(encoded.mu, mel), token_lengths, mel_lengths)
        token = token_of_frame(durations, frames)
        mu = spread(encoded.mu.float(), token) * real
        alignable = (mel_lengths >= token_lengths)[:, None, None]
        return cls(encoded, durations, token, mu, real, alignable, mel, speaker)

    @property
    def counted(self) -> Bool[Tensor, "b n"]:
        """The tokens whose durations count."""
        return self.encoded.real & self.alignable.squeeze(2)

    def cut(self, frames: int, generator: RandomSource | None) -> tuple[Tensor, Tensor, Tensor]:
        """mel, mu and real of a random stretch of ``frames`` frames of every utterance."""
        spare = (self.real.sum((1, 2)) - frames).clamp_min(0)
        start = (uniform((spare.shape[0],), generator, device=spare.device) * (spare + 1)).long()
        index = start.unsqueeze(1) + torch.arange(frames, device=spare.device)
        real = self.real[:, 0].gather(1, index).unsqueeze(1)
        index = index.unsqueeze(1).expand(-1, self.mel.shape[1], -1)
        return self.mel.gather(2, index), self.mu.gather(2, index), real

    def duration_loss(self) -> Float[Tensor, " b"]:
        """Squared error of the predicted log-durations, the mean over each utterance's tokens."""
        error = self.encoded.log_durations.float() - torch.log(1e-8 + self.durations.float())
        return mean_per_sample(error.square(), self.counted)

    @torch.no_grad()
    def frames_per_token(self) -> Float[Tensor, "2"]:
        """True and predicted frames of a token, the means over the batch."""
        # Per token, not per batch: the numbers stay small enough for weights stored in half precision.
        keep = self.counted
        count = keep.sum().clamp_min(1)
        predicted = (self.encoded.log_durations.float().clamp_max(10.0).exp() * keep).sum() / count
        return torch.stack([((self.durations * keep).sum() / count).to(predicted), predicted])

    @torch.no_grad()
    def total_frames(self) -> Float[Tensor, "2"]:
        """True and predicted frames of the whole batch."""
        predicted = self.encoded.log_durations.float().exp() * self.counted
        return torch.stack([(self.durations * self.counted).sum().float(), predicted.sum()])


def prior_loss(
    mel: Float[Tensor, "b c t"], mu: Float[Tensor, "b c t"], keep: Bool[Tensor, "b 1 t"] | None
) -> Float[Tensor, " b"]:
    """-log N(mel; mu, I), the mean over each utterance's kept frames and bins."""
    return mean_per_sample(0.5 * ((mel - mu).square() + math.log(2.0 * math.pi)), keep)
