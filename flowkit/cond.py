"""Conditioning: one explicit object instead of ``**kwargs``.

A :class:`Cond` is a flat tree of tensors, batch first, with the padding mask of the state. It can be indexed,
concatenated, replaced by its null values (classifier-free guidance) and redrawn inside a solve (time-varying
conditions).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from flowkit.random import RandomSource


@dataclass(frozen=True)
class Cond(Mapping[str, Tensor]):
    """Named tensors (b, ...) that a network may read, and the padding mask of the state.

    Args:
        values: name -> tensor with the batch first.
        padding: bool, broadcastable to the state (b, *d); True on real elements, False on padding. None: nothing is
            padded.
        nulls: name -> value without the batch axis, used where a condition is dropped. Floating tensors fall back to
            zeros; integer tensors (labels) must name their null.
        redraw: (cond, t, step, generator) -> Cond, called before each evaluation of a solve: for conditions that change
            with time or are drawn anew (RIVER). Its use demands a fixed grid.
    """

    values: Mapping[str, Tensor] = field(default_factory=dict)
    padding: Bool[Tensor, "b ..."] | None = None
    nulls: Mapping[str, Tensor | float | int] = field(default_factory=dict)
    redraw: Callable[[Cond, Tensor, int, RandomSource | None], Cond] | None = None

    def __getitem__(self, name: str) -> Tensor:
        try:
            return self.values[name]
        except KeyError:
            raise KeyError(f"no condition {name!r}; there are: {', '.join(self.values) or 'none'}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.values)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def varies(self) -> bool:
        """True when the condition is redrawn inside a solve."""
        return self.redraw is not None

    def at(self, t: Float[Tensor, " b"], step: int, generator: RandomSource | None = None) -> Cond:
        """The condition for an evaluation at time ``t`` in step ``step`` of a solve."""
        return self if self.redraw is None else self.redraw(self, t, step, generator)

    def real(self, x: Float[Tensor, "b *d"]) -> Float[Tensor, "b *d"]:
        """``x`` with zeros in the padding, which may hold anything: networks mix elements, and nan * 0 is nan."""
        return x if self.padding is None else x.where(self.padding, x.new_zeros(()))

    def map(self, function: Callable[[Tensor], Tensor]) -> Cond:
        """Apply ``function`` to every tensor, the padding included."""
        return replace(
            self,
            values={name: function(value) for name, value in self.values.items()},
            padding=None if self.padding is None else function(self.padding),
        )

    def take(self, index: Int[Tensor, " n"] | Bool[Tensor, " b"] | slice) -> Cond:
        """The rows ``index``, padding included."""
        return self.map(lambda value: value[index])

    def to(self, *args: object, **kwargs: object) -> Cond:
        """Move every tensor as ``Tensor.to`` does (dtypes of integer and bool tensors are left alone)."""
        device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]
        return self.map(lambda v: v.to(device=device, dtype=dtype if v.is_floating_point() else None))

    @staticmethod
    def cat(conds: Sequence[Cond]) -> Cond:
        """Rows of all ``conds`` one after the other; they must hold the same names."""
        first = conds[0]
        for other in conds[1:]:
            if set(other.values) != set(first.values) or (other.padding is None) != (first.padding is None):
                raise ValueError(f"cannot join conditions {sorted(first.values)} and {sorted(other.values)}")
        padding = None if first.padding is None else torch.cat([c.padding for c in conds if c.padding is not None])
        return replace(
            first, values={name: torch.cat([c.values[name] for c in conds]) for name in first.values}, padding=padding
        )

    def drop(self, dropped: Bool[Tensor, " b"], names: Sequence[str] | None = None) -> Cond:
        """Replace the conditions ``names`` (default: all) by their null in the rows that ``dropped`` marks."""
        chosen = tuple(self.values) if names is None else tuple(names)
        values = dict(self.values)
        for name in chosen:
            value = self[name]
            null = self.nulls.get(name)
            if null is None:
                if not value.is_floating_point():
                    raise ValueError(
                        f"condition {name!r} holds integers and names no null value: set nulls={{{name!r}: ...}}"
                    )
                null = 0.0
            null_tensor = torch.as_tensor(null, dtype=value.dtype, device=value.device).expand_as(value)
            values[name] = torch.where(dropped.reshape(-1, *[1] * (value.ndim - 1)), null_tensor, value)
        return replace(self, values=values)

    def null(self, names: Sequence[str] | None = None) -> Cond:
        """The unconditional version: ``names`` (default: all) replaced by their null in every row."""
        chosen = tuple(self.values) if names is None else tuple(names)
        if not chosen:
            return self
        some = self[chosen[0]]
        return self.drop(torch.ones(some.shape[0], dtype=torch.bool, device=some.device), chosen)
