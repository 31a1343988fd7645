"""The page: gradio components made of the panels' descriptions. The only module, with its neighbours ``widgets`` and
``serve``, that knows gradio."""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from flowkit.app import telling
from flowkit.app.controls import Choice, Control
from flowkit.app.panel import Made, Panel, Progress
from flowkit.app.sampling import chosen_sampler, sampler_controls
from flowkit.app.widgets import Places, draw_control, value_of
from flowkit.errors import UserError

#: All models compute in this one thread: a simulator's pictures belong to the thread that made it, and two runs at
#: once would only slow each other down.
_worker = ThreadPoolExecutor(1, thread_name_prefix="flowkit-app")


@dataclass(frozen=True)
class Tab:
    """A model on the page: its panel, or the line that says why there is none.

    Args:
        name: as the person gave it.
        panel: None where ``missing`` says why.
        missing: a line, or "".
    """

    name: str
    panel: Panel | None
    missing: str = ""


def page(tabs: Sequence[Tab], folder: Path) -> gr.Blocks:
    """The whole page.

    Args:
        tabs: models, at least one.
        folder: an existing one for examples and results; its files are shown to whoever asks.
    """
    with gr.Blocks(title="FlowKit", analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
        if len(tabs) == 1:
            _tab(tabs[0], folder)
        else:
            with gr.Tabs():
                for tab in tabs:
                    with gr.Tab(tab.name):
                        _tab(tab, folder)
    return blocks.queue(default_concurrency_limit=1)


def slug(name: str) -> str:
    """The name of a tab in addresses and elements: ``speech/prompts-en`` is ``speech_prompts_en``."""
    return re.sub(r"\W+", "_", name.strip("/.").lower()).strip("_") or "run"


def _tab(tab: Tab, folder: Path) -> None:
    gr.HTML(telling.head(tab.name, tab.panel.artifact if tab.panel else None), padding=False)
    if tab.panel is None:
        gr.HTML(telling.mistake(tab.missing), padding=False)
        return
    panel, name = tab.panel, slug(tab.name)
    place = folder / name
    place.mkdir(parents=True, exist_ok=True)
    controls = list(panel.controls())
    if panel.sampled:
        spread = bool(getattr(panel, "spread", False))
        controls += sampler_controls(panel.artifact.sampler, panel.task.objective, spread=spread)
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=320):
            drawn = _inputs(controls, name, place)
            with gr.Row():
                button = gr.Button(panel.button, variant="primary", elem_id=f"{name}-run", scale=3)
                stop = gr.Button("Stop", elem_id=f"{name}-stop", scale=1, min_width=80)
        with gr.Column(scale=3, min_width=420):
            status = gr.HTML(telling.idle(panel.button), elem_id=f"{name}-status", padding=False)
            places = Places(panel.shows, name)
    work = _work(panel, controls, places, place)
    texts = [c for control, c in zip(controls, drawn, strict=True) if control.name == "text"]
    event = gr.on(
        [button.click, *(text.submit for text in texts)], work, drawn, [status, *places.components],
        api_name=name, show_progress="minimal", show_progress_on=status, concurrency_id="model", concurrency_limit=1,
    )  # fmt: skip
    stop.click(telling.stopped, None, status, cancels=[event], api_visibility="private")


def _inputs(controls: Sequence[Control], name: str, folder: Path) -> list[Any]:
    """The components in the order of the controls; those of ``more`` lie in a fold at the end."""
    drawn: dict[str, Any] = {}
    choices = {c.name: c for c in controls if isinstance(c, Choice)}

    def draw(some: Sequence[Control]) -> None:
        for control in some:
            seen = control.when is None or choices[control.when[0]].value == control.when[1]
            drawn[control.name] = draw_control(control, f"{name}-{slug(control.name)}", folder, visible=seen)

    with gr.Group():
        draw([c for c in controls if not c.more and not c.name.startswith("sampler.")])
    if any(c.name.startswith("sampler.") for c in controls):
        with gr.Group():
            gr.HTML('<div class="fk-section">Sampling</div>', padding=False)
            draw([c for c in controls if not c.more and c.name.startswith("sampler.")])
    if any(c.more for c in controls):
        with gr.Accordion("More", open=False):
            draw([c for c in controls if c.more])
    for chooser in {c.when[0] for c in controls if c.when}:
        led = [c for c in controls if c.when and c.when[0] == chooser]
        drawn[chooser].change(
            _seen(led), drawn[chooser], [drawn[c.name] for c in led], show_progress="hidden", api_visibility="private"
        )
    return [drawn[c.name] for c in controls]


def _seen(led: Sequence[Control]) -> Callable[[str], Any]:
    def update(value: str) -> Any:
        seen = [gr.update(visible=bool(c.when and c.when[1] == value)) for c in led]
        return seen if len(seen) > 1 else seen[0]

    return update


def _work(panel: Panel, controls: Sequence[Control], places: Places, folder: Path) -> Callable[..., Iterator[Any]]:
    """What the button does: a generator of the status and the results."""

    def work(*values: Any) -> Iterator[Any]:
        untouched = [gr.skip()] * len(places.components)
        yield [telling.progress(0.0, "at work ..."), *untouched]
        try:
            asked = {c.name: value_of(c, v) for c, v in zip(controls, values, strict=True)}
            began = telling.clock()
            for step in _steps(panel, asked):
                if isinstance(step, Progress):
                    yield [telling.progress(step.done, step.text), *untouched]
                else:
                    status = telling.report(step, telling.clock() - began)
                    yield [status, *places.filled(step, folder)]
        except UserError as error:
            yield [telling.mistake(str(error)), *places.empty()]
        except Exception as error:  # a fault of ours is told on the page and in full on the terminal
            traceback.print_exc(file=sys.stderr)
            yield [telling.fault(error), *places.empty()]

    return work


def _steps(panel: Panel, asked: dict[str, Any]) -> Iterator[Progress | Made]:
    """What the panel's run gives, each step of it made in the one thread."""

    def start() -> Made | Iterator[Progress | Made]:
        sampler = panel.artifact.sampler
        if panel.sampled:
            sampler = chosen_sampler(sampler, asked)
            panel.task.objective.check_sampler(sampler)
        return panel.run(asked, sampler)

    began = _worker.submit(start).result()
    if isinstance(began, Made):
        yield began
        return
    while (step := _worker.submit(next, began, None).result()) is not None:
        yield step
