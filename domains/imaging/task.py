"""Pictures of a data set, learnt with or without their classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from domains.imaging.data.pictures import PictureSamples
from domains.imaging.features import FeatureNetwork, byte_values, cached_features
from domains.imaging.models.specs import PictureSpec
from flowkit.cond import Cond
from flowkit.couplings.coupling import Batch
from flowkit.data import DataSource, RawBatch, Samples
from flowkit.errors import UserError, nearest
from flowkit.metrics.frechet import frechet_distance
from flowkit.metrics.quantised import dequantise
from flowkit.nn.network import Network, NetworkSpec
from flowkit.objectives.objective import Networks, Objective
from flowkit.random import RandomSource, Rows, mix_seed
from flowkit.solvers.sampler import Sampler
from flowkit.solvers.solver import Status
from flowkit.tasks import Presentation, Task

#: Pictures solved at once in evaluations, and pictures shown.
_BATCH, _SHOWN = 500, 40
_DRAWS = 0x1A6E
#: Bytes kept for the names of classes.
_NAMES = 2048


class Drawn(NamedTuple):
    """Pictures made, on the CPU, and (n,) counts of each."""

    pictures: UInt8[Tensor, "n c h w"]
    evaluations: Int[Tensor, " n"]
    network_calls: Int[Tensor, " n"]
    failed: int


class ImageTask(Task):
    """x1 is a picture in [-1, 1], bytes k at (2 k + 1) / 256 - 1; the condition ``label`` is its class where the task
    has classes.

    Args:
        network: builds a network to the objective's order, e.g. ``PictureUNet``.
        objective: what trains the network and samples from it.
        size: height and width of the pictures, pixels.
        channels: of the pictures.
        classes: 0 learns the law of all pictures; n gives the network the condition ``label`` in 0 .. n - 1.
        dequantise: train on bytes with uniform noise of their width, as likelihoods want it.
        feature_steps: training steps of the feature network that Frechet distances are measured with; 0: no distances.
        evaluate_pictures: at most so many in evaluations.
        cache: where feature networks are kept; empty means ``$FLOWKIT_CACHE`` or the user's cache folder.

    Raises:
        UserError: a number out of range.
    """

    names: Tensor

    def __init__(
        self,
        network: Callable[[NetworkSpec], Network],
        objective: Objective,
        *,
        size: int = 28,
        channels: int = 1,
        classes: int = 0,
        dequantise: bool = False,
        feature_steps: int = 1500,
        evaluate_pictures: int = 2000,
        cache: str = "",
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("size", size, 1), ("channels", channels, 1), ("classes", classes, 0), ("feature_steps", feature_steps, 0),
            ("evaluate_pictures", evaluate_pictures, 2),
        ):  # fmt: skip
            if value < least:
                raise UserError(f"ImageTask: {name} must be at least {least}, not {value}")
        self.size, self.channels, self.classes, self.dequantise = size, channels, classes, dequantise
        self.feature_steps, self.evaluate_pictures, self.cache = feature_steps, evaluate_pictures, cache
        self.objective = objective

        def build(spec: NetworkSpec) -> Network:
            return network(PictureSpec.of(spec, self.shape, classes=classes))

        self.networks = Networks.build(objective.needs(), build)
        self.features = FeatureNetwork(channels).requires_grad_(False) if feature_steps else None
        # UTF-8, a line each: loaded models know their classes by name.
        self.register_buffer("names", torch.zeros(_NAMES, dtype=torch.uint8))

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the data's classes, in the order of their numbers; () before any training."""
        text = bytes(self.names.tolist()).rstrip(b"\0").decode(errors="ignore")
        return tuple(text.split("\n")) if text else ()

    @property
    def shape(self) -> tuple[int, int, int]:
        """(c, h, w) of a picture."""
        return self.channels, self.size, self.size

    # --- data -------------------------------------------------------------------------------------------------------

    def adapt(self, data: DataSource) -> None:
        """Check the data against the task, and fill the feature network.

        Raises:
            UserError: the data's pictures or classes are others than the task's.
        """
        statistics = data.statistics()
        for key, mine in (("size", [self.size, self.size]), ("channels", self.channels)):
            if statistics[key] != mine:
                raise UserError(
                    f"task.init_args.{key} is {mine if key != 'size' else self.size}, the data has {statistics[key]}"
                )
        if self.classes and self.classes != statistics["classes"]:
            raise UserError(f"task.init_args.classes is {self.classes}, the data has {statistics['classes']}")
        names = "\n".join(statistics["class_names"]).encode()[:_NAMES]
        self.names.zero_()
        self.names[: len(names)] = torch.tensor(list(names), dtype=torch.uint8)
        if self.features is not None:
            train = data.split("train")
            if not isinstance(train, PictureSamples):
                raise UserError("the feature network is trained on pictures in memory: set feature_steps to 0")
            device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
            cached_features(self.features, train, steps=self.feature_steps, cache=self.cache, device=device)

    def cond(self, labels: Int[Tensor, " n"]) -> Cond:
        """The condition of pictures of these classes; empty where the task has no classes."""
        return Cond({"label": labels.to(self.device)}, nulls={"label": self.classes}) if self.classes else Cond()

    def codes(self, raw: RawBatch) -> tuple[UInt8[Tensor, "b c h w"], Cond]:
        """The bytes of a raw batch and their condition, for likelihoods of quantised data: x1 of a byte k lies in [-1 +
        2 k / 256, -1 + 2 (k + 1) / 256] (see :mod:`flowkit.metrics.quantised`)."""
        return raw["picture"], self.cond(raw["label"])

    def prepare(self, raw: RawBatch, generator: RandomSource | None = None) -> Batch:
        """``picture`` (b, c, h, w) uint8 and ``label`` (b,) become x1 and the condition."""
        codes, cond = self.codes(raw)
        return Batch(x1=dequantise(codes.int(), generator) if self.dequantise else byte_values(codes), cond=cond)

    # --- drawing and judging ----------------------------------------------------------------------------------------

    @torch.no_grad()
    def draw(
        self, n: int, *, sampler: Sampler, labels: Int[Tensor, " n"] | None = None, seed: int = 0, batch: int = _BATCH
    ) -> Drawn:
        """``n`` pictures; picture i is a function of (seed, i) and its label, however they are cut into batches.

        ``labels``: where the task has classes and none are given, classes in turn.
        """
        if self.classes and labels is None:
            labels = torch.arange(n) % self.classes
        pictures, counts, failed = [], [], 0
        with self.evaluating():
            for first in range(0, n, batch):
                m = min(batch, n - first)
                rows = Rows(mix_seed(seed, _DRAWS), first=first, total=n)
                cond = Cond() if labels is None else self.cond(labels[first : first + m])
                like = torch.zeros(m, *self.shape, device=self.device)
                made = self.objective.generate(self.networks, like, cond, sampler=sampler, generator=rows)
                pictures.append(pixels(made.x).cpu())
                counts.append(torch.stack([made.evaluations, made.network_calls]).cpu())
                failed += int((made.status != Status.OK).sum())
        if not pictures:
            none = torch.zeros(0, dtype=torch.long)
            return Drawn(torch.empty(0, *self.shape).byte(), none, none, 0)
        evaluations, network_calls = torch.cat(counts, 1)
        return Drawn(torch.cat(pictures), evaluations, network_calls, failed)

    @torch.no_grad()
    def describe(self, pictures: UInt8[Tensor, "n c h w"]) -> tuple[Float[Tensor, "n 128"], Int[Tensor, " n"]]:
        """Features (on the CPU) and classes that the feature network sees in pictures.

        Raises:
            UserError: the task has no feature network.
        """
        if self.features is None:
            raise UserError("this model has no feature network: it was trained with feature_steps 0")
        features, classes = [], []
        for part in pictures.split(1000):
            seen = self.features.features(byte_values(part.to(self.device)))
            features.append(seen.float().cpu())
            classes.append(self.features.last(seen).argmax(1).cpu())
        return torch.cat(features), torch.cat(classes)

    def evaluate(
        self, samples: Samples, *, sampler: Sampler, seed: int = 0, limit: int | None = None
    ) -> dict[str, float]:
        """``frechet``: distance of as many made pictures as real ones, in features; ``agreement``: share whose class
        the feature network recognises, where the task has classes; ``drift``: made minus real mean of the pixels, of
        the range 2; evaluations, network calls and failed solves.
        """
        n = min(len(samples), limit or self.evaluate_pictures, self.evaluate_pictures)
        raw = samples.batch(range(n))
        labels = raw["label"].cpu() if self.classes else None
        drawn = self.draw(n, sampler=sampler, labels=labels, seed=seed)
        real = raw["picture"].cpu()
        found: dict[str, float] = {}
        if self.features is not None and n > 1:
            (made, seen), (true, _) = self.describe(drawn.pictures), self.describe(real)
            found["frechet"] = frechet_distance(made, true)
            if labels is not None:
                found["agreement"] = float((seen == labels).double().mean())
        drift = byte_values(drawn.pictures).double().mean() - byte_values(real).double().mean()
        return found | {
            "drift": float(drift),
            "nfe": float(drawn.evaluations.double().mean()),
            "network_calls": float(drawn.network_calls.double().mean()),
            "failed": float(drawn.failed),
        }

    def present(self, samples: Samples, *, sampler: Sampler, seed: int = 0) -> Mapping[str, Presentation]:
        """Made pictures in a grid."""
        return self.sample(_SHOWN, sampler=sampler, seed=seed)

    def sample(
        self, n: int, *, sampler: Sampler, seed: int = 0, request: Mapping[str, Any] | None = None
    ) -> Mapping[str, Presentation]:
        """A grid of ``n`` pictures; ``request`` may hold a ``label``."""
        from domains.imaging.pipeline import ImageGenerator
        from domains.imaging.present import grid

        known: Sequence[str] = ("label",) if self.classes else ()
        for name in request or {}:
            if name not in known:
                raise UserError(f"pictures cannot be asked for {name!r}: {nearest(name, known)}")
        return {"pictures": grid(ImageGenerator(self, sampler)(n, seed=seed, **(request or {})))}

    def pipeline(self, sampler: Sampler) -> Any:
        """An :class:`domains.imaging.pipeline.ImageGenerator`."""
        from domains.imaging.pipeline import ImageGenerator

        return ImageGenerator(self, sampler)


def pixels(x: Float[Tensor, "*b"]) -> UInt8[Tensor, "*b"]:
    """[-1, 1] to bytes: the cell of 256 that a value lies in; what lies beyond is clipped."""
    return ((x.float() + 1.0) * 128.0).floor().clamp(0.0, 255.0).to(torch.uint8)
