"""A small network that reads known attributes off clips of made video: which sprites, how fast, in which direction.

I3D was trained on people and hardly sees which sprite moves where. This one was trained to see nothing else; its last
layer before the answers gives the features of the "attribute FVD". Use it as FID by a digit classifier is used on
MNIST: beside other numbers, on the source that it was trained on, in this project only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from domains.video.evaluation.features import ClipFeatures
from flowkit.errors import UserError

if TYPE_CHECKING:
    from domains.video.evaluation.attribute_task import AttributeClassifier

#: Places in time that the last layers keep apart.
_TIMES = 4


class Unit(nn.Module):
    """A (2+1)D convolution: 3 x 3 in space, then 3 in time, each normalised by groups; Tran et al. 2018 (arXiv
    1711.11248)."""

    def __init__(self, inputs: int, outputs: int, *, space: int = 1, time: int = 1) -> None:
        super().__init__()
        self.space = nn.Conv3d(inputs, outputs, (1, 3, 3), (1, space, space), (0, 1, 1), bias=False)
        self.time = nn.Conv3d(outputs, outputs, (3, 1, 1), (time, 1, 1), (1, 0, 0), bias=False)
        self.norms = nn.ModuleList([nn.GroupNorm(8, outputs), nn.GroupNorm(8, outputs)])

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Tensor:
        x = F.relu(self.norms[0](self.space(x)))
        return F.relu(self.norms[1](self.time(x)))


class Texture(nn.Module):
    """How rough frames are: each pixel less the mean of the 3 x 3 around it goes through ``width`` 3 x 3 filters, and
    of each the mean over all places of log(1 + r^2 / e) / 2 is told: 0 where all is flat.

    Noise of a few steps of 255 has less energy in a whole clip than one edge of a sprite, and each normalisation by
    the deviation of a layer divides it by that edge. A mean of logarithms counts the places that are rough instead,
    and nothing is normalised.
    """

    def __init__(self, width: int, *, least: float = 1e-5) -> None:
        super().__init__()
        self.filters = nn.Parameter(torch.randn(width, 3, 1, 3, 3) / 27**0.5)
        self.least = least

    def forward(self, x: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b d"]:
        # What half precision rounds off would pass for noise. The mean first: where a picture is flat, what is left is
        # 0 exactly, whatever a device makes of the filters.
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            left = x[..., 1:-1, 1:-1] - F.avg_pool3d(x, (1, 3, 3), stride=1)
            rough = torch.log1p(F.conv3d(left, self.filters.float()).square() / self.least)
            return rough.mean((2, 3, 4)) / 2


class AttributeNetwork(nn.Module):
    """Clips to features and to a guess of how often each value of each attribute occurs among a clip's objects.

    Counting needs no order of the objects: two sprites have no first and second.

    Args:
        values: attribute -> how many values it has.
        objects: attribute -> of how many objects of a clip it is known; 1 for an attribute of the clip.
        widths: of the four blocks, multiples of 8; each halves the frames' sides.
        features: width of the last layer before the answers.
        texture: filters of :class:`Texture` beside the blocks; 0: none.
    """

    def __init__(
        self,
        values: Mapping[str, int],
        *,
        objects: Mapping[str, int],
        widths: Sequence[int] = (32, 64, 128, 128),
        features: int = 128,
        texture: int = 0,
    ) -> None:
        super().__init__()
        self.values, self.objects, self.width = dict(values), dict(objects), features
        blocks, last = [], 6
        for place, width in enumerate(widths):
            # The first two keep every frame: a direction may last for two of them.
            blocks += [Unit(last, width, space=2, time=1 if place < 2 else 2)]
            if place < len(widths) - 1:
                blocks += [Unit(width, width)]
            last = width
        self.blocks = nn.Sequential(*blocks)
        self.dense = nn.Linear(last * _TIMES + texture, features)
        self.answers = nn.Linear(
            features, sum(number * (self.objects[name] + 1) for name, number in self.values.items())
        )
        self.texture = Texture(texture) if texture else None

    def features(self, clips: Float[Tensor, "b t 3 h w"]) -> Float[Tensor, "b d"]:
        """The layer before the answers, for clips in [-1, 1]."""
        x = clips.transpose(1, 2)
        # Where and when: means over places would forget it.
        axes = [torch.linspace(-1, 1, n, device=x.device, dtype=x.dtype) for n in x.shape[2:]]
        where = torch.stack(torch.meshgrid(*axes, indexing="ij")).expand(len(x), 3, *x.shape[2:])
        seen = F.adaptive_avg_pool1d(self.blocks(torch.cat([x, where], 1)).mean((3, 4)), _TIMES).flatten(1)
        if self.texture is not None:
            seen = torch.cat([seen, self.texture(x)], 1)
        return F.relu(self.dense(seen))

    def forward(self, clips: Float[Tensor, "b t 3 h w"]) -> dict[str, Float[Tensor, "b v k"]]:
        """Logits of the counts 0 .. objects of each value of each attribute."""
        sizes = {name: (number, self.objects[name] + 1) for name, number in self.values.items()}
        answers = self.answers(self.features(clips)).split([v * k for v, k in sizes.values()], 1)
        return {name: x.unflatten(1, size) for (name, size), x in zip(sizes.items(), answers, strict=True)}


def counts_of(values: Int[Tensor, "b k"], number: int) -> Int[Tensor, "b v"]:
    """How often each of 0 .. number - 1 occurs in a row; what lies beyond the last counts as the last."""
    return F.one_hot(values.clamp(0, number - 1).long(), number).sum(1)


def decided(logits: Float[Tensor, "b v k"], objects: int) -> Int[Tensor, "b v"]:
    """The likeliest counts that sum to ``objects``, values taken as independent: exact, by dynamic programming."""
    chance = logits.float().log_softmax(-1)
    # best[:, s]: of the values so far, with s objects in all; came[v][:, s]: how many of them have value v.
    best = chance.new_full((len(chance), objects + 1), -torch.inf)
    best[:, 0] = 0.0
    came = []
    for v in range(chance.shape[1]):
        # Place (s, c): c objects of this value, s - c before.
        table = best.new_full((len(best), objects + 1, objects + 1), -torch.inf)
        for c in range(objects + 1):
            table[:, c:, c] = best[:, : objects + 1 - c] + chance[:, v, c, None]
        best, taken = table.max(-1)
        came.append(taken)
    left = torch.full((len(chance), 1), objects, device=logits.device)
    counts = []
    for taken in reversed(came):
        counts.append(taken.gather(1, left))
        left = left - counts[-1]
    return torch.cat(counts[::-1], 1)


def agreement(first: Int[Tensor, "b v"], second: Int[Tensor, "b v"]) -> Float[Tensor, " b"]:
    """Share of the objects on whose values two rows of counts agree."""
    return torch.minimum(first, second).sum(1) / second.sum(1).clamp(min=1)


class AttributeFeatures(ClipFeatures):
    """The features of a trained classifier, and its answers."""

    name, least = "attributes", 2

    def __init__(self, task: AttributeClassifier) -> None:
        super().__init__()
        self.network, self.size, self.attributes = task.network, task.size, task.attributes

    @torch.no_grad()
    def forward(self, clips: Float[Tensor, "b t 3 h w"]) -> Float[Tensor, "b d"]:
        return self.network.features(self._checked(clips))

    @torch.no_grad()
    def read(self, clips: Float[Tensor, "b t 3 h w"]) -> dict[str, Int[Tensor, "b v"]]:
        """The classifier's answers: attribute -> counts of its values."""
        answers = self.network(self._checked(clips))
        return {name: decided(answers[name], self.network.objects[name]) for name in self.attributes}

    def _checked(self, clips: Tensor) -> Tensor:
        if tuple(clips.shape[2:]) != (3, self.size, self.size):
            raise UserError(f"the attribute classifier sees frames of 3 x {self.size} x {self.size}, not "
                            f"{' x '.join(map(str, clips.shape[2:]))}")  # fmt: skip
        return clips.float()


def load_attributes(name: str | Path, device: str | torch.device = "cpu") -> AttributeFeatures:
    """A trained classifier: its run folder, ``save_pretrained`` folder or name.

    Raises:
        UserError: there is none, or it is another kind of model.
    """
    from domains.video.evaluation.attribute_task import AttributeClassifier
    from flowkit.artifacts import from_pretrained, pretrained_names

    way = "train one with flowkit train video/attributes-sprites, and give its folder: --request attributes=RUN"
    if not Path(name).exists() and str(name) not in pretrained_names():
        raise UserError(f"the attribute classifier {name} is not here: {way}")
    task = from_pretrained(name, device=device).task
    if not isinstance(task, AttributeClassifier):
        raise UserError(f"{name} is a {type(task).__name__}, not an AttributeClassifier: {way}")
    return AttributeFeatures(task).eval()
