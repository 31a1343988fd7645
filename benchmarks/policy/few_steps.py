"""What ``benchmarks/policy_few_steps.py`` reports: the parts of several processes in one, and the tables."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from domains.policy.metrics import hierarchical_bootstrap

#: The method that the others are compared with.
PLAIN = "flow matching"
#: Network calls a decision.
CALLS = (1, 2, 4)


def merge(files: Sequence[Path]) -> dict[str, Any]:
    """One report of several processes; of the same training in two of them the first stands."""
    whole: dict[str, Any] = {}
    runs: dict[tuple[str, str, int], dict[str, Any]] = {}
    for file in files:
        report = json.loads(file.read_text(encoding="utf-8"))
        whole = whole or report
        for part in report["runs"]:
            kept = runs.setdefault((part["environment"], part["family"], part["seed"]), part)
            kept["methods"] = {**part["methods"], **kept["methods"]}
    return {**whole, "runs": [runs[key] for key in sorted(runs)]}


def tables(report: dict[str, Any], families: Mapping[str, Iterable[str]]) -> str:
    """Markdown: a table an environment and family, its methods in order; differences to plain flow matching on the
    same starts, in points, with intervals that draw seeds, then starts."""
    lines = []
    for environment, family in sorted({(part["environment"], part["family"]) for part in report["runs"]}):
        parts = [p for p in report["runs"] if (p["environment"], p["family"]) == (environment, family)]
        lines += [
            f"\n{environment}, the network predicts {family}; {parts[0]['starts']} starts a seed, seeds "
            f"{', '.join(str(part['seed']) for part in parts)}\n",
            "| method | " + " | ".join(f"success, {n} calls" for n in (*CALLS, "own")) + " | each way, 4 calls"
            " | S/E\\|D\\|² | steps | train s (teacher, pairs) |",
            "|" + "---|" * (len(CALLS) + 6),
        ]  # fmt: skip
        for name in families[family]:
            rows = [part["methods"][name] for part in parts if name in part["methods"]]
            if rows:
                lines.append(_row(name, rows, {p["seed"]: p for p in parts}))
    return "\n".join(lines)


def _row(name: str, rows: Sequence[dict[str, Any]], parts: dict[int, dict[str, Any]]) -> str:
    cells = []
    for calls in (*(str(n) for n in CALLS), "adaptive"):
        mine = {s: p["methods"][name]["calls"] for s, p in parts.items() if name in p["methods"]}
        groups = {seed: points[calls]["successes"] for seed, points in mine.items() if calls in points}
        if not groups:
            cells.append("-")
            continue
        told = f"{100 * statistics.fmean(statistics.fmean(group) for group in groups.values()):.1f}"
        if calls == "adaptive":
            mean = statistics.fmean(points[calls]["calls"] for points in mine.values())
            cells.append(f"{told} at {mean:.2f}")
            continue
        if name != PLAIN:
            plain = {s: parts[s]["methods"][PLAIN]["calls"][calls]["successes"] for s in groups}
            gaps = [[float(a - b) for a, b in zip(groups[s], plain[s], strict=True)] for s in groups]
            gap = hierarchical_bootstrap(gaps)
            told += f" ({100 * gap.value:+.1f}: {100 * gap.low:.1f} to {100 * gap.high:.1f})"
        cells.append(told)
    ways = [row["calls"]["4"]["modes"] for row in rows if "4" in row["calls"]]
    shares = {way: statistics.fmean(w.get(way, 0.0) for w in ways) for way in sorted({key for w in ways for key in w})}
    straight = [row["relative_straightness"] for row in rows if "relative_straightness" in row]
    beside = [
        "-" if any(key not in row for row in rows) else f"{statistics.fmean(row[key] for row in rows):.0f}"
        for key in ("teacher_seconds", "pairs_seconds")
    ]
    cells += [
        " / ".join(f"{100 * share:.0f}" for share in shares.values()) or "-",
        f"{statistics.fmean(straight):.3f}" if straight else "-",
        f"{statistics.fmean(row['steps'] for row in rows):.0f}",
        f"{statistics.fmean(row['seconds'] for row in rows):.0f}"
        + (f" ({', '.join(beside)})" if beside != ["-", "-"] else ""),
    ]
    return f"| {name} | " + " | ".join(cells) + " |"
