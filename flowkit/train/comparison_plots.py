"""Pictures of a comparison: quality against network calls, straightness, trajectories of points in the plane."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from flowkit.present import Picture

_SHOWN = 60
#: Panels in a row, and how lines differ once all colours were used.
_ROW, _MARKERS = 5, "osv^D"


def quality(report: Mapping[str, Any], metric: str) -> Picture:
    """``metric`` against network calls, a line for each objective (mean over seeds, least and most behind it)."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter, ScalarFormatter

    figure = Figure(figsize=(7.0, 4.5), layout="constrained")
    axes = figure.subplots()
    ticks: set[int] = set()
    for number, (name, runs) in enumerate(report["results"].items()):
        values: dict[int, list[float]] = {}
        for run in runs.values():
            for calls, point in run["points"].items():
                values.setdefault(int(calls), []).append(float(point[metric]))
        if not values:
            continue
        calls = sorted(values)
        ticks.update(calls)
        (line,) = axes.plot(
            calls, [statistics.mean(values[n]) for n in calls], marker=_MARKERS[number // 10 % 5], label=name
        )
        low, high = ([edge(values[n]) for n in calls] for edge in (min, max))
        axes.fill_between(calls, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    axes.set(xscale="log", xlabel="network calls", ylabel=metric)
    if all(float(point[metric]) > 0 for r in report["results"].values() for run in r.values()
           for point in run["points"].values()):  # fmt: skip
        axes.set_yscale("log")
    axes.set_xticks(sorted(ticks))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3)
    if len(report["results"]) > 6:  # beside the lines, not over them
        figure.set_size_inches(11.0, 4.5)
        axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    else:
        axes.legend(fontsize=8)
    return Picture.of_figure(figure)


def bars(values: Mapping[str, float], label: str) -> Picture:
    """One bar for each objective."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 0.8 + 0.45 * len(values)), layout="constrained")
    axes = figure.subplots()
    axes.barh(list(values), list(values.values()))
    axes.invert_yaxis()
    axes.set_xlabel(label)
    return Picture.of_figure(figure)


def plane(paths: Mapping[str, Tensor]) -> Picture:
    """Trajectories (steps + 1, n, 2) of points in the plane, a panel for each objective: grey lines from the source
    (blue) to where they end (orange)."""
    from matplotlib.figure import Figure

    columns = min(len(paths), _ROW)
    rows = -(-len(paths) // columns)
    figure = Figure(figsize=(4.0 * columns, 4.0 * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for spare in panels[len(paths) :]:
        spare.remove()
    reach = 1.05 * max(float(states.abs().max()) for states in paths.values())
    for axes, (name, states) in zip(panels, paths.items(), strict=False):
        array = states[:, :_SHOWN].detach().float().cpu().numpy()
        axes.plot(array[:, :, 0], array[:, :, 1], color="0.6", linewidth=0.6)
        for end, colour in ((0, "tab:blue"), (-1, "tab:orange")):
            axes.scatter(array[end, :, 0], array[end, :, 1], s=6, color=colour, zorder=2)
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", title=name)
        axes.title.set_fontsize(8)
    return Picture.of_figure(figure)
