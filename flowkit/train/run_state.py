"""What a checkpoint of a run holds, written and read: weights to sample, and everything needed to go on bit for bit.

``model/model.safetensors``: the whole state of the task with the averaged weights, beside it ``recipe.yaml``.
``state/``: ``weights.safetensors`` (the weights that learn) and ``optimiser.safetensors``, or both in parts in
``shards/``; ``random.safetensors`` (torch's global generators of every process) and ``trainer.json`` (step, position in
the data, and other plain numbers).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from flowkit import atomic
from flowkit.errors import UserError
from flowkit.tasks import Task
from flowkit.train import optimiser_state, random_state, shard_files, sharding
from flowkit.train.checkpoint import load_json
from flowkit.train.ema import EMA
from flowkit.train.together import Together
from flowkit.train.turns import Turn

#: Where the parts of a divided training lie in a checkpoint.
SHARDS = "state/shards"
#: Hands out the whole task with its averaged weights.
Judged = Callable[[], AbstractContextManager[Task]]


def gather_random(accelerator: Any) -> dict[str, Tensor]:
    """The states of torch's global generators, one row for each process."""
    states = random_state.capture(accelerator.device)
    if accelerator.num_processes == 1:
        return {name: state[None] for name, state in states.items()}
    return {name: accelerator.gather(state.to(accelerator.device)[None]).cpu() for name, state in states.items()}


def write(
    folder: Path, *, judged: Judged, named: Mapping[str, nn.Parameter], averaged: bool, turns: Sequence[Turn],
    random: Mapping[str, Tensor], trainer: Mapping[str, Any], recipe_text: str, together: Together, sharded: bool,
) -> None:  # fmt: skip
    """Fill the empty ``folder`` of a checkpoint; ``sharded``: all processes must call it, otherwise the first alone.

    Args:
        folder: of the checkpoint.
        judged: hands out the whole task with its averaged weights.
        named: the parameters that learn, by name.
        averaged: whether the averages are other tensors than ``named``.
        turns: the phases with their optimisers.
        random: of :func:`gather_random`.
        trainer: plain data.
        recipe_text: the resolved recipe.
        together: the processes.
        sharded: ``named`` and the optimisers' moments are divided among the processes.
    """
    tensors, plain = _moments(named, turns)
    with judged() as task, together.agreed() if sharded else nullcontext():
        if together.main:
            state = task.state_dict()
            strange = [name for name, value in state.items() if not isinstance(value, Tensor)]
            if strange:
                raise TypeError(f"a task's state must be tensors only, but {strange[0]} is not: keep it in a buffer")
            atomic.write_tensors(folder / "model" / "model.safetensors", state, {"format": "pt"})
            atomic.write_text(folder / "model" / "recipe.yaml", recipe_text)
            atomic.write_tensors(folder / "state" / "random.safetensors", random)
            atomic.write_json(folder / "state" / "trainer.json", {**trainer, "optimisers": plain})
            if sharded:
                (folder / SHARDS).mkdir()
    weights = dict(named) if averaged else {}
    if not sharded:
        if averaged:
            atomic.write_tensors(folder / "state" / "weights.safetensors", weights)
        atomic.write_tensors(folder / "state" / "optimiser.safetensors", tensors)
        return
    parts = {f"weights/{name}": value for name, value in weights.items()}
    shard_files.write(folder / SHARDS, parts | {f"optimiser/{name}": value for name, value in tensors.items()})
    if together.main:
        shard_files.sync(folder / SHARDS)


