"""Measures of rollouts: success with its interval, returns, calls and time per decision, modes, smoothness."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from domains.policy.records import EpisodeRecord

#: Share of the successful episodes from which a mode counts as used.
USED_SHARE = 0.1


@dataclass(frozen=True)
class Estimate:
    """A value with the interval that its uncertainty gives it."""

    value: float
    low: float
    high: float


def wilson(successes: int, n: int, *, confidence: float = 0.95) -> Estimate:
    """A rate k / n with Wilson's score interval (Wilson 1927), which stays inside [0, 1] and is honest at k = 0 and n.

    Centre (p + z^2/2n) / (1 + z^2/n), half width z sqrt(p(1-p)/n + z^2/4n^2) / (1 + z^2/n).

    Raises:
        ValueError: k is not in 0..n, or n is 0.
    """
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"{successes} of {n} is no rate")
    z, p = NormalDist().inv_cdf(0.5 + confidence / 2), successes / n
    scale = 1 + z * z / n
    centre = (p + z * z / (2 * n)) / scale
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / scale
    # Exactly 0 and 1 at the ends, where the formula leaves a rounding error.
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return Estimate(p, low, high)


def hierarchical_bootstrap(
    groups: Sequence[Sequence[float]], *, draws: int = 2000, confidence: float = 0.95, seed: int = 0
) -> Estimate:
    """The mean over groups (training seeds) of the means of their episodes, with a percentile interval.

    Each draw takes as many groups with replacement, then in each as many episodes with replacement, so that both the
    training's luck and the episodes' luck count.

    Raises:
        ValueError: no group, or an empty one.
    """
    if not groups or any(len(group) == 0 for group in groups):
        raise ValueError("every training seed needs an episode")
    generator = np.random.default_rng(seed)
    arrays = [np.asarray(group, np.float64) for group in groups]
    means = np.empty(draws)
    for draw in range(draws):
        chosen = generator.integers(len(arrays), size=len(arrays))
        means[draw] = np.mean([_resampled_mean(arrays[i], generator) for i in chosen])
    return _percentiles(float(np.mean([a.mean() for a in arrays])), means, confidence)


def paired_bootstrap(
    a: Mapping[int, float], b: Mapping[int, float], *, draws: int = 2000, confidence: float = 0.95, seed: int = 0
) -> Estimate:
    """Mean of a - b over the starts that both have, with a percentile interval: starts are resampled in pairs.

    Raises:
        ValueError: they have no start in common.
    """
    common = sorted(set(a) & set(b))
    if not common:
        raise ValueError("the two rollouts have no start in common")
    differences = np.array([float(a[start]) - float(b[start]) for start in common])
    generator = np.random.default_rng(seed)
    means = differences[generator.integers(len(common), size=(draws, len(common)))].mean(1)
    return _percentiles(float(differences.mean()), means, confidence)


def _resampled_mean(values: np.ndarray, generator: np.random.Generator) -> float:
    return float(values[generator.integers(len(values), size=len(values))].mean())


def _percentiles(value: float, means: np.ndarray, confidence: float) -> Estimate:
    tail = 50 * (1 - confidence)
    low, high = np.percentile(means, [tail, 100 - tail])
    return Estimate(value, float(low), float(high))


@dataclass(frozen=True)
class Spread:
    """Mean, median, 95th percentile and largest of some numbers; all NaN where there are none."""

    mean: float
    p50: float
    p95: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Measure ``values``."""
        if not len(values):
            return cls(math.nan, math.nan, math.nan, math.nan)
        array = np.asarray(values, np.float64)
        p50, p95 = np.percentile(array, [50, 95])
        return cls(float(array.mean()), float(p50), float(p95), float(array.max()))


