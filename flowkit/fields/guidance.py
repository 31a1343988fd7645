"""Guidance: two evaluations become one velocity, v = v_weak + scale (v_strong - v_weak).

Ho and Salimans 2022, "Classifier-Free Diffusion Guidance" (arXiv 2207.12598): weak is the field without its condition;
scale 1 is the plain conditional field, 0 the unconditional one (papers that write (1 + w) c - w u mean scale = 1 + w).
Interval: Kynkäänniemi et al. 2024 (arXiv 2404.07724). Rescaling: Lin et al. 2023 (arXiv 2305.08891), equations 15 and
16. Autoguidance: Karras et al. 2024 (arXiv 2406.02507). All predictions are affine in v with the same coefficients at
(x, t), so guiding data, noise or score is the same.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flowkit.cond import Cond
from flowkit.errors import UserError
from flowkit.fields.field import Evaluation, Field
from flowkit.tensors import mean_per_sample

__all__ = ["Autoguidance", "ClassifierFree", "Guidance"]


class Guidance(ABC):
    """How a field is steered while sampling."""

    @abstractmethod
    def apply(self, field: Field) -> Field:
        """The guided field; it reports every network call it makes."""


class _Guided(Field):
    """What guided fields share: the interval, the mixture of two evaluations, the rescaling and the counts."""

    guided = True

    def __init__(self, field: Field, scale: float, interval: tuple[float, float], rescale: float) -> None:
        self.field = field
        self.path = field.path
        self.scale = scale
        self.interval = interval
        self.rescale = rescale
        self._always = interval[0] <= 0.0 and interval[1] >= 1.0

    def ready(self, cond: Cond | None) -> None:
        self.field.ready(cond)

    def active(self, t: Tensor) -> Tensor:
        return (t >= self.interval[0]) & (t <= self.interval[1])

    def both(self, x: Tensor, t: Tensor, cond: Cond | None) -> tuple[Evaluation, Tensor, int | Tensor]:
        """The strong evaluation, the weak velocity, and the network calls of the two."""
        raise NotImplementedError

    def mix(self, strong: Tensor, weak: Tensor, cond: Cond | None) -> Tensor:
        v = torch.lerp(weak, strong, self.scale)
        if self.rescale:
            padding = None if cond is None else cond.padding
            ratio = _deviation(strong, padding) / _deviation(v, padding).clamp_min(torch.finfo(v.dtype).tiny)
            v = v * (1.0 + self.rescale * (ratio - 1.0)).reshape(-1, *[1] * (v.ndim - 1))
        return v

    def __call__(self, x: Float[Tensor, "b *d"], t: Float[Tensor, " b"], cond: Cond | None = None) -> Evaluation:
        if self._always:
            strong, weak, calls = self.both(x, t, cond)
            return Evaluation(self.mix(strong.v, weak, cond), strong.heads, calls)
        active = self.active(t)
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            # Asking the device which rows are active would stop it, and break a captured graph (an exported program
            # has no such question): both halves are made, and counted.
            strong, weak, calls = self.both(x, t, cond)
            keep = active.reshape(-1, *[1] * (x.ndim - 1))
            return Evaluation(torch.where(keep, self.mix(strong.v, weak, cond), strong.v), strong.heads, calls)
        rows = active.nonzero().squeeze(1)
        if len(rows) == len(t):
            strong, weak, calls = self.both(x, t, cond)
            return Evaluation(self.mix(strong.v, weak, cond), strong.heads, calls)
        if len(rows) == 0:
            return self.field(x, t, cond)
        return self._some(x, t, cond, rows)

    def _some(self, x: Tensor, t: Tensor, cond: Cond | None, rows: Tensor) -> Evaluation:
        """Rows in the interval take both evaluations, the others one."""
        rest = torch.ones_like(t, dtype=torch.bool)
        rest[rows] = False
        others = rest.nonzero().squeeze(1)
        part = None if cond is None else cond.take(rows)
        strong, weak, cost = self.both(x[rows], t[rows], part)
        plain = self.field(x[others], t[others], None if cond is None else cond.take(others))

        def merge(inside: Tensor, outside: Tensor) -> Tensor:
            out = inside.new_empty((len(t), *inside.shape[1:]))
            return out.index_copy(0, rows, inside).index_copy(0, others, outside)

        calls = torch.empty(len(t), dtype=torch.int64)
        calls[rows] = cost if isinstance(cost, Tensor) else torch.tensor(cost)
        calls[others] = plain.calls if isinstance(plain.calls, Tensor) else torch.tensor(plain.calls)
        heads = {name: merge(value, plain.heads[name]) for name, value in strong.heads.items()}
        return Evaluation(merge(self.mix(strong.v, weak, part), plain.v), heads, calls)


def _deviation(v: Tensor, keep: Bool[Tensor, "b ..."] | None) -> Tensor:
    """Standard deviation of each sample over its unpadded elements."""
    mean = mean_per_sample(v, keep).reshape(-1, *[1] * (v.ndim - 1))
    return mean_per_sample((v - mean).square(), keep).sqrt()


class _ClassifierFreeField(_Guided):
    """The condition and its null in one concatenated batch."""

    def __init__(
        self, field: Field, scale: float, interval: tuple[float, float], rescale: float, names: Sequence[str] | None
    ) -> None:
        super().__init__(field, scale, interval, rescale)
        self.names = names
        # The condition is the same object at every step of a solve: it is doubled once.
        self._cond: Cond | None = None
        self._doubled: Cond | None = None

    def _double(self, cond: Cond) -> Cond:
        if cond is not self._cond or self._doubled is None:
            if not len(cond):
                raise UserError("classifier-free guidance needs a condition to leave out, and the condition is empty")
            self._doubled = Cond.cat([cond, cond.null(self.names)])
            self._cond = cond
        return self._doubled

    def ready(self, cond: Cond | None) -> None:
        if cond is not None:
            self.field.ready(self._double(cond))

    def both(self, x: Tensor, t: Tensor, cond: Cond | None) -> tuple[Evaluation, Tensor, int | Tensor]:
        if cond is None:
            raise UserError("classifier-free guidance needs a condition to leave out, and none was given")
        both = self.field(torch.cat((x, x)), torch.cat((t, t)), self._double(cond))
        n = t.shape[0]  # not len(t), which a tracer takes for a constant
        strong = Evaluation(both.v[:n], {name: value[:n] for name, value in both.heads.items()})
        calls = both.calls[:n] + both.calls[n:] if isinstance(both.calls, Tensor) else 2 * both.calls
        return strong, both.v[n:], calls


def _checked(name: str, scale: float, interval: tuple[float, float], rescale: float) -> None:
    if not math.isfinite(scale):
        raise UserError(f"{name}: scale must be a finite number, got {scale}")
    if not (len(interval) == 2 and interval[0] <= interval[1]):
        raise UserError(f"{name}: interval must be two increasing times, got {interval}")
    if not 0.0 <= rescale <= 1.0:
        raise UserError(f"{name}: rescale must lie in [0, 1], got {rescale}")


class ClassifierFree(Guidance):
    """Classifier-free guidance: v_null + scale (v_cond - v_null), both halves in one batch, counted as two calls.

    Args:
        scale: 1 is the plain conditional field (one call), 0 the unconditional one.
        interval: times in which guidance acts, both ends included; outside the field is the plain conditional one. On
            the CPU that costs one call there; on other devices both halves are computed (and counted) so that the loop
            never waits for the device.
        rescale: share r in [0, 1] of the rescaling v <- v std(v_cond) / std(v).
        names: which conditions are left out; None: all.
    """

    def __init__(
        self,
        scale: float = 2.0,
        interval: tuple[float, float] = (0.0, 1.0),
        rescale: float = 0.0,
        names: list[str] | None = None,
    ) -> None:
        _checked("ClassifierFree", scale, interval, rescale)
        self.scale = scale
        self.interval = interval
        self.rescale = rescale
        self.names = names

    def apply(self, field: Field) -> Field:
        if self.scale == 1.0:
            return field  # the mixture is the conditional field itself, and rescaling leaves it alone
        return _ClassifierFreeField(field, self.scale, self.interval, self.rescale, self.names)

    def __repr__(self) -> str:
        options = f"interval={self.interval}, rescale={self.rescale:g}, names={self.names}"
        return f"ClassifierFree(scale={self.scale:g}, {options})"


class _AutoguidedField(_Guided):
    """Two fields at the same point and condition."""

    def __init__(self, field: Field, weak: Field, scale: float, interval: tuple[float, float], rescale: float) -> None:
        super().__init__(field, scale, interval, rescale)
        self.weak = weak

    def ready(self, cond: Cond | None) -> None:
        self.field.ready(cond)
        self.weak.ready(cond)

    def both(self, x: Tensor, t: Tensor, cond: Cond | None) -> tuple[Evaluation, Tensor, int | Tensor]:
        strong, weak = self.field(x, t, cond), self.weak(x, t, cond)
        return strong, weak.v, strong.calls + weak.calls


class Autoguidance(Guidance):
    """Guidance by a weaker field (smaller, or less trained) on the same path, with the same condition.

    Args:
        weak: the weaker field.
        scale, interval, rescale: as for :class:`ClassifierFree`.
    """

    def __init__(
        self, weak: Field, scale: float = 2.0, interval: tuple[float, float] = (0.0, 1.0), rescale: float = 0.0
    ) -> None:
        _checked("Autoguidance", scale, interval, rescale)
        self.weak = weak
        self.scale = scale
        self.interval = interval
        self.rescale = rescale

    def apply(self, field: Field) -> Field:
        if self.scale == 1.0:
            return field
        return _AutoguidedField(field, self.weak, self.scale, self.interval, self.rescale)

    def __repr__(self) -> str:
        return f"Autoguidance({self.weak!r}, scale={self.scale:g}, interval={self.interval}, rescale={self.rescale:g})"
