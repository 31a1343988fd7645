"""What couplings by optimal transport share: the cost over unpadded elements, and how conditions are kept.

Moving x0 between samples of different conditions makes q(x0 | cond) differ from the p(x0) that sampling draws from. So
transport runs inside each value of a condition (``within``), or pays for changing the condition (``condition_cost``; x0
of row i counts as drawn for the condition of row i: Cheng and Schwing 2025, arXiv 2503.10636), or the user says
``ignore_condition``. Silence is refused.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from flowkit.cond import Cond
from flowkit.couplings.coupling import Batch, Coupling, Draw
from flowkit.errors import UserError, nearest
from flowkit.random import RandomSource


def squared_cost(
    x0: Float[Tensor, "n *d"], x1: Float[Tensor, "m *d"], padding: Bool[Tensor, "m ..."] | None = None
) -> Float[Tensor, "n m"]:
    """C_ij = |x0_i - x1_j|^2 in float64, summed over the elements that are real in x1_j (x0_i would be put there)."""
    a, b = x0.flatten(1).double(), x1.flatten(1).double()
    if padding is None:
        a_norm = a.square().sum(1, keepdim=True)
    else:
        real = padding.expand_as(x1).flatten(1)
        b = b.where(real, b.new_zeros(()))
        a_norm = a.square() @ real.double().T
    return (a_norm - 2.0 * a @ b.T + b.square().sum(1)).clamp_min(0.0)


def equal_rows(values: Sequence[Tensor]) -> list[Int[Tensor, " n"]]:
    """The rows of a batch grouped by equal values of all ``values``; the groups partition the batch."""
    key = torch.cat([value.reshape(value.shape[0], -1).double() for value in values], 1)
    label = torch.unique(key, dim=0, return_inverse=True)[1]
    return [torch.nonzero(label == k).squeeze(1) for k in range(int(label.max()) + 1)]


class TransportCoupling(Coupling):
    """Pair by the transport cost |x0 - x1|^2 over unpadded elements; a subclass turns a cost into pairs.

    The plan is one of the batch that a process holds, never of the global batch.

    Args:
        within: name or names of conditions; x0 moves only between samples whose values are equal.
        condition_cost: name -> weight w; moving x0 from row i to j costs w |c_i - c_j|^2 more (w where integers
            differ).
        ignore_condition: transport over the whole batch whatever the other conditions say.
    """

    def __init__(
        self,
        *,
        within: str | list[str] | None = None,
        condition_cost: dict[str, float] | None = None,
        ignore_condition: bool = False,
    ) -> None:
        super().__init__()
        self.within: tuple[str, ...] = (within,) if isinstance(within, str) else tuple(within or ())
        self.condition_cost: Mapping[str, float] = dict(condition_cost or {})
        self.ignore_condition = ignore_condition

    @abstractmethod
    def assign(
        self, cost: Float[Tensor, "n n"], generator: RandomSource | None
    ) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"] | None]:
        """Rows of x0 and of x1 to put together; None for the second keeps every x1 in its place."""

    def draw(self, batch: Batch, generator: RandomSource | None) -> Draw:
        """Pair the batch.

        Raises:
            UserError: the batch has conditions of which the coupling was told nothing, or lacks one that it was told
            of.
        """
        if batch.x0 is None or batch.x1 is None:
            raise UserError(f"{type(self).__name__} pairs x0 with x1: the batch lacks one of them")
        self._check(batch.cond)
        x0, x1 = batch.x0, batch.x1
        rows = torch.arange(x1.shape[0], device=x1.device)
        groups = equal_rows([batch.cond[name] for name in self.within]) if self.within else [rows]
        from_x0, from_x1, x1_stays = rows.clone(), rows.clone(), True
        for group in groups:
            padding = None if batch.cond.padding is None else batch.cond.padding[group]
            cost = squared_cost(x0[group], x1[group], padding) + self._extra_cost(batch.cond, group)
            i, j = self.assign(cost, generator)
            from_x0[group] = group[i.to(group.device)]
            if j is not None:
                from_x1[group], x1_stays = group[j.to(group.device)], False
        if x1_stays:
            return Draw(batch.replace(x0=x0[from_x0]))
        keep = None if batch.keep is None else batch.keep[from_x1]
        weight = None if batch.weight is None else batch.weight[from_x1]
        moved = batch.replace(x0=x0[from_x0], x1=x1[from_x1], cond=batch.cond.take(from_x1), keep=keep, weight=weight)
        return Draw(moved)

    def _check(self, cond: Cond) -> None:
        said = (*self.within, *self.condition_cost)
        for name in said:
            if name not in cond.values:
                raise UserError(
                    f"{type(self).__name__}: the batch has no condition {name!r}: {nearest(name, cond.values)}"
                )
        silent = [name for name in cond.values if name not in said]
        if silent and not self.ignore_condition:
            first = silent[0]
            raise UserError(
                f"{type(self).__name__} would move x0 across the conditions {', '.join(silent)}: "
                f"say within={first!r}, condition_cost={{{first!r}: ...}} or ignore_condition=True"
            )

    def _extra_cost(self, cond: Cond, group: Int[Tensor, " n"]) -> Float[Tensor, "n n"] | float:
        total: Tensor | float = 0.0
        for name, weight in self.condition_cost.items():
            value = cond[name][group]
            if value.is_floating_point():
                total = total + weight * squared_cost(value, value)
            else:
                flat = value.reshape(value.shape[0], -1)
                total = total + weight * (flat[:, None] != flat[None]).any(-1).double()
        return total
