"""Going on with held-out clips and measuring every frame, beside copying the last one and the codec's ceiling."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from domains.video.evaluation.features import ClipFeatures, feature_set
from domains.video.fitting import fitting
from domains.video.metrics import best_of, copy_last, psnr, ssim
from domains.video.predicting import predict
from domains.video.values import pixels, scaled
from flowkit.random import mix_seed
from flowkit.solvers.sampler import Sampler

if TYPE_CHECKING:
    from domains.video.river import RiverTask
    from flowkit.data import Samples

#: Frames of a clip that Frechet distances compare: its last ones.
WINDOW = 16


@dataclass(frozen=True)
class FrameMeasure:
    """A number for each frame.

    Args:
        name: for tables.
        measure: made and true frames (b, n, c, h, w) in [-1, 1] -> (b, n).
        lower: whether small values are good.
    """

    name: str
    measure: Callable[[Tensor, Tensor], Tensor]
    lower: bool = False

    def best(self, values: Float[Tensor, "samples b n"]) -> Float[Tensor, "b n"]:
        """The curve of each clip's best sample, by its mean over the frames."""
        return -best_of(-values) if self.lower else best_of(values)


PSNR, SSIM = FrameMeasure("psnr", psnr), FrameMeasure("ssim", ssim)


def pips_measure(distance: Callable[[Tensor, Tensor], Tensor]) -> FrameMeasure:
    """PIPS-HED of each frame; grey frames count as coloured ones."""

    def measure(made: Tensor, true: Tensor) -> Tensor:
        shape = made.shape[:2]
        a, b = (x.flatten(0, 1).expand(-1, 3, -1, -1) for x in (made, true))
        parts = zip(a.split(256), b.split(256), strict=True)
        return torch.cat([distance(x, y) for x, y in parts]).unflatten(0, shape)

    return FrameMeasure("pips_hed", measure, lower=True)


@dataclass
class Measured:
    """What was found on n clips of f predicted frames.

    Attributes:
        curves: measure -> ``first`` sample, ``best``, ``mean``, ``copy``, ``codec``, and ``step`` (one step a
            frame, near the mean of all futures) where it was asked for -> (n, f).
        deviations: measure -> (n,), standard deviation of a clip's samples, each averaged over its frames.
        diversity: measure -> (n,), between samples of one clip.
        features: judge of clips -> ``first``, ``step``, ``copy``, ``codec``, ``true`` -> (n, d).
        answers: of the attribute classifier, for the same, attribute -> (n, v) counts.
        counts: ``nfe``, ``network_calls``, ``failed`` -> (n, f), of the first sample.
        window: frames of the clips that judges of clips saw, and how many of them were known.
    """

    curves: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    deviations: dict[str, Tensor] = field(default_factory=dict)
    diversity: dict[str, Tensor] = field(default_factory=dict)
    features: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    answers: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    counts: dict[str, Tensor] = field(default_factory=dict)
    window: tuple[int, int] = (0, 0)


class _Columns:
    """Rows of several tensors, gathered part by part on the CPU."""

    def __init__(self) -> None:
        self._parts: dict[tuple[str, str], list[Tensor]] = {}

    def add(self, group: str, name: str, rows: Tensor) -> None:
        self._parts.setdefault((group, name), []).append(rows.double().cpu())

    def of(self, prefix: str) -> dict[str, dict[str, Tensor]]:
        found: dict[str, dict[str, Tensor]] = {}
        for (group, name), parts in self._parts.items():
            if group.startswith(prefix):
                found.setdefault(group.removeprefix(prefix), {})[name] = torch.cat(parts)
        return found


