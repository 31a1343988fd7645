"""The tables of ``benchmarks/policies.py``: read the episodes of many networks, compare methods on the same starts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from domains.policy.metrics import Estimate, hierarchical_bootstrap, paired_bootstrap, wilson
from domains.policy.records import EpisodeRecord
from flowkit.errors import UserError


@dataclass(frozen=True)
class Method:
    """A training and a sampler on one environment: seed of the training -> its episodes."""

    environment: str
    training: str
    sampler: str
    seeds: dict[int, list[EpisodeRecord]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """As the tables print it."""
        return f"{self.training}, {self.sampler}" if self.sampler else self.training

    def success(self) -> Estimate:
        """Mean over seeds with a bootstrap over seeds, then episodes; Wilson's interval where there is one seed."""
        groups = [[float(r.success) for r in records] for records in self.seeds.values()]
        if len(groups) == 1:
            return wilson(int(sum(groups[0])), len(groups[0]))
        return hierarchical_bootstrap(groups)

    def by_seed(self) -> list[float]:
        """Success of each training seed."""
        return [float(np.mean([r.success for r in records])) for _, records in sorted(self.seeds.items())]

    def decisions(self, what: str) -> np.ndarray:
        """One column of all decisions."""
        values = [getattr(d, what) for records in self.seeds.values() for r in records for d in r.decisions]
        return np.asarray([v for v in values if v is not None], np.float64)

    def lanes(self) -> dict[int, float]:
        """Mode -> share of the successful episodes."""
        taken = [r.mode for records in self.seeds.values() for r in records if r.success and r.mode is not None]
        return {mode: taken.count(mode) / len(taken) for mode in sorted(set(taken))} if taken else {}


def difference(pairs: Sequence[tuple[Method, Method]]) -> tuple[Estimate, Estimate, int]:
    """Success of the first minus the second on the same (environment, training seed, start), pooled.

    Returns:
        With the interval of a bootstrap over starts, of one over (environment, seed) and then starts, and how many
        paired starts there were.

    Raises:
        UserError: they have no start in common.
    """
    one: dict[int, float] = {}
    other: dict[int, float] = {}
    groups = []
    for a, b in pairs:
        for seed in sorted(set(a.seeds) & set(b.seeds)):
            mine = {r.start: float(r.success) for r in a.seeds[seed]}
            theirs = {r.start: float(r.success) for r in b.seeds[seed]}
            common = sorted(set(mine) & set(theirs))
            for start in common:
                one[len(one)], other[len(other)] = mine[start], theirs[start]
            if common:
                groups.append([mine[s] - theirs[s] for s in common])
    if not groups:
        raise UserError("the methods to compare have no episodes in common: run more of the benchmark")
    return paired_bootstrap(one, other), hierarchical_bootstrap(groups), len(one)


def _points(estimate: Estimate) -> str:
    """In points of a hundred."""
    return f"{100 * estimate.value:+.1f} ({100 * estimate.low:.1f} to {100 * estimate.high:.1f})"


