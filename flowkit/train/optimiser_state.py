"""The state of an optimiser as named tensors and JSON: no pickle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from flowkit.errors import UserError


def to_tensors(optimiser: torch.optim.Optimizer, names: Mapping[int, str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors ``<parameter>/<key>`` and what is plain data.

    Args:
        optimiser: its state is read, not copied.
        names: id of a parameter -> its name in the task.
    """
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {}
    for parameter, state in optimiser.state.items():
        for key, value in state.items():
            place = f"{names[id(parameter)]}/{key}"
            if isinstance(value, Tensor):
                tensors[place] = value
            else:
                plain[place] = value
    return tensors, {"class": type(optimiser).__name__, "plain": plain}


def from_tensors(
    optimiser: torch.optim.Optimizer, names: Mapping[int, str], tensors: Mapping[str, Tensor], plain: Mapping[str, Any]
) -> None:
    """Put back what :func:`to_tensors` took; settings (betas, decay) stay those of the recipe.

    Raises:
        UserError: the checkpoint was written by another kind of optimiser.
    """
    if plain["class"] != type(optimiser).__name__:
        raise UserError(
            f"the checkpoint holds the state of {plain['class']}, the recipe asks for {type(optimiser).__name__}: "
            "keep trainer.optimiser when resuming"
        )
    by_parameter: dict[str, dict[str, Any]] = {}
    for place, value in [*tensors.items(), *plain["plain"].items()]:
        parameter, _, key = place.rpartition("/")
        by_parameter.setdefault(parameter, {})[key] = value
    # load_state_dict knows which entries follow the parameter's device and dtype (the count of steps need not).
    order: Sequence[torch.nn.Parameter] = [p for group in optimiser.param_groups for p in group["params"]]
    state = {
        index: by_parameter[names[id(parameter)]]
        for index, parameter in enumerate(order)
        if names[id(parameter)] in by_parameter
    }
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
