"""One call from a policy to its numbers: rollouts, their summary, and a table with the expert and chance beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from domains.policy.actors import FlowActor, actor_of
from domains.policy.metrics import Summary, summarise
from domains.policy.records import EpisodeRecord
from domains.policy.rollout import EVALUATION_STARTS, rollout


def evaluate_rollouts(
    policy: Any, env_id: str, *, episodes: int, seed: int = 0, envs: int = 8, first_start: int = EVALUATION_STARTS
) -> dict[str, float]:
    """Act and measure; arguments as of :func:`domains.policy.rollout.rollout`.

    Returns:
        ``success`` with ``success_low`` and ``success_high`` (Wilson, 95 %), ``return``, ``max_reward``, ``length``
        (means), ``nfe``, ``nfe_p95`` (network calls of a decision), ``nfe_share_1``, ... (the histogram: share of the
        decisions that took so many calls), ``latency_ms``, ``latency_ms_p95`` (of a decision at batch 1), ``episodes``,
        and ``mode_coverage``. What does not exist (the NFE of a script, modes of an
        environment without any) is left out, so that every value is a finite number.

    Raises:
        UserError: see :func:`domains.policy.rollout.rollout`.
    """
    actor = actor_of(policy)
    records = rollout(actor, env_id, episodes=episodes, seed=seed, envs=envs, first_start=first_start)
    summary = summary_of(actor, env_id, records, seed=seed)
    alone = summary.alone_ms
    values = {
        "success": summary.success.value,
        "success_low": summary.success.low,
        "success_high": summary.success.high,
        "return": summary.reward,
        "max_reward": summary.max_reward,
        "length": summary.length,
        "nfe": summary.network_calls.mean,
        "nfe_p95": summary.network_calls.p95,
        "latency_ms": math.nan if alone is None else alone.p50,
        "latency_ms_p95": math.nan if alone is None else alone.p95,
        "mode_coverage": summary.mode_coverage,
        "episodes": float(summary.episodes),
    }
    decisions = sum(summary.nfe_histogram.values())
    shares = {f"nfe_share_{nfe}": count / decisions for nfe, count in summary.nfe_histogram.items()}
    return {name: value for name, value in {**values, **shares}.items() if math.isfinite(value)}


def summary_of(policy: Any, env_id: str, records: Sequence[EpisodeRecord], *, seed: int = 0) -> Summary:
    """The summary of a rollout of ``policy``, the time of a decision at batch 1 included if it acted here."""
    alone = policy.seconds_alone(seed) if isinstance(policy, FlowActor) else ()
    return summarise(records, modes=len(mode_names(env_id)), seconds_alone=alone)


def mode_names(env_id: str) -> tuple[str, ...]:
    """The ways to succeed in an environment (lanes, routes); () where there is one or none is known."""
    from domains.policy.envs import ENVIRONMENTS

    entry = ENVIRONMENTS.get(env_id)
    return () if entry is None else entry.modes


#: Heads of :func:`table_row`.
TABLE_HEAD = ("who", "success", "95 % interval", "return", "max reward", "steps", "NFE mean/p95/max", "ms a decision")


def table_row(name: str, summary: Summary) -> tuple[str, ...]:
    """A line of a table, all text; dashes where a number does not exist."""
    nfe, alone, success = summary.network_calls, summary.alone_ms, summary.success
    latency = "-"
    if alone is not None:
        latency = f"{alone.p50:.2f} (p95 {alone.p95:.2f})"
    elif not math.isnan(summary.latency_ms.p50):
        latency = f"{summary.latency_ms.p50:.2f} (at batch {summary.latency_batch:.1f})"
    return (
        name,
        f"{100 * success.value:.1f} %",
        f"{100 * success.low:.1f} to {100 * success.high:.1f}",
        f"{summary.reward:.4g}",
        f"{summary.max_reward:.3g}",
        f"{summary.length:.1f}",
        "-" if math.isnan(nfe.mean) else f"{nfe.mean:.2f} / {nfe.p95:g} / {nfe.max:g}",
        latency,
    )
