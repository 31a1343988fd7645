"""A network, its path and the meaning of its output, seen as a velocity field."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from jaxtyping import Float
from torch import Tensor

from flowkit.cond import Cond
from flowkit.errors import UserError, nearest
from flowkit.fields.field import Evaluation, Field
from flowkit.fields.predictions import Prediction, Velocity
from flowkit.nn.network import Network
from flowkit.paths.path import Path

__all__ = ["NetworkField"]

# Shared empties: this call is the inner loop of sampling.
_NO_COND = Cond()
_NO_HEADS: Mapping[str, Tensor] = MappingProxyType({})


class NetworkField(Field):
    """Field of one network call: the head ``head`` becomes the velocity, the other heads travel with it.

    Args:
        network: takes one state and one time.
        path: the path it was trained on.
        prediction: what the head means; default :class:`Velocity`.
        head: name of the head that is read.
        independent_gaussian: True when it was trained with a standard normal source and the independent coupling:
            allows scores.

    Raises:
        UserError: when the network has no head of that name, or wants more than one state or time.
    """

    def __init__(
        self,
        network: Network,
        path: Path,
        prediction: Prediction | None = None,
        *,
        head: str = "v",
        independent_gaussian: bool = False,
    ) -> None:
        names = [h.name for h in network.spec.heads]
        if head not in names:
            raise UserError(f"the network has no head {head!r}: {nearest(head, names)}")
        if (network.spec.inputs, network.spec.times) != (1, 1):
            raise UserError(f"a field needs a network of one state and one time, this one has {network.spec}")
        self.network = network
        self.path = path
        self.prediction = Velocity() if prediction is None else prediction
        self.head = head
        self.independent_gaussian = independent_gaussian
        self._plain = type(self.prediction) is Velocity

    def __call__(self, x: Float[Tensor, "b *d"], t: Float[Tensor, " b"], cond: Cond | None = None) -> Evaluation:
        heads = self.network((x,), (t,), _NO_COND if cond is None else cond)
        v = heads[self.head]
        if not self._plain:
            v = self.prediction.to_velocity(v, x, t, self.path)  # pyright: ignore[reportArgumentType]
        if len(heads) == 1:
            return Evaluation(v, _NO_HEADS)
        return Evaluation(v, {name: value for name, value in heads.items() if name != self.head})

    def __repr__(self) -> str:
        return f"NetworkField({type(self.network).__name__}, {self.path!r}, {self.prediction!r})"