def _moments(named: Mapping[str, nn.Parameter], turns: Sequence[Turn]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The optimisers' tensors ``<phase>/<parameter>/<key>``, and what is plain, by phase."""
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {}
    names = {id(parameter): name for name, parameter in named.items()}
    for turn in turns:
        some, plain[turn.phase.name] = optimiser_state.to_tensors(turn.optimiser, names)
        tensors |= {f"{turn.phase.name}/{name}": value for name, value in some.items()}
    return tensors, plain


def read(
    folder: Path, *, task: Task, named: Mapping[str, nn.Parameter], ema: EMA | None, turns: Sequence[Turn], rank: int,
    device: torch.device, sharded: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Put a checkpoint back and return what ``trainer.json`` holds.

    It may have been written by any number of processes, in parts or whole.

    Args:
        folder: of the checkpoint.
        task: takes up its whole state.
        named: its parameters that learn, by name.
        ema: its averages, or None.
        turns: the phases with their optimisers.
        rank: this process, for its generators.
        device: of the run.
        sharded: the task is divided among the processes: all must call this.

    Raises:
        UserError: the checkpoint is of another task.
    """
    averaged = load_file(folder / "model" / "model.safetensors")
    trainer = dict(load_json(folder / "state" / "trainer.json"))
    optimisers = trainer.pop("optimisers")
    names = {id(parameter): name for name, parameter in named.items()}
    try:
        sharding.load_state(task, averaged)
        raw, moments = _from_files(folder, named, turns, sharded)
        with torch.no_grad():
            for name, parameter in named.items():
                parameter.copy_((raw or averaged)[name])
        if ema is not None:
            ema.load(averaged, int(trainer["ema_updates"]))
        for turn in turns:
            optimiser_state.from_tensors(turn.optimiser, names, moments[turn.phase.name], optimisers[turn.phase.name])
    except (RuntimeError, KeyError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise UserError(f"the checkpoint {folder} does not fit the task of this recipe: {reason}") from error
    states = load_file(folder / "state" / "random.safetensors")
    if rank < len(states["cpu"]):
        # A copy: torch 2.11 crashes on a state that is a view into other memory.
        random_state.restore({name: rows[rank].clone() for name, rows in states.items()}, device)
    return trainer


def _from_files(
    folder: Path, named: Mapping[str, nn.Parameter], turns: Sequence[Turn], sharded: bool
) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """The weights that learn (none where they are those of the model) and by phase the optimisers' tensors
    ``<parameter>/<key>``, divided as ``named`` is."""
    parts = folder / SHARDS
    if parts.is_dir():
        weights, moments = _from_shards(parts, named, turns, sharded)
    else:
        path = folder / "state" / "weights.safetensors"
        weights = load_file(path) if path.exists() else {}
        moments = load_file(folder / "state" / "optimiser.safetensors")
    cut = {name: sharding.cut(value, named[name]) for name, value in weights.items() if name in named}
    by_phase: dict[str, dict[str, Tensor]] = {}
    for turn in turns:
        prefix = f"{turn.phase.name}/"
        mine = {name.removeprefix(prefix): value for name, value in moments.items() if name.startswith(prefix)}
        by_phase[turn.phase.name] = {
            name: sharding.cut(value, named[owner]) if (owner := name.rpartition("/")[0]) in named else value
            for name, value in mine.items()
        }
    return cut, by_phase


def _from_shards(
    folder: Path, named: Mapping[str, nn.Parameter], turns: Sequence[Turn], sharded: bool
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What ``shards/`` holds of this task, each tensor as its parameter lies: divided or whole."""
    owners = {f"weights/{name}": name for name in named}
    wanted: dict[str, Tensor] = {}
    for place, (shape, dtype) in shard_files.shapes(folder).items():
        owner = owners.get(place)
        for turn in turns:
            prefix = f"optimiser/{turn.phase.name}/"
            if place.startswith(prefix):
                owner = place.removeprefix(prefix).rpartition("/")[0]
        if owner is None or owner not in named:
            continue
        parameter = named[owner]
        alike = parameter.shape == shape
        wanted[place] = torch.empty_like(parameter.detach(), dtype=dtype) if alike else torch.empty(shape, dtype=dtype)
    shard_files.read(folder, wanted, together=sharded)
    kinds = ({}, {})
    for place, value in wanted.items():
        kind, _, name = place.partition("/")
        kinds[kind == "optimiser"][name] = value
    return kinds
