"""Trained models on disk: ``save_pretrained`` folders, and run folders seen the same way.

A ``save_pretrained`` folder holds ``config.yaml`` (the resolved recipe), ``model.safetensors`` (weights and buffers;
EMA weights where the training kept them), ``flowkit.json`` (format version, plugin, statistics, metrics) and
``README.md`` (the model card). Nothing is pickled, and loading never needs the data. An adapter's folder
(:mod:`flowkit.adapters`) loads as its base with the adapter on it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowkit import adapters, atomic
from flowkit.config import plugins
from flowkit.config.overrides import Override
from flowkit.config.recipe import Recipe, parse_recipe
from flowkit.config.yamlfile import read_yaml
from flowkit.data import DataSource
from flowkit.errors import UserError, nearest
from flowkit.finetuning import layers
from flowkit.model_card import Card, model_card
from flowkit.solvers.sampler import Sampler
from flowkit.tasks import Task
from flowkit.version import __version__

#: Version of the folder's format; a newer one is refused, older ones are read.
FORMAT = 1
CONFIG, WEIGHTS, INFO, CARD = "config.yaml", "model.safetensors", "flowkit.json", "README.md"


@dataclass(frozen=True)
class Artifact:
    """A loaded model: the task with its weights in evaluation mode, its sampler and what its folder says about it."""

    task: Task
    sampler: Sampler
    recipe: Recipe
    info: Mapping[str, Any]
    folder: Path
    data: DataSource | None = None

    def pipeline(self) -> Any:
        """What users call: a ``TextToSpeech``, a ``VideoPredictor``, ..."""
        return self.task.pipeline(self.sampler)


def load(name: str | Path, *, device: str | torch.device = "cpu", sampler: Sampler | None = None) -> Any:
    """The pipeline of a run folder, a pretrained name (``speech/prompts-en``) or a ``save_pretrained`` folder.

    ``sampler`` replaces the one that the model was saved with.

    Raises:
        UserError: there is no such model, or its files are damaged.
    """
    artifact = from_pretrained(name, device=device)
    return artifact.task.pipeline(sampler or artifact.sampler)


def save_pretrained(
    folder: str | Path,
    task: Task,
    *,
    recipe: Recipe,
    statistics: Mapping[str, Any] | None = None,
    card: Card | None = None,
    weights: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write a model folder, whole or not at all.

    Args:
        folder: must not exist, be empty or be an earlier model folder (which is replaced).
        task: the trained task.
        recipe: the resolved recipe; its data and trainer keys are kept for the record and not needed to load.
        statistics: the data's statistics, for the record.
        card: what the model card says.
        weights: a state dict to store instead of the task's own (the EMA weights).

    Raises:
        UserError: the folder holds something else, or cannot be written (a full disk), or adapters were attached to
            the task; nothing is left behind.
    """
    from safetensors import SafetensorError

    folder, card = Path(folder), card or Card()
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / INFO).is_file())):
        raise UserError(f"{folder} exists and is no model folder: choose another name or remove it")
    if "finetune" not in recipe.resolved and layers.names(task):
        raise UserError(f"{folder}: the model has adapters, which its recipe does not: flowkit.adapters.merge first")
    state = task.state_dict() if weights is None else weights
    unused = tuple(task.networks.prefix(name) for name in task.networks.training_only)
    state = {name: tensor for name, tensor in state.items() if not name.startswith(unused)} if unused else state
    info = {
        "format": FORMAT,
        "flowkit": __version__,
        "plugin": type(task).__module__,
        "task": type(task).__name__,
        "parameters": sum(p.numel() for name, p in task.named_parameters() if name in state),
        "statistics": dict(statistics or {}),
        **asdict(card),
    }

    def fill(temporary: Path) -> None:
        (temporary / CONFIG).write_text(recipe.dump(), encoding="utf-8")
        atomic.write_tensors(temporary / WEIGHTS, state, {"format": "pt", "flowkit": str(FORMAT)})
        (temporary / INFO).write_text(json.dumps(info, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        (temporary / CARD).write_text(model_card(card, recipe.name, info), encoding="utf-8")

    try:
        atomic.write_folder(folder, fill, replace=True)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder}: the model cannot be written: {plugins.one_line(error)}") from error
    return folder


def find_run(name: str | Path) -> Path:
    """The folder of a run, a checkpoint or a pretrained model, by path or by name.

    Raises:
        UserError: there is none.
    """
    path = Path(name)
    if path.is_dir():
        return path
    if path.is_file():
        raise UserError(f"{path} is a file: give the folder it lies in")
    known = pretrained_names()
    if str(name) in known:
        return known[str(name)]
    raise UserError(f"{str(name)!r} is neither a run folder nor a pretrained model; {nearest(str(name), known)}")


def pretrained_names() -> dict[str, Path]:
    """The models that ship with plugins, by name."""
    return {
        f"{plugin.name}/{folder.parent.name}": folder.parent
        for plugin in plugins.plugins().values()
        if plugin.pretrained is not None
        for folder in sorted(Path(plugin.pretrained).glob(f"*/{INFO}"))
    }


def describe_run(name: str | Path) -> dict[str, Any]:
    """What ``flowkit show RUN`` prints: where its files are and what is known about it; builds nothing."""
    folder = find_run(name)
    if adapters.is_adapter(folder):
        record = adapters.read_record(folder)
        return {"recipe": describe_run(record["base"])["recipe"], **record, "folder": str(folder)}
    config, weights, info = _files(folder)
    return {
        "folder": str(folder),
        "recipe": str(config),
        "weights": str(weights),
        "weights_bytes": weights.stat().st_size,
        **info,
    }


def from_pretrained(
    name: str | Path, *, device: str | torch.device = "cpu", overrides: Iterable[Override] = (), with_data: bool = False
) -> Artifact:
    """Load a model; ``overrides`` change its recipe on the way (``("sampler.steps", "4")``).

    ``with_data`` also builds its data source (which reads no files before it is prepared), for evaluation.

    Raises:
        UserError: missing, truncated or mismatched files, a newer format, an unknown class.
    """
    folder = find_run(name)
    if adapters.is_adapter(folder):
        return _with_adapter(folder, device, overrides, with_data)
    config, weights, info = _files(folder)
    raw = read_yaml(config)
    keys = ("data", "task", "sampler") if with_data else ("task", "sampler")
    recipe = parse_recipe(raw, str(config), overrides, keys=keys)
    built = recipe.build()
    _load_weights(built.task, weights)
    built.task.to(_device(device)).eval()
    return Artifact(built.task, built.sampler, recipe, info, folder, built.data)


def _with_adapter(folder: Path, device: str | torch.device, overrides: Iterable[Override], with_data: bool) -> Artifact:
    """The adapter's base with the adapter on it."""
    record = adapters.read_record(folder)
    try:
        base = from_pretrained(record["base"], device=device, overrides=overrides, with_data=with_data)
    except UserError as error:
        raise UserError(f"{folder} is an adapter, and its base cannot be read: {error}") from error
    adapters.attach(base.task, folder)
    return replace(base, info={**base.info, **record}, folder=folder)


def _device(device: str | torch.device) -> torch.device:
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"device {str(device)!r} cannot be used: {plugins.one_line(error).split('. ')[0]}; cpu always works"
        ) from None
    return chosen


