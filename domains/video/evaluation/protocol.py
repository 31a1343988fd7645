"""The published protocol of video prediction as a table: one sample, the best of several, their mean, the baselines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from domains.video.evaluation.features import ClipFeatures
from domains.video.evaluation.fvd import VideoFrechet, fvd
from domains.video.evaluation.measuring import PSNR, SSIM, Measured, measure, pips_measure, real_features
from domains.video.evaluation.weights import checksum
from domains.video.judge import frame_metrics
from domains.video.metrics import finite_mean
from flowkit.errors import UserError, nearest
from flowkit.metrics.frechet import frechet_distance
from flowkit.solvers.euler import Euler
from flowkit.solvers.sampler import Sampler
from flowkit.tasks import Report
from flowkit.times.grids import UniformGrid

if TYPE_CHECKING:
    from domains.video.river import RiverTask
    from flowkit.data import Samples

#: Heavy measures, which are asked for by name.
HEAVY = ("pips_hed", "fvd", "attribute_fvd")
#: Frechet distances need this many clips of each kind to say anything at all.
_FEWEST = 8
#: The classifier that ships.
ATTRIBUTES = "video/attributes-sprites"
HEAD = ("measure", "first sample", "best of {}", "mean of {}", "one step", "copy last", "codec", "real")


@dataclass(frozen=True)
class Request:
    """What is asked of an evaluation.

    Args:
        samples: predictions of each clip; 0: the task's own number.
        metrics: of :data:`HEAVY`; ``all`` for those whose weights are there.
        attributes: the attribute classifier: a run, a folder or a name.

    Raises:
        UserError: a value that cannot be.
    """

    samples: int = 0
    metrics: tuple[str, ...] = ()
    attributes: str = ATTRIBUTES

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Request:
        """From the command line's keys ``samples``, ``metrics`` (a list, or names with commas) and ``attributes``."""
        for key in given:
            if key not in ("samples", "metrics", "attributes"):
                raise UserError(f"evaluation of video knows no {key!r}: {nearest(str(key), cls.__annotations__)}")
        number, named = given.get("samples", 0), given.get("metrics", ())
        if not isinstance(number, int) or number < 0:
            raise UserError(f"samples={number!r}: a number of at least 1")
        names = tuple(part.strip() for part in named.split(",")) if isinstance(named, str) else tuple(named)
        for name in names:
            if name not in (*HEAVY, "all"):
                raise UserError(
                    f"no measure {name!r}: {nearest(str(name), [*HEAVY, 'all'])}; psnr and ssim always come"
                )
        return cls(number, names, str(given.get("attributes", ATTRIBUTES)))


def report(
    task: RiverTask,
    samples: Samples,
    *,
    sampler: Sampler,
    seed: int = 0,
    limit: int | None = None,
    request: Mapping[str, Any] | None = None,
) -> Report:
    """Measure on at most ``limit`` clips of a split; without a limit on ``task.evaluate_clips``, and with Frechet
    distances on a third of the split (at most 256): these compare with the clips that were not gone on with.

    Frechet distances see the last 16 frames of each clip, known ones included where fewer were predicted; ``details``
    tell how many.

    Args:
        task: in evaluation mode.
        samples: a split.
        sampler: how to solve.
        seed: of all draws.
        limit: clips to go on with.
        request: see :class:`Request`.

    Raises:
        UserError: a measure's weights are not there, or there are too few or too short clips for it.
    """
    asked = Request.of(request or {})
    if not len(samples):
        return Report({})
    device = task.device
    judges, measures, notes = _judges(asked, task.size, str(device))
    if task.size <= 5:
        measures = [m for m in measures if m is not SSIM]
    chosen, others = _divide(len(samples), limit or (0 if judges else task.evaluate_clips), bool(judges))
    number = asked.samples or task.evaluate_samples
    found = measure(
        task, samples, chosen, sampler=sampler, seed=seed, number=number, measures=measures, judges=judges,
        one_step=_one_step(task, sampler), batch=64 if device.type == "cuda" else 16,
    )  # fmt: skip
    metrics, rows = frame_metrics(found), _frame_rows(found)
    for name, network in judges.items():
        real = real_features(samples, others, network)
        values = {kind: fvd(rows_, real, seed=seed) for kind, rows_ in found.features[name].items() if kind != "true"}
        same = frechet_distance(found.features[name]["first"], found.features[name]["true"])
        first = values["first"]
        metrics |= {
            name: first.value, f"{name}_deviation": first.deviation, f"{name}_real": first.real,
            f"{name}_same_clips": same, f"{name}_clips": float(first.count),
        }  # fmt: skip
        metrics |= {f"{name}_{kind}": value.value for kind, value in values.items() if kind != "first"}
        rows += [_frechet_row(name, values), _row(f"{name}, same clips", same)]
        notes.append(_bias(name, first, found.window))
    for name in found.answers.get("true", {}):
        same_as = {kind: _agreement(found, kind, name) for kind in found.answers if kind != "true"}
        metrics |= {f"same_{name}": same_as["first"], f"same_{name}_copy": same_as["copy"]}
        rows.append(_row(f"same {name}", **same_as))
    rows += [_row(f"{name}, between samples", finite_mean(apart)) for name, apart in found.diversity.items()]
    rows += [
        _row(f"{told} a frame", metrics[key]) for key, told in (("nfe", "NFE"), ("network_calls", "network calls"))
    ]
    details = {
        "clips": len(chosen), "samples": number, "context": task.context, "window": found.window[0],
        "window_known": found.window[1],
        "judges": {name: checksum(getattr(judge, "network", judge).state_dict()) for name, judge in judges.items()},
        "curves": {name: {k: _curve(v) for k, v in kinds.items()} for name, kinds in found.curves.items()},
    }  # fmt: skip
    return Report(metrics, (tuple(cell.format(number) for cell in HEAD), *rows), details, notes)


