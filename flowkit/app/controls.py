"""What a panel asks a person for: plain descriptions, without the library that draws them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Control:
    """One thing to choose.

    Args:
        name: key of the value that the panel gets.
        label: above it on the page.
        info: a half-sentence of help below the label, or "".
        when: ``(name, value)`` of a :class:`Choice` of the same panel: the control is seen only while it has that
            value. None: always.
        more: it is no everyday choice: it lies in the folded part "More".
    """

    name: str
    label: str
    info: str = ""
    when: tuple[str, str] | None = None
    more: bool = False


@dataclass(frozen=True, kw_only=True)
class Slider(Control):
    """A number from ``low`` to ``high`` in steps of ``step``; an int where all four are."""

    low: float
    high: float
    value: float
    step: float = 1

    @property
    def whole(self) -> bool:
        """Whether it gives whole numbers."""
        return all(isinstance(number, int) for number in (self.low, self.high, self.value, self.step))


@dataclass(frozen=True, kw_only=True)
class Choice(Control):
    """One of ``options``; ``value`` is chosen at first."""

    options: Sequence[str]
    value: str


@dataclass(frozen=True, kw_only=True)
class TextLine(Control):
    """A text, ``lines`` high; ``examples`` are put in by a click."""

    value: str = ""
    lines: int = 1
    examples: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Number(Control):
    """A whole number without bounds of its own; with ``dice`` a button draws another one."""

    value: int = 0
    dice: bool = False


@dataclass(frozen=True, kw_only=True)
class Upload(Control):
    """A file of the person's; the panel gets its path, or None.

    Args:
        film: it is a video, and is shown.
        suffixes: of files that may be chosen where it is none, e.g. ``(".npy", ".csv")``; () for any.
        examples: name -> a function that writes an example into a folder and returns its path. The first one is there
            when the page opens; each has a button.
    """

    film: bool = False
    suffixes: Sequence[str] = ()
    examples: Mapping[str, Callable[[Path], Path]] = field(default_factory=dict)
