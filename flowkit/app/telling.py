"""Sentences and numbers of the page as HTML. All that comes from outside is escaped."""

from __future__ import annotations

import time
from html import escape
from typing import TYPE_CHECKING

from flowkit.config.plugins import one_line

if TYPE_CHECKING:
    from flowkit.app.panel import Made
    from flowkit.artifacts import Artifact

clock = time.perf_counter


def head(name: str, artifact: Artifact | None) -> str:
    """Title, what the model is, and its licence."""
    info = {} if artifact is None else artifact.info
    title, summary = str(info.get("title") or name), one_line(info.get("summary") or "")
    lines = [f"<h2>{escape(title)}</h2>"]
    if summary:
        lines.append(f"<p>{escape(summary)}</p>")
    if artifact is not None:
        parameters = sum(p.numel() for p in artifact.task.parameters())
        known = [name if title != name else "", type(artifact.task).__name__, f"{parameters:,} parameters"]
        known += [str(info.get("licence") or "")]
        lines.append(f'<p class="fk-small">{" · ".join(escape(k) for k in known if k)}</p>')
        limits = one_line(info.get("limits") or "")
        if limits:
            lines.append(f'<p class="fk-small">Limits: {escape(limits)}</p>')
    return f'<div class="fk-head">{"".join(lines)}</div>'


def idle(button: str) -> str:
    """Before the first run."""
    return f'<div class="fk-status fk-idle">Press {escape(button)}.</div>'


def progress(done: float, text: str) -> str:
    """A bar and a word."""
    share = 100 * min(max(done, 0.0), 1.0)
    bar = f'<div class="fk-bar"><div style="width:{share:.0f}%"></div></div>'
    return f'<div class="fk-status fk-busy">{bar}<span>{escape(text)}</span></div>'


def stopped() -> str:
    """After the button Stop."""
    return '<div class="fk-status fk-idle">Stopped.</div>'


def mistake(line: str) -> str:
    """A mistake of the person's, in one line."""
    return f'<div class="fk-status fk-mistake" role="alert">{escape(one_line(line))}</div>'


def fault(error: Exception) -> str:
    """A fault of FlowKit's, in one line."""
    what = f"a fault of FlowKit's, please report it: {type(error).__name__}: {error} (in full on the terminal)"
    return mistake(what)


def report(made: Made, elapsed: float) -> str:
    """NFE, network calls and time, then what else there is to tell."""
    per = f" a {made.per}" if made.per else ""
    tiles = []
    if made.nfe is not None:
        tiles.append(("nfe", f"NFE{per}", f"{made.nfe:.4g}"))
    if made.network_calls is not None:
        tiles.append(("calls", f"network calls{per}", f"{made.network_calls:.4g}"))
    tiles.append(("time", "time", f"{elapsed if made.seconds is None else made.seconds:.2f} s"))
    tiles += [(f"fact-{i}", what, value) for i, (what, value) in enumerate(made.facts.items())]
    shown = "".join(
        f'<div class="fk-tile"><b data-fact="{key}">{escape(value)}</b><span>{escape(what)}</span></div>'
        for key, what, value in tiles
    )
    notes = "".join(f'<div class="fk-note">{escape(one_line(note))}</div>' for note in made.notes)
    return f'<div class="fk-status fk-done"><div class="fk-tiles">{shown}</div>{notes}{_table(made)}</div>'


def _table(made: Made) -> str:
    if not made.table:
        return ""
    first, *rows = made.table
    top = "".join(f"<th>{escape(cell)}</th>" for cell in first)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<table class="fk-table"><tr>{top}</tr>{body}</table>'


#: System fonts only: the page asks no other machine for anything.
STYLE = """
.gradio-container { max-width: 1280px !important; margin: 0 auto !important; }
.fk-head h2 { margin: .2em 0 .1em; font-size: 1.45em; font-weight: 650; }
.fk-head p { margin: .15em 0; max-width: 78ch; }
.fk-small { color: var(--body-text-color-subdued); font-size: .88em; }
.fk-label { font-weight: 600; margin-bottom: -.4em; }
.fk-section { padding: .6em 1em; background: var(--block-background-fill); font-weight: 650;
  color: var(--body-text-color-subdued); }
.fk-status { border: 1px solid var(--border-color-primary); border-radius: 8px; padding: .8em 1em; min-height: 3.2em;
  background: var(--block-background-fill); }
.fk-idle { color: var(--body-text-color-subdued); }
.fk-mistake { border-left: 4px solid #c8322b; color: #b42318; background: #fef3f2; }
.dark .fk-mistake { color: #fda29b; background: #3a1512; }
.fk-bar { height: 8px; border-radius: 4px; background: var(--border-color-primary); overflow: hidden;
  margin-bottom: .4em; }
.fk-bar div { height: 100%; background: #0072b2; transition: width .2s; }
.fk-tiles { display: flex; flex-wrap: wrap; gap: .5em 1.8em; }
.fk-tile { display: flex; flex-direction: column; }
.fk-tile b { font-size: 1.35em; font-weight: 650; font-variant-numeric: tabular-nums; }
.fk-tile span { font-size: .82em; color: var(--body-text-color-subdued); }
.fk-note { margin-top: .5em; font-size: .9em; color: #a15c00; }
.dark .fk-note { color: #ffb547; }
.fk-table { margin-top: .7em; border-collapse: collapse; font-size: .9em; font-variant-numeric: tabular-nums; }
.fk-status .fk-table :is(th, td, tr) { border: 0; padding: .15em 1.4em .15em 0; text-align: left; }
.fk-table th { color: var(--body-text-color-subdued); font-weight: 500; }
"""
