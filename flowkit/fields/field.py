"""A network seen as a velocity field v(x, t) = dx/dt."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from jaxtyping import Float, Int
from torch import Tensor

from flowkit.cond import Cond
from flowkit.paths.path import Path

#: The head that tells how spread the flow still is: log of the root mean square, over the elements of a sample, of the
#: conditional standard deviation of dx/dt given x_t; (b,).
LOG_SIGMA = "log_sigma"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The velocity v (b, *d), other heads by name, and the network calls it cost (one number, or one a row (b,))."""

    v: Float[Tensor, "b *d"]
    heads: Mapping[str, Tensor] = field(default_factory=dict)
    calls: int | Int[Tensor, " b"] = 1


class Field(ABC):
    """(x (b, *d), t (b,), cond) -> :class:`Evaluation`. Knows its path, or None."""

    path: Path | None = None
    #: True when scores may be read off the field: an affine path, a standard normal source and the independent
    #: coupling.
    independent_gaussian: bool = False
    #: True of a guided field: it has no likelihood that would be the model's.
    guided: bool = False

    @abstractmethod
    def __call__(self, x: Float[Tensor, "b *d"], t: Float[Tensor, " b"], cond: Cond | None = None) -> Evaluation:
        """The velocity at (x, t). Both belong to the caller: do not write into them."""

    def ready(self, cond: Cond | None) -> None:
        """Make beforehand what evaluations with this very condition share: the body of a program's loop cannot."""


class FunctionField(Field):
    """A plain function ``(x, t) -> v`` or ``(x, t, cond) -> v`` as a field: how :func:`flowkit.solve` reads it."""

    def __init__(
        self, function: Callable[..., Tensor | Evaluation], *, takes_cond: bool = False, path: Path | None = None
    ) -> None:
        self.function = function
        self.takes_cond = takes_cond
        self.path = path

    def __call__(self, x: Float[Tensor, "b *d"], t: Float[Tensor, " b"], cond: Cond | None = None) -> Evaluation:
        out = self.function(x, t, cond) if self.takes_cond else self.function(x, t)
        return out if isinstance(out, Evaluation) else Evaluation(out)
