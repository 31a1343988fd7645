"""RIVER: the next frame of a video, given the frame before it and one older frame drawn at random.

Davtyan, Sameni and Favaro 2022, "Efficient Video Prediction via Sparsely Conditioned Flow Matching"
(arXiv 2211.14575). The cost of a frame does not grow with the length of the past.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from domains.video.data.jitter import ColourJitter
from domains.video.data.spread import spread_frames
from domains.video.fitting import fitting
from domains.video.models.specs import FrameSpec
from domains.video.past import Redraw, draw_frames
from domains.video.rollout import Dials, Rollout
from domains.video.values import pixels as pixels
from domains.video.values import scaled as scaled
from flowkit.cond import Cond
from flowkit.couplings.coupling import Batch
from flowkit.data import DataSource, RawBatch, Samples
from flowkit.errors import UserError
from flowkit.metrics.dequantisers import Levels
from flowkit.nn.codec import IdentityCodec, LatentCodec
from flowkit.nn.network import Network, NetworkSpec
from flowkit.objectives.flow_matching import FlowMatching
from flowkit.objectives.objective import Networks, Objective
from flowkit.programs import Exportable
from flowkit.random import RandomSource
from flowkit.solvers.sampler import Sampler
from flowkit.tasks import Presentation, Report, Task

_CODEC_FRAMES = 256  # of the training, of which a codec may take statistics


class RiverTask(Task):
    """x1 is the latent of a frame; the conditions are ``reference``, ``past`` and their ``distance`` (and ``action``).

    Args:
        network: the network's class and sizes, e.g. ``RiverTransformer``; built once per network that the objective
            needs.
        objective: what trains the network and samples from it.
        size: height and width of the frames, pixels.
        channels: of the frames.
        context: known frames in evaluations and in what training shows.
        codec: frozen autoencoder.
        redraw: when prediction draws the past frame anew: before each ``call`` of the network, in each ``step`` of the
            solver, or ``once`` a frame (which adaptive solvers need).
        strength: s in [0, 1): a frame starts at t = s of the path from noise to the frame before it. 0 starts from
            noise.
        horizon: known frames that may be seen, the reference included: in training as in prediction. 0: all that
            training clips have.
        actions: numbers of the action between two frames, which the data must bring; 0 for none.
        jitter: other colours for the clips of training, the same for all frames of a clip.
        evaluate_clips: at most so many clips in evaluations.
        evaluate_samples: predictions a clip: PSNR and SSIM of the first and of the best.

    Raises:
        UserError: a number out of range, or sizes that do not fit each other.
    """

    clip_frames: Tensor
    fps: Tensor
    example: Tensor

    def __init__(
        self,
        network: Callable[[NetworkSpec], Network],
        objective: Objective,
        *,
        size: int,
        channels: int = 3,
        context: int = 5,
        codec: LatentCodec = IdentityCodec(),  # noqa: B008  (recipes read the default from this line)
        redraw: Redraw = "call",
        strength: float = 0.0,
        horizon: int = 0,
        actions: int = 0,
        jitter: ColourJitter = ColourJitter(),  # noqa: B008  (recipes read the default from this line)
        evaluate_clips: int = 64,
        evaluate_samples: int = 1,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("size", size, 1), ("channels", channels, 1), ("context", context, 1), ("actions", actions, 0),
            ("evaluate_clips", evaluate_clips, 1), ("evaluate_samples", evaluate_samples, 1),
        ):  # fmt: skip
            if value < least:
                raise UserError(f"RiverTask: {name} must be at least {least}, not {value}")
        if strength and not isinstance(objective, FlowMatching):
            raise UserError(f"RiverTask: strength needs a path to start on, and {type(objective).__name__} has none")
        self.dials = Dials(redraw, strength, horizon)
        self.size, self.channels, self.context, self.actions = size, channels, context, actions
        self.jitter = jitter
        self.evaluate_clips, self.evaluate_samples = evaluate_clips, evaluate_samples
        # A fresh module per object: the default of the signature is shared by all.
        self.codec = (IdentityCodec() if type(codec) is IdentityCodec and codec.patch == 1 else codec).freeze()
        self.latent = self.codec.shape(channels, size, size)
        self.objective = objective

        def build(spec: NetworkSpec) -> Network:
            return network(FrameSpec.of(spec, self.latent, actions=actions))

        self.networks = Networks.build(objective.needs(), build)
        self.register_buffer("clip_frames", torch.zeros((), dtype=torch.long))
        self.register_buffer("fps", torch.zeros(()))
        self.register_buffer("example", torch.full((context, channels, size, size), 128, dtype=torch.uint8))

    # --- data -------------------------------------------------------------------------------------------------------

    def refit(self, data: DataSource) -> None:
        """Take the length and rate of the clips, and the context of a clip (of the validation split where it has any)
        as the example to sample from.

        Raises:
            UserError: the data's frames do not fit the task.
        """
        statistics = data.statistics()
        for key, mine in (("size", self.size), ("channels", self.channels)):
            theirs = statistics[key]
            if theirs != mine:
                raise UserError(f"task.init_args.{key} is {mine}, the data has {theirs}: set one to the other")
        available = int(statistics.get("actions") or 0)
        if self.actions and self.actions != available:
            raise UserError(f"task.init_args.actions is {self.actions}, the data has {available}: set one to the other")
        frames = int(statistics["frames"])
        if frames <= self.context or frames < 3:
            raise UserError(
                f"the data's clips have {frames} frames: with a context of {self.context} they need at least "
                f"{max(self.context + 1, 3)}"
            )
        self.clip_frames.fill_(frames)
        self.fps.fill_(float(statistics.get("fps") or 0.0))
        held_out = data.split("validation")
        shown = held_out if len(held_out) else data.split("train")
        self.example.copy_(shown.batch([0])["frames"][0, : self.context])

    def adapt(self, data: DataSource) -> None:
        """As :meth:`refit`, and take the codec's weights.

        Raises:
            UserError: the data's frames do not fit the task.
        """
        self.refit(data)

        def images() -> Float[Tensor, "n c h w"]:
            return scaled(spread_frames(data.split("train"), _CODEC_FRAMES))

        self.codec.adapt(images)

    @property
    def reach(self) -> int:
        """Known frames that training has shown at once, which bounds what prediction keeps; 0 before any training
        (reads a buffer: not for inner loops)."""
        return self.dials.horizon or max(int(self.clip_frames) - 1, 0)

    def encode(
        self, frames: UInt8[Tensor, "b k c h w"], generator: RandomSource | None = None
    ) -> Float[Tensor, "b k C H W"]:
        """Latents of frames, without gradients; ``generator`` is for codecs that draw them."""
        with torch.no_grad():
            if generator is not None and self.codec.draws:
                # One frame of all clips at a time: rows of the draws are clips.
                return torch.stack([self.codec.encode(scaled(frame), generator) for frame in frames.unbind(1)], 1)
            return self.codec.encode(scaled(frames.flatten(0, 1))).unflatten(0, frames.shape[:2])

    def decode(self, latents: Float[Tensor, "b C H W"]) -> Float[Tensor, "b c h w"]:
        """Frames in [-1, 1] of latents, without gradients."""
        with torch.no_grad():
            return self.codec.decode(latents).clamp(-1.0, 1.0)

    def prepare(self, raw: RawBatch, generator: RandomSource | None = None) -> Batch:
        """Draw a target and a past frame in each clip and encode the three frames; ``raw`` holds ``frames`` (b, T, c,
        h, w) uint8 and, where the task has actions, ``actions`` (b, T - 1, A).

        Raises:
            UserError: the clips are shorter than 3 frames, or lack the actions.
        """
        frames = raw["frames"]
        n, length = frames.shape[:2]
        drawn = draw_frames(n, length, generator, horizon=self.dials.horizon, device=frames.device)
        row = torch.arange(n, device=frames.device)
        seen = torch.stack([frames[row, place] for place in (drawn.target, drawn.reference, drawn.past)], 1)
        if self.training:
            seen = self.jitter(seen, generator)
        target, reference, past = self.encode(seen, generator).unbind(1)
        values = {"reference": reference, "past": past, "distance": drawn.distance}
        if self.actions:
            if "actions" not in raw:
                raise UserError(f"the task reads {self.actions} numbers of action a frame, the data has none")
            values["action"] = raw["actions"][row, drawn.reference].to(target.dtype)
        return Batch(x1=target, cond=Cond(values, nulls={"distance": 1}))

    @property
    def levels(self) -> Levels:
        """Bins of the bytes k at k / 127.5 - 1."""
        return Levels(256, -1.0 - 1.0 / 255.0, 1.0 + 1.0 / 255.0)

    def codes(self, raw: RawBatch) -> tuple[Tensor, Cond]:
        """The bytes of the last frame of each clip, and the two frames before it (at the distance 1) as its condition,
        for likelihoods (``flowkit evaluate RUN --bpd``).

        Raises:
            UserError: the codec is an autoencoder: latents are no bytes; clips that do not fit.
        """
        if not isinstance(self.codec, IdentityCodec):
            raise UserError(f"bits per dimension are of pixels: no {type(self.codec).__name__}, but IdentityCodec")
        frames = fitting(self, raw, least=3)
        past, reference = self.encode(frames[:, -3:-1]).unbind(1)
        distance = torch.ones(frames.shape[0], dtype=torch.long, device=frames.device)
        values = {"reference": reference, "past": past, "distance": distance}
        if self.actions:
            values["action"] = raw["actions"][:, -1].to(reference.dtype)
        # A codec that only moves pixels moves bytes exactly.
        return self.codec.encode(frames[:, -1].float()).long(), Cond(values, nulls={"distance": 1})

    # --- predicting -------------------------------------------------------------------------------------------------

    def roll(
        self,
        context: UInt8[Tensor, "b k c h w"],
        *,
        sampler: Sampler,
        noise: Callable[[int], RandomSource | None] | None = None,
        dials: Dials | None = None,
        actions: Float[Tensor, "b n A"] | None = None,
    ) -> Rollout:
        """Predicted latents without end after the known frames ``context``; see :class:`Rollout`. Call it in evaluation
        mode.

        ``dials`` replace the task's own; its horizon 0 means what training has shown (:attr:`reach`).
        """
        dials = dials or self.dials
        dials = Dials(dials.redraw, dials.strength, dials.horizon or self.reach)
        # Older frames than the horizon are never seen: they need not be encoded.
        known = self.encode(context[:, -dials.horizon :] if dials.horizon else context)
        return Rollout(self, known, sampler=sampler, dials=dials, noise=noise, actions=actions)

    # --- judging ----------------------------------------------------------------------------------------------------

    def evaluate(
        self, samples: Samples, *, sampler: Sampler, seed: int = 0, limit: int | None = None
    ) -> dict[str, float]:
        """See :func:`domains.video.judge.judge`."""
        from domains.video.judge import judge

        with self.evaluating():
            return judge(self, samples, sampler=sampler, seed=seed, limit=limit)

    def report(
        self,
        samples: Samples,
        *,
        sampler: Sampler,
        seed: int = 0,
        limit: int | None = None,
        request: Mapping[str, Any] | None = None,
    ) -> Report:
        """See :func:`domains.video.evaluation.protocol.report`."""
        from domains.video.evaluation.protocol import report

        with self.evaluating():
            return report(self, samples, sampler=sampler, seed=seed, limit=limit, request=request)

    def present(self, samples: Samples, *, sampler: Sampler, seed: int = 0) -> Mapping[str, Presentation]:
        """Predictions beside the truth; see :func:`domains.video.judge.exhibit`."""
        from domains.video.judge import exhibit

        with self.evaluating():
            return exhibit(self, samples, sampler=sampler, seed=seed)

    def sample(
        self, n: int, *, sampler: Sampler, seed: int = 0, request: Mapping[str, Any] | None = None
    ) -> Mapping[str, Presentation]:
        """``n`` continuations of the stored example, side by side; ``request`` may hold ``frames``.

        To go on with a file of yours: ``flowkit predict``.
        """
        from domains.video.judge import take

        with self.evaluating():
            return take(self, n, sampler=sampler, seed=seed, request=request or {})

    def pipeline(self, sampler: Sampler) -> Any:
        """A :class:`domains.video.pipeline.VideoPredictor`."""
        from domains.video.pipeline import VideoPredictor

        return VideoPredictor(self, sampler)

    def exports(self, sampler: Sampler) -> Exportable:
        """Three programs; see :mod:`domains.video.exporting`."""
        from domains.video import exporting

        return exporting.exports(self, sampler)