_ADAPTIVE = [("flow", f"adaptive eta {eta}, at most {n}") for eta, n in (("0.25", 5), ("0.125", 5), ("0.0625", 20))]
#: What is compared on the same starts: (training, sampler) twice.
CLAIMS = [
    (adaptive, other)
    for adaptive in _ADAPTIVE
    for other in (
        ("diffusion", "DDIM 1"), ("diffusion", "DDIM 10"), ("bc", "one call"),
        ("flow", "Euler 2"), ("flow", "Euler 3"), ("flow", "Euler 5"),
    )
]  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """Everything a folder of the benchmark holds."""

    methods: dict[tuple[str, str, str], Method]

    @classmethod
    def read(cls, folder: Path) -> Comparison:
        """Read every finished rollout.

        Raises:
            UserError: there is none.
        """
        methods: dict[tuple[str, str, str], Method] = {}
        for file in sorted(folder.glob("*/*/*.json")):
            content = json.loads(file.read_text(encoding="utf-8"))
            if "episodes" not in content:
                continue
            key = (content["environment"], content["training"], content["sampler"])
            method = methods.setdefault(key, Method(*key))
            method.seeds[content["seed"]] = [EpisodeRecord.from_json(e) for e in content["episodes"]]
        if not methods:
            raise UserError(f"{folder} holds no finished rollouts")
        return cls(methods)

    @property
    def environments(self) -> list[str]:
        """In the order they were read."""
        return list(dict.fromkeys(key[0] for key in self.methods))

    def of(self, environment: str) -> Iterator[Method]:
        """The methods of one environment, references first."""
        found = [m for m in self.methods.values() if m.environment == environment]
        yield from sorted(found, key=lambda m: (m.sampler != "", m.training, len(m.sampler), m.sampler))

    def pairs(
        self, one: tuple[str, str], other: tuple[str, str], environments: Sequence[str]
    ) -> list[tuple[Method, Method]]:
        """The same two methods on several environments."""
        return [
            (self.methods[(e, *one)], self.methods[(e, *other)])
            for e in environments
            if (e, *one) in self.methods and (e, *other) in self.methods
        ]

    def tables(self) -> str:
        """A Markdown table an environment."""
        return "\n\n".join(f"### {e}\n\n{self.table(e)}" for e in self.environments)

    def table(self, environment: str) -> str:
        """Success with its interval, each seed, evaluations and network calls a decision, modes."""
        lines = [
            "| method | success (95 %) | seeds | NFE mean | NFE p95 | calls mean | modes |",
            "|---|---|---|---|---|---|---|",
        ]
        for method in self.of(environment):
            rate, nfe, calls = method.success(), method.decisions("nfe"), method.decisions("network_calls")
            counted = f"{nfe.mean():.2f} | {np.percentile(nfe, 95):.0f} | {calls.mean():.2f}" if len(nfe) else " | | "
            modes = " / ".join(f"{share:.0%}" for share in method.lanes().values())
            seeds = " ".join(f"{value:.3f}" for value in method.by_seed())
            success = f"{rate.value:.3f} ({rate.low:.3f} to {rate.high:.3f})"
            lines.append(f"| {method.name} | {success} | {seeds} | {counted} | {modes} |")
        return "\n".join(lines)

    def claims(self) -> str:
        """Differences of success on the same starts, pooled over environments: a Markdown table.

        Two intervals: starts drawn, and (environment, training seed) drawn before the starts.
        """
        fork = [e for e in self.environments if "Fork" in e]
        groups = {"all": self.environments, "without the fork": [e for e in self.environments if e not in fork]}
        groups |= {"Meta-World": [e for e in self.environments if "MetaWorld" in e], "fork": fork}
        lines = [
            "| environments | difference | paired starts | starts drawn | environments, seeds drawn | NFE, first |",
            "|---|---|---|---|---|---|",
        ]
        for name, environments in groups.items():
            for one, other in CLAIMS:
                pairs = self.pairs(one, other, environments)
                if not pairs:
                    continue
                *estimates, n = difference(pairs)
                nfe = np.concatenate([a.decisions("nfe") for a, _ in pairs]).mean()
                cells = [_points(estimate) for estimate in estimates]
                what = f"{', '.join(one)} minus {', '.join(other)}"
                lines.append(f"| {name} | {what} | {n} | {cells[0]} | {cells[1]} | {nfe:.2f} |")
        return "\n### Differences in points of success\n\n" + "\n".join(lines)

    def figures(self) -> list[dict[str, Any]]:
        """The numbers of the tables as plain data."""
        rows = []
        for environment in self.environments:
            for method in self.of(environment):
                rate, nfe, calls = method.success(), method.decisions("nfe"), method.decisions("network_calls")
                sigma = method.decisions("sigma")
                rows.append(
                    {
                        "environment": environment, "training": method.training, "sampler": method.sampler,
                        "success": rate.value, "low": rate.low, "high": rate.high, "by_seed": method.by_seed(),
                        "episodes": sum(len(r) for r in method.seeds.values()),
                        "nfe": float(nfe.mean()) if len(nfe) else None,
                        "calls": float(calls.mean()) if len(calls) else None,
                        "sigma_p10_p50_p90": np.percentile(sigma, [10, 50, 90]).tolist() if len(sigma) else None,
                        "modes": {str(k): v for k, v in method.lanes().items()},
                    }
                )  # fmt: skip
        return rows
