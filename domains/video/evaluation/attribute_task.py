"""Training the attribute classifier: a task of its own, and clips that bring their attributes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from domains.video.data.clips import ClipSamples
from domains.video.evaluation.attributes import AttributeFeatures, AttributeNetwork, agreement, counts_of, decided
from domains.video.evaluation.worsening import KINDS, check_shares, passed, worsened
from domains.video.values import scaled
from flowkit.couplings.coupling import Batch
from flowkit.data import DataSource, RawBatch, Samples, Split
from flowkit.errors import UserError, nearest
from flowkit.objectives.objective import Loss, Networks
from flowkit.objectives.own_loss import OwnLoss
from flowkit.present import Text
from flowkit.random import RandomSource
from flowkit.solvers.sampler import Sampler
from flowkit.tasks import Presentation, Task

#: Clips at once in evaluations.
_BATCH = 64
_PREFIX = "attribute/"


class AttributedClips(Samples):
    """Clips whose batches also bring ``attribute/NAME`` (b, K) int64, K objects (1 where it is the clip's)."""

    def __init__(self, clips: ClipSamples) -> None:
        self.clips = clips

    def __len__(self) -> int:
        return len(self.clips)

    def batch(self, indices: Sequence[int]) -> RawBatch:
        raw = self.clips.batch(indices)
        for name, values in self.clips.attributes(indices).items():
            if values.dtype.kind in "iub" and values.ndim <= 2:
                whole = np.ascontiguousarray(values.reshape(len(values), -1), dtype=np.int64)
                raw[_PREFIX + name] = torch.from_numpy(whole)
        return raw


class WithAttributes(DataSource):
    """Another source whose batches bring what is known of their clips: whole numbers, of the clip or of its objects.

    Args:
        clips: the source; it must know attributes, as :class:`BouncingSprites` does.
    """

    def __init__(self, clips: DataSource) -> None:
        self.clips = clips

    def prepare(self) -> None:
        self.clips.prepare()

    def split(self, name: Split) -> AttributedClips:
        samples = self.clips.split(name)
        if not isinstance(samples, ClipSamples):
            raise UserError(f"data.init_args.clips is {type(self.clips).__name__}, which is no source of video clips")
        return AttributedClips(samples)

    def statistics(self) -> Mapping[str, Any]:
        return self.clips.statistics()


class AttributeClassifier(Task):
    """loss = mean over the attributes of the cross-entropy of their values' counts, summed over the values.

    With ``worsening`` a share of the training clips is made worse by drawn amounts, and what was done to them counts as
    further attributes: the features then tell good clips from bad ones too. Evaluations see good clips alone.

    Args:
        attributes: attribute -> number of its values, 0 to that less 1; what lies beyond counts as the last (``bounces:
            2`` is whether there was one).
        size: height and width of the frames, pixels.
        objects: of each clip that the attributes are known of.
        of_clip: those of the attributes that are the clip's, whatever the number of objects.
        widths: of the blocks of the network, multiples of 8.
        features: width of the features.
        texture: filters that see how rough frames are, whatever is in them; 0: none. See
            :class:`~domains.video.evaluation.attributes.Texture`.
        worsening: ``noise``, ``blur``, ``reversed`` -> share of the training clips; see
            :mod:`domains.video.evaluation.worsening`. The attributes of reversed clips are not learnt.

    Raises:
        UserError: a number out of range.
    """

    def __init__(
        self,
        attributes: dict[str, int],
        *,
        size: int,
        objects: int = 1,
        of_clip: list[str] = [],  # noqa: B006
        widths: list[int] = [32, 64, 128, 128],  # noqa: B006  (recipes read the default from this line)
        features: int = 128,
        texture: int = 0,
        worsening: dict[str, float] = {},  # noqa: B006
    ) -> None:
        super().__init__()
        lowest = (("size", size, 16), ("objects", objects, 1), ("features", features, 1), ("texture", texture, 0))
        for name, value, least in lowest:
            if value < least:
                raise UserError(f"AttributeClassifier: {name} must be at least {least}, not {value}")
        if not attributes or min(attributes.values()) < 2:
            raise UserError(
                f"AttributeClassifier: attributes={attributes}: name one or more, each with 2 values or more"
            )
        if not widths or any(width < 8 or width % 8 for width in widths):
            raise UserError(f"AttributeClassifier: widths={widths}: multiples of 8 are needed")
        for name in of_clip:
            if name not in attributes:
                raise UserError(f"AttributeClassifier: of_clip names {name!r}: {nearest(name, attributes)}")
        check_shares(worsening)
        if twice := sorted(set(worsening) & set(attributes)):
            raise UserError(f"AttributeClassifier: {twice[0]!r} is an attribute of the data: take it out of worsening")
        known = {name: 1 if name in of_clip or name in worsening else objects for name in (*attributes, *worsening)}
        self.size, self.attributes, self.worsening = size, tuple(attributes), dict(worsening)
        self.objective, self.networks = OwnLoss(), Networks({})
        values = attributes | {kind: KINDS[kind] for kind in worsening}
        self.network = AttributeNetwork(values, objects=known, widths=widths, features=features, texture=texture)

    def adapt(self, data: DataSource) -> None:
        """Check that the data's frames and attributes fit.

        Raises:
            UserError: they do not.
        """
        size = data.statistics()["size"]
        if size != self.size:
            raise UserError(f"task.init_args.size is {self.size}, the data has {size}: set one to the other")
        self._targets(data.split("train").batch([0]))

    def _targets(self, raw: RawBatch) -> dict[str, Tensor]:
        found = {}
        for name in self.attributes:
            number = self.network.values[name]
            if _PREFIX + name not in raw:
                known = [key.removeprefix(_PREFIX) for key in raw if key.startswith(_PREFIX)]
                hint = nearest(name, known) if known else "wrap the source in WithAttributes"
                raise UserError(f"the data knows no attribute {name!r}: {hint}")
            values = raw[_PREFIX + name]
            wanted = self.network.objects[name]
            if values.shape[1] != wanted:
                raise UserError(
                    f"the data knows {name!r} of {values.shape[1]} objects, the task wants {wanted}: set "
                    "task.init_args.objects, or name what is the clip's in of_clip"
                )
            found[name] = counts_of(values, number)
        return found

    def prepare(self, raw: RawBatch, generator: RandomSource | None = None) -> Batch:
        """The clips in [-1, 1]."""
        return Batch(x1=scaled(raw["frames"]))

    def forward(
        self, raw: RawBatch, *, phase: str = "main", step: int = 0, generator: RandomSource | None = None
    ) -> Loss:
        """Cross-entropies; a term for each attribute and for each way of making clips worse."""
        clips, targets, holds = scaled(raw["frames"]), self._targets(raw), None
        if self.worsening and self.training:
            clips, levels, holds = worsened(clips, self.worsening, generator)
            targets |= {kind: passed(level, KINDS[kind]) for kind, level in levels.items()}
        answers, terms = self.network(clips), {}
        for name, counts in targets.items():
            term = F.cross_entropy(answers[name].float().movedim(2, 1), counts, reduction="none").sum(1)
            terms[name] = term if holds is None or name in self.worsening else term * holds
        return Loss(torch.stack(list(terms.values())).mean(), terms)

    @torch.no_grad()
    def evaluate(
        self, samples: Samples, *, sampler: Sampler, seed: int = 0, limit: int | None = None
    ) -> dict[str, float]:
        """``accuracy_NAME``: share of the objects whose value was found, and ``accuracy``, their mean."""
        count = len(samples) if limit is None else min(limit, len(samples))
        sums: dict[str, float] = {}
        was = self.training
        self.eval()
        for start in range(0, count, _BATCH):
            raw = samples.batch(range(start, min(start + _BATCH, count)))
            answers = self.network(scaled(raw["frames"].to(self.device)))
            for name, counts in self._targets(raw).items():
                right = agreement(decided(answers[name], self.network.objects[name]).cpu(), counts)
                sums[name] = sums.get(name, 0.0) + float(right.double().sum())
        self.train(was)
        found = {f"accuracy_{name}": value / count for name, value in sums.items()}
        return found | ({"accuracy": sum(found.values()) / len(found)} if found else {})

    def sample(
        self, n: int, *, sampler: Sampler, seed: int = 0, request: Mapping[str, Any] | None = None
    ) -> Mapping[str, Presentation]:
        """A line that says that it makes nothing."""
        return {"answers": Text("a classifier makes no samples: it judges, see flowkit evaluate")}

    def pipeline(self, sampler: Sampler) -> AttributeFeatures:
        """Its features and answers for clips; see :class:`AttributeFeatures`."""
        return AttributeFeatures(self).eval()