def _judges(asked: Request, size: int, device: str) -> tuple[dict[str, ClipFeatures], list[Any], list[str]]:
    """Networks that see clips, measures of frames, and what could not be had of ``all``."""
    from domains.video.evaluation.attributes import AttributeFeatures, load_attributes
    from domains.video.evaluation.features import load_i3d
    from domains.video.evaluation.pips_hed import LEAST_SIDE, load_pips_hed

    makers = {
        "pips_hed": lambda: load_pips_hed(device=device),
        "fvd": lambda: load_i3d(device=device),
        "attribute_fvd": lambda: load_attributes(asked.attributes, device),
    }
    judges: dict[str, ClipFeatures] = {}
    measures: list[Any] = [PSNR, SSIM]
    notes: list[str] = []
    for name, make in makers.items():
        if name not in asked.metrics and "all" not in asked.metrics:
            continue
        try:
            made = make()
            wanted = made.size if isinstance(made, AttributeFeatures) else size
            if wanted != size or (name == "pips_hed" and size < LEAST_SIDE):
                sides = f"of {wanted}" if wanted != size else f"of at least {LEAST_SIDE}"
                raise UserError(f"{name} sees frames {sides} pixels a side, the model's have {size}")
        except UserError as error:
            if name in asked.metrics:
                raise
            notes.append(f"{name} is left out: {error}")
            continue
        if isinstance(made, ClipFeatures):
            judges[name] = made
        else:
            measures.append(pips_measure(made))
    return judges, measures, notes


def _one_step(task: RiverTask, sampler: Sampler) -> Sampler | None:
    """A step of Euler's method a frame: a baseline of the published protocol, near the mean of all futures; None where
    the objective samples otherwise."""
    single = replace(sampler, solver=Euler(), steps=1, grid=UniformGrid(), controller=None)
    try:
        task.objective.check_sampler(single)
    except UserError:
        return None
    return single


def _divide(available: int, limit: int, compares: bool) -> tuple[list[int], list[int]]:
    """Clips to go on with, evenly spread, and the others."""
    most = available // 3 if compares else available
    count = min(limit or 256, most)
    if compares and count < _FEWEST:
        raise UserError(
            f"Frechet distances need at least {3 * _FEWEST} clips: {count} are gone on with, and twice as many others "
            f"are compared with; the split has {available}"
        )
    chosen = np.linspace(0, available - 1, count).astype(np.int64)
    others = np.setdiff1d(np.arange(available), chosen)
    # Each resampling draws 2 N of them; more than 4 N would only cost time.
    kept = np.linspace(0, len(others) - 1, min(len(others), 4 * count)).astype(np.int64)
    return chosen.tolist(), others[kept].tolist()


def _agreement(found: Measured, kind: str, name: str) -> float:
    from domains.video.evaluation.attributes import agreement

    return float(agreement(found.answers[kind][name], found.answers["true"][name]).mean())


def _frame_rows(found: Measured) -> list[tuple[str, ...]]:
    rows = []
    for name, kinds in found.curves.items():
        mean = _text(finite_mean(kinds["mean"]))
        if name in found.deviations:
            mean += f" +- {finite_mean(found.deviations[name]):.2g}"
        first, best = (_text(finite_mean(kinds[kind])) for kind in ("first", "best"))
        beside = (_text(finite_mean(kinds[kind])) if kind in kinds else "-" for kind in ("step", "copy", "codec"))
        rows.append((name, first, best, mean, *beside, "-"))
    return rows


def _frechet_row(name: str, values: Mapping[str, VideoFrechet]) -> tuple[str, ...]:
    first = values["first"]
    beside = (f"{values[kind].value:.4g}" if kind in values else "-" for kind in ("step", "copy", "codec"))
    return (
        f"{name} (N = {first.count})", f"{first.value:.4g} +- {first.deviation:.2g}", "-", "-", *beside,
        f"{first.real:.4g}",
    )  # fmt: skip


def _bias(name: str, found: VideoFrechet, window: tuple[int, int]) -> str:
    return (
        f"{name} is biased upwards, less so at larger N: two sets of {found.count} real clips are at "
        f"{found.real:.4g}; compare values of this N and such clips only ({window[0]} frames, {window[1]} known)"
    )


def _row(name: str, first: float, **others: float) -> tuple[str, ...]:
    """A line that knows the first sample alone, and perhaps what stands beside it."""
    beside = (_text(others[kind]) if kind in others else "-" for kind in ("step", "copy", "codec"))
    return (name, _text(first), "-", "-", *beside, "-")


def _text(value: float) -> str:
    return f"{value:.4g}" if np.isfinite(value) else "lossless"


def _curve(values: Any) -> list[float | None]:
    columns = (finite_mean(column) for column in values.T)
    return [value if np.isfinite(value) else None for value in columns]
