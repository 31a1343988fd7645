"""Training a VQ autoencoder on the frames of any source of clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from domains.video.codec.autoencoder import VQAutoencoder
from domains.video.codec.critic import Critic
from domains.video.codec.distance import FrameDistance, PixelsAlone
from domains.video.codec.quantiser import perplexity
from domains.video.data.spread import spread_frames
from domains.video.metrics import finite_mean, psnr, ssim
from domains.video.values import pixels, scaled
from flowkit.couplings.coupling import Batch
from flowkit.data import DataSource, RawBatch, Samples
from flowkit.errors import UserError
from flowkit.objectives.objective import Loss, Networks
from flowkit.objectives.own_loss import OwnLoss
from flowkit.random import RandomSource, uniform
from flowkit.solvers.sampler import Sampler
from flowkit.tasks import Phase, Presentation, Task

if TYPE_CHECKING:
    from domains.video.codec.pipeline import FrameCodec

#: Frames at once in evaluations, and frames that are kept to be shown.
_BATCH, _SHOWN = 64, 8


class FrameAutoencoder(Task):
    """A VQ autoencoder of frames; methods of latent space see frames through it (``codec: TrainedCodec``).

    loss = pixel error + commitment |z - sg(e)|^2 [+ |sg(z) - e|^2] [+ perceptual] [- critic's opinion], where the
    third term is there for codebooks that learn by gradients.

    Args:
        network: the autoencoder.
        size: height and width of the frames, pixels.
        pixel: error of pixels: mean absolute or mean squared.
        commitment: weight beta of the commitment to the codes.
        perceptual: a distance to add; it is frozen and not saved.
        perceptual_weight: its weight.
        critic_weight: weight of a critic of patches, which makes frames sharper at some cost in PSNR; 0: no critic.
        critic_start: first step of the critic: the autoencoder shall know the frames' rough looks before.
        critic_channels: of the critic's first layer.
        frames_per_clip: frames drawn from each clip of a batch, no frame twice.
        evaluate_frames: at most so many frames in evaluations.

    Raises:
        UserError: a number out of range, or a size that does not fit the network.
    """

    example: Tensor

    def __init__(
        self,
        network: VQAutoencoder,
        *,
        size: int,
        pixel: Literal["l1", "l2"] = "l1",
        commitment: float = 0.25,
        perceptual: FrameDistance = PixelsAlone(),  # noqa: B008  (recipes read the default from this line)
        perceptual_weight: float = 1.0,
        critic_weight: float = 0.0,
        critic_start: int = 0,
        critic_channels: int = 32,
        frames_per_clip: int = 2,
        evaluate_frames: int = 512,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("frames_per_clip", frames_per_clip, 1), ("evaluate_frames", evaluate_frames, 1),
            ("commitment", commitment, 0), ("perceptual_weight", perceptual_weight, 0),
            ("critic_weight", critic_weight, 0), ("critic_start", critic_start, 0),
            ("critic_channels", critic_channels, 1),
        ):  # fmt: skip
            if not value >= least:
                raise UserError(f"FrameAutoencoder: {name} must be at least {least}, not {value}")
        if pixel not in ("l1", "l2"):
            raise UserError(f"FrameAutoencoder: pixel is l1 or l2, not {pixel!r}")
        network.shape(network.colours, size, size)
        self.objective, self.networks = OwnLoss(), Networks({})
        self.network, self.size, self.pixel, self.commitment = network, size, pixel, commitment
        # In a tuple, so that it is neither a part of the state nor trained.
        self._perceptual = (perceptual.requires_grad_(False).eval(),)
        self.perceptual_weight = 0.0 if isinstance(perceptual, PixelsAlone) else perceptual_weight
        self.critic_weight, self.critic_start = critic_weight, critic_start
        self.critic = Critic(network.colours, critic_channels) if critic_weight else None
        self.frames_per_clip, self.evaluate_frames = frames_per_clip, evaluate_frames
        self.register_buffer("example", torch.full((_SHOWN, network.colours, size, size), 128, dtype=torch.uint8))

    # --- training ---------------------------------------------------------------------------------------------------

    def phases(self) -> Sequence[Phase]:
        """The autoencoder, and where there is one its critic, in turns."""
        if self.critic is None:
            return (Phase(),)
        codec = Phase(name="codec", parameters=("network.",))
        return codec, Phase(name="critic", parameters=("critic.",), first_step=self.critic_start)

    def adapt(self, data: DataSource) -> None:
        """See :meth:`refit`."""
        self.refit(data)

    def refit(self, data: DataSource) -> None:
        """Check the frames' size and keep some validation frames to show.

        Raises:
            UserError: the data's frames do not fit the task.
        """
        statistics = data.statistics()
        for key, mine, where in (
            ("size", self.size, "task.init_args.size"),
            ("channels", self.network.colours, "task.init_args.network.init_args.colours"),
        ):
            if statistics[key] != mine:
                raise UserError(f"{where} is {mine}, the data has {statistics[key]}: set one to the other")
        for name in ("validation", "train"):
            held_out = data.split(name)
            if len(held_out):
                shown = spread_frames(held_out, _SHOWN)
                self.example[: len(shown)] = shown
                return

    def prepare(self, raw: RawBatch, generator: RandomSource | None = None) -> Batch:
        """Draw ``frames_per_clip`` frames of each clip (all of a shorter one); x1 is (b, k, c, h, w) in [-1, 1]."""
        frames = raw["frames"]
        n, length = frames.shape[:2]
        drawn = uniform((n, length), generator, device=frames.device)
        drawn = drawn.topk(min(self.frames_per_clip, length)).indices
        return Batch(x1=scaled(frames[torch.arange(n, device=frames.device)[:, None], drawn]))

    def forward(
        self, raw: RawBatch, *, phase: str = "main", step: int = 0, generator: RandomSource | None = None
    ) -> Loss:
        """The autoencoder's loss, or in the phase ``critic`` its critic's."""
        clips = self.prepare(raw, generator).x1
        assert clips is not None
        true, clip = clips.flatten(0, 1), clips.shape[:2]

        def per_clip(values: Float[Tensor, " n"]) -> Float[Tensor, " b"]:
            return values.unflatten(0, clip).mean(1)

        if phase == "critic":
            assert self.critic is not None
            with torch.no_grad():
                made = self.network.decoder(self.network.quantiser(self.network.encode(true), learn=False).latents)
            judged = per_clip(self.critic.loss(made, true))
            return Loss(judged.mean(), {"critic": judged})
        quantised = self.network.quantiser(self.network.encode(true), generator=generator)
        made = self.network.decoder(quantised.latents).float()
        error = made - true
        error = (error.abs() if self.pixel == "l1" else error.square()).flatten(1).mean(1)
        terms = {"pixel": per_clip(error), "commitment": per_clip(quantised.commitment)}
        total = terms["pixel"] + self.commitment * terms["commitment"]
        if self.network.update == "gradient":
            terms["codebook"] = per_clip(quantised.codebook)
            total = total + terms["codebook"]
        if self.perceptual_weight:
            terms["perceptual"] = per_clip(self.perceptual(made, true))
            total = total + self.perceptual_weight * terms["perceptual"]
        if self.critic is not None and step >= self.critic_start:
            terms["opinion"] = per_clip(self.critic(made).flatten(1).mean(1))
            total = total - self.critic_weight * terms["opinion"]
        terms["perplexity"] = perplexity(quantised.codes, self.network.codes).expand(len(clips))
        return Loss(total.mean(), terms)

    @property
    def perceptual(self) -> FrameDistance:
        """The distance that is added, where the frames are."""
        return self._perceptual[0].to(self.device)

    def after_step(self, step: int) -> None:
        """The codebook moves, and dead codes restart."""
        self.network.quantiser.after_step()

    # --- judging ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def reconstruct(self, frames: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Frames in [-1, 1] through encoder, codebook and decoder; call it in evaluation mode."""
        return self.network.decode(self.network.encode(scaled(frames))).float().clamp(-1.0, 1.0)

    @torch.no_grad()
    def evaluate(
        self, samples: Samples, *, sampler: Sampler, seed: int = 0, limit: int | None = None
    ) -> dict[str, float]:
        """``psnr`` and ``ssim`` of held-out frames (a few of each clip, at most ``evaluate_frames``), and of the codes
        that these frames use ``codes_used`` (share of the codebook) and ``perplexity``; ``latent_std`` of a channel.

        Raises:
            UserError: the autoencoder cannot take frames of this shape.
        """
        frames = spread_frames(samples, self.evaluate_frames, clips=limit)
        if not len(frames):
            return {}
        self.network.shape(*frames.shape[1:])
        found: dict[str, list[Tensor]] = {"psnr": [], "ssim": []}
        parts = []
        with self.evaluating():
            for part in frames.split(_BATCH):
                true = scaled(part.to(self.device))
                latents = self.network.encode(true)
                parts.append(latents)
                made = self.network.decode(latents).float().clamp(-1.0, 1.0)
                found["psnr"].append(psnr(made, true).cpu())
                if self.size > 5:
                    found["ssim"].append(ssim(made, true).cpu())
            every = torch.cat(parts)
            codes = self.network.quantiser.codes_of(every)
        return {name: finite_mean(torch.cat(values)) for name, values in found.items() if values} | {
            "codes_used": len(codes.unique()) / self.network.codes,
            "perplexity": float(perplexity(codes, self.network.codes)),
            "latent_std": float(every.float().var((0, 2, 3)).mean().sqrt()),
        }

    def present(self, samples: Samples, *, sampler: Sampler, seed: int = 0) -> Mapping[str, Presentation]:
        """Held-out frames above what the codec makes of them."""
        return {"frames": self._beside(spread_frames(samples, _SHOWN))} if len(samples) else {}

    def sample(
        self, n: int, *, sampler: Sampler, seed: int = 0, request: Mapping[str, Any] | None = None
    ) -> Mapping[str, Presentation]:
        """``n`` of the frames that the model keeps (8; more come again) above what the codec makes of them.

        Raises:
            UserError: the request holds anything: a codec makes nothing new.
        """
        for key in request or {}:
            raise UserError(f"a codec knows no request {key!r}: it makes nothing new, and shows frames that it kept")
        return {"frames": self._beside(self.example[torch.arange(n) % len(self.example)].cpu())}

    def _beside(self, frames: UInt8[Tensor, "n c h w"]) -> Presentation:
        from domains.video.codec.present import above

        with self.evaluating():
            made = pixels(self.reconstruct(frames.to(self.device))).cpu()
        return above(frames.numpy(), made.numpy())

    def pipeline(self, sampler: Sampler) -> FrameCodec:
        """A :class:`domains.video.codec.pipeline.FrameCodec`."""
        from domains.video.codec.pipeline import FrameCodec

        return FrameCodec(self)
