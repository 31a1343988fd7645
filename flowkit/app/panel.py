"""Panel: what a domain says about its part of the page. Nothing here, or in a panel, draws: the page does.

A panel names its controls and its results, and makes the results when it is asked. Results are presentations as they
also go to TensorBoard and to files (:class:`flowkit.tasks.Presentation`). A plugin names its panels by task::

    plugin = Plugin(..., panels={"MyTask": "my_domain.panel:MyPanel"})
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from flowkit.app.controls import Control
from flowkit.artifacts import Artifact
from flowkit.solvers.sampler import Sampler
from flowkit.tasks import Presentation


@dataclass(frozen=True)
class Show:
    """A result's place on the page.

    Args:
        name: key in :attr:`Made.shown`.
        kind: what is shown: a wav, a png, an mp4; ``any`` takes whatever comes, and is hidden until then.
        label: above it.
    """

    name: str
    kind: Literal["sound", "picture", "film", "any"]
    label: str


@dataclass(frozen=True)
class Progress:
    """How far a run is: a share in [0, 1], and a word on it."""

    done: float
    text: str = ""


@dataclass(frozen=True)
class Made:
    """What a run made.

    Args:
        shown: results by the names of the panel's :attr:`Panel.shows` (by any names where that is ``any``).
        nfe: evaluations of the field, mean; None where there is no such number.
        network_calls: calls of networks, mean; both halves of guidance count.
        per: what ``nfe`` and ``network_calls`` are counted for: ``sentence``, ``frame``.
        seconds: that the model took; None: the time of the whole run is told.
        facts: what else to tell, in a tile each: ``{"success": "3 of 4"}``.
        table: rows of text to show under the facts, their head first.
        notes: sentences about what did not go as asked.
    """

    shown: Mapping[str, Presentation]
    nfe: float | None = None
    network_calls: float | None = None
    per: str = ""
    seconds: float | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    table: Sequence[Sequence[str]] = ()
    notes: Sequence[str] = ()


class Panel(ABC):
    """One model on the page.

    Args:
        artifact: the loaded model.

    Attributes:
        button: what its button says.
        shows: places of its results.
        sampled: whether the page offers the sampler's controls (solver, steps, guidance, temperature).

    Raises:
        UserError: the model cannot be used on a page: the line says what is missing.
    """

    button: str = "Sample"
    shows: Sequence[Show] = (Show("samples", "any", "Samples"),)
    sampled: bool = True

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        self.task: Any = artifact.task  # panels know the class of theirs

    @abstractmethod
    def controls(self) -> Sequence[Control]:
        """What it asks for, beside the sampler. A :class:`~flowkit.app.controls.Number` called ``seed`` is
        customary."""

    @abstractmethod
    def run(self, asked: Mapping[str, Any], sampler: Sampler) -> Made | Iterator[Progress | Made]:
        """Make the results; a generator may yield :class:`Progress` on the way, and yields :class:`Made` last. A
        person may stop it where it yields.

        Args:
            asked: values of the controls by name.
            sampler: the model's sampler with what the person changed.

        Raises:
            UserError: what was asked for cannot be: its line is shown on the page.
        """