@dataclass(frozen=True)
class Summary:
    """What a rollout says about a policy.

    Args:
        episodes: how many.
        success: rate with Wilson's 95 % interval; a breakdown of the environment counts as no success.
        reward, max_reward, length, jerk: means over episodes (of the sum, the largest reward, steps, see ``jerk``).
        nfe: evaluations of the flow's field per decision, every decision alike.
        network_calls: the same in calls of networks (both halves of guidance count): what tables call NFE.
        nfe_histogram: network calls -> decisions.
        latency_ms: of a planning call, for as many rows as it planned at once (``latency_batch``, the mean).
        alone_ms: of a decision at batch 1 (measured apart, warm), or None.
        sigma: percentiles 10, 50, 90 of the predicted spread at t = 0, or None.
        modes: mode -> share of the successful episodes with a mode.
        mode_entropy: of these shares, in nats.
        mode_coverage: share of the environment's modes that at least a tenth of the successful episodes used, or NaN.
        switches: mean number of changes of mode within an episode.
        failed: episodes in which the environment broke down.
    """

    episodes: int
    success: Estimate
    reward: float
    max_reward: float
    length: float
    jerk: float
    nfe: Spread
    network_calls: Spread
    nfe_histogram: dict[str, int]
    latency_ms: Spread
    latency_batch: float
    alone_ms: Spread | None
    sigma: tuple[float, float, float] | None
    modes: dict[str, float]
    mode_entropy: float
    mode_coverage: float
    switches: float
    failed: int

    def to_json(self) -> dict[str, Any]:
        """A plain nested dict; None stands where a number does not exist."""
        return _without_nan(asdict(self))


def summarise(records: Sequence[EpisodeRecord], *, modes: int = 0, seconds_alone: Sequence[float] = ()) -> Summary:
    """Measure the records of a rollout.

    Args:
        records: at least one.
        modes: how many modes the environment has (0: no modes, or unknown).
        seconds_alone: of decisions at batch 1, see :meth:`domains.policy.actors.FlowActor.seconds_alone`.

    Raises:
        ValueError: no records.
    """
    decisions = [decision for record in records for decision in record.decisions]
    calls = [decision.network_calls for decision in decisions]
    sigmas = [decision.sigma for decision in decisions if decision.sigma is not None]
    taken = Counter(record.mode for record in records if record.success and record.mode is not None)
    shares = {mode: count / taken.total() for mode, count in sorted(taken.items())}
    return Summary(
        episodes=len(records),
        success=wilson(sum(record.success for record in records), len(records)),
        reward=_mean(records, lambda r: r.reward),
        max_reward=_mean(records, lambda r: r.max_reward),
        length=_mean(records, lambda r: float(r.length)),
        jerk=_mean([r for r in records if r.jerk is not None], lambda r: r.jerk or 0.0),
        nfe=Spread.of([decision.nfe for decision in decisions]),
        network_calls=Spread.of(calls),
        nfe_histogram={f"{value:g}": count for value, count in sorted(Counter(calls).items())},
        latency_ms=Spread.of([1e3 * decision.seconds for decision in decisions]),
        latency_batch=float(np.mean([d.batch for d in decisions])) if decisions else math.nan,
        alone_ms=Spread.of([1e3 * s for s in seconds_alone]) if len(seconds_alone) else None,
        sigma=_deciles(sigmas) if sigmas else None,
        modes={str(mode): share for mode, share in shares.items()},
        mode_entropy=sum(-share * math.log(share) for share in shares.values()) if shares else math.nan,
        mode_coverage=sum(share >= USED_SHARE for share in shares.values()) / modes if modes else math.nan,
        switches=_mean(records, lambda r: float(r.switches)),
        failed=sum(bool(record.failed) for record in records),
    )


def _deciles(values: Sequence[float]) -> tuple[float, float, float]:
    low, middle, high = np.percentile(values, [10, 50, 90])
    return float(low), float(middle), float(high)


def _mean(records: Sequence[EpisodeRecord], of: Callable[[EpisodeRecord], float]) -> float:
    return float(np.mean([of(record) for record in records])) if records else math.nan


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value
