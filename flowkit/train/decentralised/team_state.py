"""Each agent in a checkpoint: ``state/agents/<number>.safetensors`` (its weights, averages, optimisers' moments and
generators) and ``<number>.json``; beside them ``trainer.json``, and in ``model/`` the mean model.

Every process writes its agents' files; they are read by as many agents, in however many processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from flowkit import atomic
from flowkit.errors import UserError
from flowkit.train import optimiser_state, random_state
from flowkit.train.checkpoint import load_json
from flowkit.train.decentralised.team import Agent, Team

AGENTS = "state/agents"


def write(folder: Path, *, team: Team, trainer: Mapping[str, Any], recipe_text: str, main: bool) -> None:
    """Fill the folder of a checkpoint; every process calls it, ``main`` is the first one.

    Args:
        folder: of the checkpoint.
        team: the agents.
        trainer: plain data of the run.
        recipe_text: the resolved recipe.
        main: writes what all agents have in common.
    """
    with team.averaged():
        if main:
            atomic.write_tensors(folder / "model" / "model.safetensors", team.task.state_dict(), {"format": "pt"})
    if main:
        atomic.write_text(folder / "model" / "recipe.yaml", recipe_text)
        atomic.write_json(folder / "state" / "trainer.json", {**trainer, "agents": team.count})
    for agent in team.agents:
        tensors, plain = _of(team, agent)
        atomic.write_tensors(folder / AGENTS / f"{agent.number:04d}.safetensors", tensors)
        atomic.write_json(folder / AGENTS / f"{agent.number:04d}.json", plain)


def _of(team: Team, agent: Agent) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The agent's tensors and plain data."""
    inside = agent is team.inside
    random = random_state.capture(team.accelerator.device) if inside else agent.random
    found = {f"weights/{name}": value for name, value in team.tensors_of(agent).items()}
    found |= {f"random/{name}": value for name, value in random.items()}
    if agent.ema is not None:
        found |= {f"averages/{name}": value for name, value in agent.ema.averages().items()}
    names = {id(parameter): name for name, parameter in team.named.items()}
    plain: dict[str, Any] = {}
    for turn, optimiser in zip(team.turns.turns, agent.optimisers, strict=True):
        some, plain[turn.phase.name] = optimiser_state.to_tensors(optimiser, names)
        found |= {f"optimiser/{turn.phase.name}/{name}": value for name, value in some.items()}
    updates = 0 if agent.ema is None else agent.ema.updates
    return found, {"agent": agent.number, "optimisers": plain, "ema_updates": updates}


def agents_in(folder: Path) -> int:
    """How many agents a checkpoint holds; 0 where it is one of a single model."""
    return len(list((folder / AGENTS).glob("*.safetensors")))


def check(folder: Path, team: Team | None) -> None:
    """Raise ``UserError`` where the checkpoint is of another number of agents than the training."""
    held, asked = agents_in(folder), 0 if team is None else team.count
    if held == asked:
        return
    kinds = [f"{n} agents" if n else "one model" for n in (held, asked)]
    way = f"start {held} agents" if held else "leave trainer.topology out"
    raise UserError(f"the checkpoint {folder} is of {kinds[0]}, and this training is of {kinds[1]}: {way}")


def read(folder: Path, team: Team) -> dict[str, Any]:
    """Put a checkpoint back and return what ``trainer.json`` holds.

    Raises:
        UserError: the checkpoint is of another task.
    """
    try:
        team.task.load_state_dict(load_file(folder / "model" / "model.safetensors"))
        for agent in team.agents:
            _take_up(team, agent, folder / AGENTS / f"{agent.number:04d}")
    except (RuntimeError, KeyError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise UserError(f"the checkpoint {folder} does not fit the task of this recipe: {reason}") from error
    team.enter(team.agents[0])
    return dict(load_json(folder / "state" / "trainer.json"))


def _take_up(team: Team, agent: Agent, stem: Path) -> None:
    tensors, plain = load_file(stem.with_suffix(".safetensors")), load_json(stem.with_suffix(".json"))
    team.enter(agent)
    with torch.no_grad():
        for name, value in team.tensors_of(agent).items():
            value.copy_(tensors[f"weights/{name}"])
    if agent.ema is not None:
        averages = {name.removeprefix("averages/"): v for name, v in tensors.items() if name.startswith("averages/")}
        agent.ema.load(averages, int(plain["ema_updates"]))
    names = {id(parameter): name for name, parameter in team.named.items()}
    for turn, optimiser in zip(team.turns.turns, agent.optimisers, strict=True):
        prefix = f"optimiser/{turn.phase.name}/"
        moments = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        optimiser_state.from_tensors(optimiser, names, moments, plain["optimisers"][turn.phase.name])
    # Copies: torch 2.11 crashes on a state that is a view into other memory.
    states = {name.removeprefix("random/"): v.clone() for name, v in tensors.items() if name.startswith("random/")}
    random_state.restore(states, team.accelerator.device)
