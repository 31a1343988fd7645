"""Scales of states and actions, and what a policy must know of its data, kept with the weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from domains.policy.observations import ObservationLayout
from flowkit.errors import UserError

#: Bytes of the stored facts. A fixed size, so that checkpoints of one recipe fit each other.
STORED = 8192
#: An entry that varies by less than this in the training data is centred and not scaled.
CONSTANT = 1e-4
#: ``range``: the training data's smallest and largest value become -1 and 1. ``deviation``: mean 0, deviation 1.
Mode = Literal["range", "deviation"]
_FACTS = ("environment", "layout", "history", "horizon", "execute", "license", "source", "refitted")


class Normaliser(nn.Module):
    """Affine scales per entry, (x - shift) * scale, measured on the training split; all of it is in the buffers.

    Buffers: ``state_scale``, ``state_shift`` (S,), ``action_scale``, ``action_shift`` (A,) of the scales,
    ``action_low``, ``action_high`` (A,), the bounds of the environment (may be infinite), and ``facts``, JSON in a row
    of :data:`STORED` bytes: environment, observation layout, history, horizon, execute.

    ``range`` is the scaling of Diffusion Policy (Chi et al. 2023): scale 2 / (max - min), the middle goes to 0; an
    entry whose range is below :data:`CONSTANT` is centred and keeps its scale. Subtracting first keeps the digits of
    entries that are far from 0.

    Args:
        state: entries of the state, S.
        actions: entries of an action, A.
        state_mode: how states are scaled. Actions are always scaled by their range: methods that clip need that.
    """

    state_scale: Tensor
    state_shift: Tensor
    action_scale: Tensor
    action_shift: Tensor
    action_low: Tensor
    action_high: Tensor
    facts: Tensor

    def __init__(self, state: int, actions: int, *, state_mode: Mode = "range") -> None:
        super().__init__()
        if state_mode not in ("range", "deviation"):
            raise UserError(f"states can be scaled by their range or deviation, not by {state_mode!r}")
        self.state_mode: Mode = state_mode
        self.register_buffer("state_scale", torch.ones(state))
        self.register_buffer("state_shift", torch.zeros(state))
        self.register_buffer("action_scale", torch.ones(actions))
        self.register_buffer("action_shift", torch.zeros(actions))
        self.register_buffer("action_low", torch.full((actions,), -torch.inf))
        self.register_buffer("action_high", torch.full((actions,), torch.inf))
        self.register_buffer("facts", torch.zeros(STORED, dtype=torch.uint8))

    def adapt(self, statistics: Mapping[str, Any]) -> None:
        """Fill all buffers from :meth:`Demonstrations.statistics`.

        Raises:
            UserError: the data has another number of entries, or its facts are too long to be kept.
        """
        for name, kind in (("state", "state"), ("actions", "action")):
            mine, theirs = len(getattr(self, f"{kind}_scale")), len(statistics[kind]["min"])
            if mine != theirs:
                raise UserError(f"task.init_args.{name} is {mine}, the data has {theirs}")
            scale, shift = _scales(statistics[kind], self.state_mode if kind == "state" else "range")
            getattr(self, f"{kind}_scale").copy_(scale)
            getattr(self, f"{kind}_shift").copy_(shift)
        self._take(statistics)

    def refit(self, statistics: Mapping[str, Any]) -> None:
        """Fill the bounds and facts, and keep the scales; from now on the environment is that of these data."""
        self._take({**statistics, "refitted": True})

    def _take(self, statistics: Mapping[str, Any]) -> None:
        for name, unbounded in (("action_low", -torch.inf), ("action_high", torch.inf)):
            bounds = [unbounded if bound is None else bound for bound in statistics[name]]
            getattr(self, name).copy_(torch.tensor(bounds, dtype=torch.float32))
        self.remember({name: statistics[name] for name in _FACTS if name in statistics})

    def remember(self, facts: Mapping[str, Any]) -> None:
        """Store ``facts`` (what JSON holds) in place of those that are there."""
        text = json.dumps(dict(facts), ensure_ascii=False, separators=(",", ":")).encode()
        if len(text) > STORED:
            raise UserError(
                f"the names of the observations take {len(text)} bytes, {STORED} can be kept with the weights: keep "
                "fewer keys or use shorter names"
            )
        self.facts.copy_(torch.frombuffer(bytearray(text.ljust(STORED)), dtype=torch.uint8))

    @property
    def fitted(self) -> bool:
        """Whether :meth:`adapt` has been called, here or before the weights were written."""
        return bool(self.facts.any())

    def recall(self) -> dict[str, Any]:
        """The stored facts: ``environment``, ``layout`` (JSON), ``history``, ``horizon``, ``execute``, ...

        Raises:
            UserError: nothing was stored: the model was never trained.
        """
        text = bytes(self.facts.cpu().numpy()).rstrip(b"\0").strip()
        if not text:
            raise UserError(
                "this policy has seen no data yet: it knows neither the scale nor the layout of observations and "
                "actions; train it first"
            )
        return json.loads(text)

    @property
    def layout(self) -> ObservationLayout:
        """Layout of the observations that the policy was trained on."""
        return ObservationLayout.from_json(self.recall()["layout"])

    def normalise_state(self, x: Tensor) -> Tensor:
        """States (..., S) in the environment's units to about -1 .. 1."""
        return (x - self.state_shift) * self.state_scale

    def normalise_actions(self, a: Tensor) -> Tensor:
        """Actions (..., A) in the environment's units to -1 .. 1 (over the training data)."""
        return (a - self.action_shift) * self.action_scale

    def actions(self, normalised: Tensor) -> Tensor:
        """Actions (..., A) in the environment's units, clipped to the environment's bounds."""
        plain = normalised / self.action_scale + self.action_shift
        return torch.minimum(torch.maximum(plain, self.action_low), self.action_high)

    def states(self, normalised: Tensor) -> Tensor:
        """The inverse of :meth:`normalise_state`."""
        return normalised / self.state_scale + self.state_shift


def _scales(statistics: Mapping[str, Any], mode: Mode) -> tuple[Tensor, Tensor]:
    """Scale and shift (float64) of one kind of vector."""
    low, high = (torch.as_tensor(statistics[name], dtype=torch.float64) for name in ("min", "max"))
    if mode == "range":
        spread, shift, size = high - low, (high + low) / 2, 2.0
    else:
        spread = torch.as_tensor(statistics["std"], dtype=torch.float64)
        shift, size = torch.as_tensor(statistics["mean"], dtype=torch.float64), 1.0
    scale = torch.where(spread < CONSTANT, torch.ones_like(spread), size / spread.clamp(min=CONSTANT))
    return scale, shift