def _files(folder: Path) -> tuple[Path, Path, dict[str, Any]]:
    """Recipe, weights and information of a model, run or checkpoint folder."""
    if (folder / INFO).is_file():
        return _existing(folder / CONFIG), _existing(folder / WEIGHTS), _read_info(folder / INFO)
    run, checkpoint = folder, folder
    if (folder / "model").is_dir() and folder.resolve().parent.name == "checkpoints":
        run, checkpoint = folder.resolve().parent.parent, folder.resolve()
    elif (folder / "checkpoints").is_dir():
        checkpoint = _best_checkpoint(folder)
    else:
        raise UserError(f"{folder} is no model: it holds neither {INFO} (save_pretrained) nor checkpoints/ (a run)")
    summary = run / "summary.json"
    info = json.loads(summary.read_text(encoding="utf-8")) if summary.is_file() else {}
    return (
        _existing(run / "recipe.yaml"),
        _existing(checkpoint / "model" / WEIGHTS),
        {"step": _step_of(checkpoint), **info},
    )


def _best_checkpoint(run: Path) -> Path:
    """The best checkpoint by the run's metric where one was kept, else the last."""
    folder = run / "checkpoints"
    for link in ("best", "last"):
        if (folder / link).is_dir():
            return (folder / link).resolve()
    # complete.json seals a whole checkpoint; links do not exist on every file system.
    steps = sorted((p for p in folder.iterdir() if p.name.isdigit() and (p / "complete.json").is_file()), key=_step_of)
    if not steps:
        raise UserError(f"{run} has no complete checkpoint yet")
    return steps[-1]


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name) if checkpoint.name.isdigit() else -1


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise UserError(f"{path} is missing: the folder is incomplete")
    return path


def _read_info(path: Path) -> dict[str, Any]:
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
        version = int(info["format"])
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is damaged: it is not the JSON that save_pretrained writes") from None
    if version > FORMAT:
        raise UserError(
            f"{path}: format {version} is newer than FlowKit {__version__} reads (up to {FORMAT}): upgrade flowkit-fm"
        )
    return info


def _load_weights(task: Task, path: Path) -> None:
    """Fill the task's parameters and buffers; every difference is named."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    left_out: list[str] = []
    try:
        stored = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is truncated or damaged: {plugins.one_line(error)}") from None
    wanted = task.state_dict()
    for name in task.networks.training_only:  # model folders leave them out, runs have them
        prefix = task.networks.prefix(name)
        if not any(key.startswith(prefix) for key in stored):
            left_out.append(name)
            wanted = {key: tensor for key, tensor in wanted.items() if not key.startswith(prefix)}
    missing, unknown = sorted(set(wanted) - set(stored)), sorted(set(stored) - set(wanted))
    if missing or unknown:
        parts = [
            f"{len(names)} {what} (first: {names[0]})"
            for names, what in ((missing, "missing"), (unknown, "unknown"))
            if names
        ]
        raise UserError(f"{path} does not fit its recipe: tensors {' and '.join(parts)}")
    for key, tensor in stored.items():
        if tensor.shape != wanted[key].shape:
            shapes = f"{key} has shape {tuple(tensor.shape)}, the task wants {tuple(wanted[key].shape)}"
            raise UserError(f"{path} does not fit its recipe: {shapes}")
    task.load_state_dict(stored, strict=not left_out)
    for name in left_out:
        task.networks.came_without(name)