@torch.no_grad()
def measure(
    task: RiverTask,
    samples: Samples,
    chosen: Sequence[int],
    *,
    sampler: Sampler,
    seed: int = 0,
    number: int = 1,
    measures: Sequence[FrameMeasure] = (PSNR, SSIM),
    judges: Mapping[str, ClipFeatures] | None = None,
    one_step: Sampler | None = None,
    batch: int = 16,
) -> Measured:
    """Go on with the clips ``chosen`` of ``samples`` after their first frames, ``number`` times each.

    Memory holds one batch of clips; the draws do not depend on ``batch``.

    Args:
        task: in evaluation mode.
        samples: a split.
        chosen: clips of it.
        sampler: how to solve.
        seed: of the draws.
        number: predictions of each clip.
        measures: of frames.
        judges: networks that see whole clips, by name; an :class:`AttributeFeatures` also gives its answers.
        one_step: a sampler of one step, for a baseline.
        batch: clips at once.

    Raises:
        UserError: the clips do not fit the task.
    """
    columns, judges, window = _Columns(), judges or {}, (0, 0)
    for start in range(0, len(chosen), batch):
        raw = samples.batch(list(chosen[start : start + batch]))
        clips = fitting(task, raw, least=task.context + 1).to(task.device)
        context, true = clips[:, : task.context], scaled(clips[:, task.context :])
        window = min(WINDOW, clips.shape[1]), max(min(WINDOW, clips.shape[1]) - true.shape[1], 0)
        stand_ins = {"copy": copy_last(scaled(context), true.shape[1]), "codec": _through(task, true)}
        values: dict[str, list[Tensor]] = {m.name: [] for m in measures}
        apart: dict[str, list[Tensor]] = {m.name: [] for m in measures if m.lower}
        before: Tensor | None = None
        for sample in range(number):
            made = predict(
                task, context, true.shape[1], sampler=sampler, seed=mix_seed(seed, sample), first=start,
                actions=actions_of(task, raw),
            )  # fmt: skip
            for m in measures:
                values[m.name].append(m.measure(made.frames, true))
                if m.lower and before is not None:
                    # Samples are drawn alike, so neighbours are as far apart as any two.
                    apart[m.name].append(m.measure(made.frames, before).mean(1))
            before = made.frames
            if sample == 0:
                stand_ins["first"] = made.frames
                for name, count in (
                    ("nfe", made.evaluations), ("network_calls", made.network_calls), ("failed", made.failed),
                ):  # fmt: skip
                    columns.add("counts", name, count)
        if one_step is not None:
            stand_ins["step"] = predict(
                task, context, true.shape[1], sampler=one_step, seed=mix_seed(seed, 0), first=start,
                actions=actions_of(task, raw),
            ).frames  # fmt: skip
        for m in measures:
            stacked = torch.stack(values[m.name]).double()
            rows = {"first": stacked[0], "best": m.best(stacked), "mean": stacked.mean(0)}
            rows |= {kind: m.measure(frames, true) for kind, frames in stand_ins.items() if kind != "first"}
            for kind, curve in rows.items():
                columns.add(f"curve/{m.name}", kind, curve)
            if number > 1:
                columns.add("deviations", m.name, stacked.mean(2).std(0))
            if apart.get(m.name):
                columns.add("diversity", m.name, torch.stack(apart[m.name]).mean(0))
        for name, network in judges.items():
            for kind, frames in {**stand_ins, "true": true}.items():
                shown = torch.cat([context, pixels(frames)], 1)[:, -WINDOW:]
                columns.add(f"features/{name}", kind, _seen(network, shown))
                for attribute, counts in _answers(network, shown):
                    columns.add(f"answers/{kind}", attribute, counts)
    return Measured(
        columns.of("curve/"),
        columns.of("deviations").get("", {}),
        columns.of("diversity").get("", {}),
        columns.of("features/"),
        columns.of("answers/"),
        columns.of("counts").get("", {}),
        window,
    )


@torch.no_grad()
def real_features(
    samples: Samples, rows: Sequence[int], network: ClipFeatures, *, batch: int = 16
) -> Float[Tensor, "n d"]:
    """Features of true clips: of the same last frames as in :func:`measure`."""

    def parts() -> Iterator[Tensor]:
        for start in range(0, len(rows), batch):
            yield coloured(samples.batch(list(rows[start : start + batch]))["frames"][:, -WINDOW:])

    return feature_set(network, parts(), batch=batch)


def coloured(clips: UInt8[Tensor, "b t c h w"]) -> UInt8[Tensor, "b t 3 h w"]:
    """Grey clips as coloured ones."""
    return clips.expand(-1, -1, 3, -1, -1)


def actions_of(task: RiverTask, raw: Mapping[str, Any]) -> Tensor | None:
    """The actions from the last context frame on, where the task reads them."""
    return raw["actions"][:, task.context - 1 :].to(task.device) if task.actions else None


def _seen(network: ClipFeatures, clips: Tensor) -> Tensor:
    return feature_set(network, coloured(clips))


def _answers(network: ClipFeatures, clips: Tensor) -> Iterator[tuple[str, Tensor]]:
    from domains.video.evaluation.attributes import AttributeFeatures

    if isinstance(network, AttributeFeatures):
        yield from network.read(scaled(coloured(clips))).items()


def _through(task: RiverTask, frames: Float[Tensor, "b n c h w"]) -> Tensor:
    return task.decode(task.codec.encode(frames.flatten(0, 1))).unflatten(0, frames.shape[:2])
