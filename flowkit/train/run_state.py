"""What a checkpoint of a run holds, written and read: weights to sample, and everything needed to go on bit for bit.

``model/model.safetensors``: the whole state of the task with the averaged weights, beside it ``recipe.yaml``.
``state/``: ``weights.safetensors`` (the weights that learn), ``optimiser.safetensors``, ``random.safetensors`` (torch's
global generators of every process) and ``trainer.json`` (step, position in the data, and other plain numbers).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from flowkit import atomic
from flowkit.errors import UserError
from flowkit.tasks import Task
from flowkit.train import optimiser_state, random_state
from flowkit.train.checkpoint import load_json
from flowkit.train.ema import EMA
from flowkit.train.turns import Turn


def gather_random(accelerator: Any) -> dict[str, Tensor]:
    """The states of torch's global generators, one row for each process."""
    states = random_state.capture(accelerator.device)
    if accelerator.num_processes == 1:
        return {name: state[None] for name, state in states.items()}
    return {name: accelerator.gather(state.to(accelerator.device)[None]).cpu() for name, state in states.items()}


def write(
    folder: Path, *, task: Task, named: Mapping[str, nn.Parameter], ema: EMA | None, turns: Sequence[Turn],
    random: Mapping[str, Tensor], trainer: Mapping[str, Any], recipe_text: str,
) -> None:  # fmt: skip
    """Fill the empty ``folder`` of a checkpoint; arguments as in :func:`read`, ``trainer`` holds plain data."""
    with ema.swapped() if ema is not None else nullcontext():
        state = task.state_dict()
        strange = [name for name, value in state.items() if not isinstance(value, Tensor)]
        if strange:
            raise TypeError(f"a task's state must be tensors only, but {strange[0]} is not: keep it in a buffer")
        atomic.write_tensors(folder / "model" / "model.safetensors", state, {"format": "pt"})
    atomic.write_text(folder / "model" / "recipe.yaml", recipe_text)
    if ema is not None:
        atomic.write_tensors(folder / "state" / "weights.safetensors", dict(named))
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {}
    names = {id(parameter): name for name, parameter in named.items()}
    for turn in turns:
        some, plain[turn.phase.name] = optimiser_state.to_tensors(turn.optimiser, names)
        tensors |= {f"{turn.phase.name}/{name}": value for name, value in some.items()}
    atomic.write_tensors(folder / "state" / "optimiser.safetensors", tensors)
    atomic.write_tensors(folder / "state" / "random.safetensors", random)
    atomic.write_json(folder / "state" / "trainer.json", {**trainer, "optimisers": plain})


def read(
    folder: Path, *, task: Task, named: Mapping[str, nn.Parameter], ema: EMA | None, turns: Sequence[Turn], rank: int,
    device: torch.device,
) -> dict[str, Any]:  # fmt: skip
    """Put a checkpoint back and return what ``trainer.json`` holds.

    Args:
        folder: of the checkpoint.
        task: takes up its whole state.
        named: its parameters that learn, by name.
        ema: its averages, or None.
        turns: the phases with their optimisers.
        rank: this process, for its generators.
        device: of the run.

    Raises:
        UserError: the checkpoint is of another task.
    """
    averaged = load_file(folder / "model" / "model.safetensors")
    weights = folder / "state" / "weights.safetensors"
    raw = load_file(weights) if weights.exists() else averaged
    trainer = dict(load_json(folder / "state" / "trainer.json"))
    optimisers = trainer.pop("optimisers")
    tensors = load_file(folder / "state" / "optimiser.safetensors")
    names = {id(parameter): name for name, parameter in named.items()}
    try:
        task.load_state_dict(averaged)
        with torch.no_grad():
            for name, parameter in named.items():
                parameter.copy_(raw[name])
        if ema is not None:
            ema.load(averaged, int(trainer["ema_updates"]))
        for turn in turns:
            prefix = f"{turn.phase.name}/"
            some = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
            optimiser_state.from_tensors(turn.optimiser, names, some, optimisers[turn.phase.name])
    except (RuntimeError, KeyError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise UserError(f"the checkpoint {folder} does not fit the task of this recipe: {reason}") from error
    states = load_file(folder / "state" / "random.safetensors")
    if rank < len(states["cpu"]):
        # A copy: torch 2.11 crashes on a state that is a view into other memory.
        random_state.restore({name: rows[rank].clone() for name, rows in states.items()}, device)
    return trainer
