"""What the picture benchmark reports: the parts of several processes in one, and the tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def merge(files: Sequence[Path]) -> dict[str, Any]:
    """One report of several processes; the first one's words about the machine stand."""
    reports = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    whole = reports[0]
    for report in reports[1:]:
        for name, result in report["results"].items():
            kept = whole["results"].setdefault(name, {})
            whole["results"][name] = {**result, **kept}
    return whole


def _mean(rows: Sequence[Any], *keys: str) -> float | None:
    found = []
    for value in rows:
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        found += [] if value is None else [float(value)]
    return sum(found) / len(found) if found else None


def table(report: dict[str, Any]) -> str:
    """Markdown: a line a method, means over seeds; and the costs."""
    calls = ("1", "2", "4", "8", "adaptive")
    lines = [
        "| method | " + " | ".join(f"FD at {c}" if c == "adaptive" else f"FD at {c} calls" for c in calls)
        + " | adaptive calls | steps | seconds (teacher, pairs) |",
        "|" + "---|" * (len(calls) + 4),
    ]  # fmt: skip
    for name, runs in report["results"].items():
        if name in ("costs", "step_times") or not runs:
            continue
        rows = list(runs.values())

        cells = [_mean(rows, "frechet", c) for c in calls] + [_mean(rows, "adaptive_calls")]
        shown = ["-" if cell is None else f"{cell:.2f}" for cell in cells]
        beside = ", ".join(
            f"{value:.0f}" for value in (_mean(rows, "teacher_seconds"), _mean(rows, "pairs_seconds")) if value
        )
        time_text = f"{_mean(rows, 'seconds') or 0:.0f}" + (f" ({beside})" if beside else "")
        lines.append(f"| {name} | " + " | ".join(shown) + f" | {_mean(rows, 'steps') or 0:.0f} | {time_text} |")
    lines += ["", "| objective | step, ms | over plain | peak, MB | over plain |", "|---|---|---|---|---|"]
    for name, cost in report["results"].get("costs", {}).items():
        memory = f"{cost['peak_mb']:.0f} | {cost['memory_ratio']:.2f}" if "peak_mb" in cost else "- | -"
        lines.append(f"| {name} | {cost['step_ms']:.2f} | {cost['time_ratio']:.2f} | {memory} |")
    if times := report["results"].get("step_times"):
        lines += ["", f"whole training steps beside torchcfm's: {json.dumps(times)}"]
    return "\n".join([*lines, "", f"judge: {json.dumps(report['judge'])}"])
