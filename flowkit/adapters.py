"""Adapters on disk, and on a loaded model: saved alone, attached, stacked, scaled, merged, taken off.

An adapter folder holds ``adapter.safetensors`` (what was learnt: low-rank matrices, or an output layer; and the task's
statistics that the new data changed), ``adapter.json`` (format version, base with the hash of its weights, settings),
``config.yaml`` (the recipe, for the record) and ``README.md`` (the card). The base's weights are not in it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from flowkit import atomic
from flowkit.config import plugins
from flowkit.config.recipe import Recipe
from flowkit.errors import UserError
from flowkit.finetuning import layers
from flowkit.finetuning.finetune import Finetune
from flowkit.finetuning.routing import BASE
from flowkit.model_card import Card, model_card
from flowkit.procedures.pair_store import weights_digest
from flowkit.tasks import Task
from flowkit.version import __version__

#: Version of the folder's format; a newer one is refused.
FORMAT = 1
RECORD, TENSORS, CONFIG, CARD = "adapter.json", "adapter.safetensors", "config.yaml", "README.md"
_REPLACED = "replaced."


@dataclass(frozen=True)
class _Underneath:
    """A model before the first adapter: the hash of its weights, and the values that adapters replaced."""

    digest: str
    replaced: dict[str, Tensor]
    attached: list[str]


_UNDERNEATH: WeakKeyDictionary[Task, _Underneath] = WeakKeyDictionary()


def is_adapter(folder: str | Path) -> bool:
    """Whether ``folder`` is an adapter's."""
    return (Path(folder) / RECORD).is_file()


def save_adapter(
    folder: str | Path,
    task: Task,
    finetune: Finetune,
    *,
    base: Mapping[str, Tensor],
    recipe: Recipe,
    card: Card | None = None,
) -> Path:
    """Write what ``task`` learnt on its base, whole or not at all.

    Args:
        folder: must not exist, be empty or be an earlier adapter folder (which is replaced).
        task: fine-tuned, adapters in place.
        finetune: how.
        base: the base's state dict.
        recipe: the resolved recipe, kept for the record as ``config.yaml``.
        card: what the card says.

    Raises:
        UserError: the folder holds something else, or cannot be written; nothing is left behind.
    """
    from safetensors import SafetensorError

    folder, card = Path(folder), card or Card(title=f"A FlowKit adapter for {finetune.base}")
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not is_adapter(folder))):
        raise UserError(f"{folder} exists and is no adapter folder: choose another name or remove it")
    # Networks that follow another hold nothing of their own.
    following = tuple(task.networks.prefix(name) for name in task.networks.leaders)
    state = {
        name: tensor.contiguous()
        for name, tensor in layers.adapter_state(task, "default").items()
        if not name.startswith(following)
    }
    for name, tensor in layers.base_state(task).items():
        if not name.startswith(following) and not torch.equal(tensor.cpu(), base[name].cpu()):
            state[_REPLACED + name] = tensor
    info = {
        "format": FORMAT, "flowkit": __version__, "task": type(task).__name__,
        "parameters": sum(tensor.numel() for tensor in state.values()), **asdict(finetune), **asdict(card),
        "layers": [name for name, _ in layers.adapted(task) if not name.startswith(following)],
    }  # fmt: skip

    def fill(temporary: Path) -> None:
        atomic.write_tensors(temporary / TENSORS, state, {"format": "pt", "flowkit": str(FORMAT)})
        atomic.write_json(temporary / RECORD, info)
        (temporary / CONFIG).write_text(recipe.dump(), encoding="utf-8")
        (temporary / CARD).write_text(_card(card, recipe.name, info), encoding="utf-8")

    try:
        atomic.write_folder(folder, fill, replace=True)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder}: the adapter cannot be written: {plugins.one_line(error)}") from error
    return folder


def read_record(folder: str | Path) -> dict[str, Any]:
    """What ``adapter.json`` holds: ``base``, ``digest``, ``method``, ``rank``, ``layers``, ...

    Raises:
        UserError: it is missing, damaged or of a newer format.
    """
    path = Path(folder) / RECORD
    damaged = f"{path} is damaged: it is not the JSON that flowkit finetune writes"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        version = int(record["format"])
    except FileNotFoundError:
        raise UserError(f"{folder} is no adapter: it holds no {RECORD}") from None
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(damaged) from None
    if version > FORMAT:
        raise UserError(f"{path}: format {version} is newer than FlowKit {__version__} reads: upgrade flowkit-fm")
    try:
        Finetune.of(record)
        texts = [record["base"], record["digest"], *record["layers"]]
    except (KeyError, TypeError, UserError):
        raise UserError(damaged) from None
    if not all(isinstance(text, str) for text in texts):
        raise UserError(damaged)
    return record


def attach(task: Task, folder: str | Path, *, name: str = "", scale: float = 1.0) -> str:
    """Put the adapter of ``folder`` on a loaded model, beside those that are on it; returns its name there.

    Args:
        task: with the weights of the adapter's base.
        folder: of the adapter.
        name: for :mod:`flowkit.finetuning.routing` and :mod:`flowkit.finetuning.layers`; the folder's by default.
        scale: of its term; 1 is what was trained.

    Raises:
        UserError: the model is not the adapter's base, the files are damaged, or there is an adapter of that name.
    """
    folder = Path(folder)
    record, state = read_record(folder), _read_tensors(folder / TENSORS)
    name = name or _plain_name(folder)
    if name == BASE or not name.isidentifier():
        raise UserError(f"an adapter cannot be called {name!r}: letters, digits and _, and not {BASE}")
    known = _UNDERNEATH.get(task)
    if known is None:
        known = _Underneath(weights_digest(layers.base_state(task)), {}, [])
    if known.digest != record["digest"]:
        raise UserError(
            f"{folder} was trained on {record['base']} (weights {str(record['digest'])[:12]}), and this model is "
            f"another (weights {known.digest[:12]}): attach it to its own base"
        )
    if name in known.attached:
        raise UserError(f"the model has an adapter {name!r} already: give this one another name")
    replaced = {key.removeprefix(_REPLACED): value for key, value in state.items() if key.startswith(_REPLACED)}
    mine = layers.base_state(task)
    for key, value in replaced.items():
        if key not in mine or mine[key].shape != value.shape:
            raise UserError(f"{folder / TENSORS} does not fit the model (first: {key})")
    if record["method"] == "lora":
        there = {place for place, _ in task.named_modules()}
        strange = [place for place in record["layers"] if place not in there]
        if strange or not record["layers"]:
            raise UserError(f"{folder / RECORD} does not fit the model (first: {(strange or ['no layer'])[0]})")
        rank = int(record["rank"])
        with torch.random.fork_rng(devices=[]):
            layers.inject(task, record["layers"], rank=rank, alpha=Finetune.of(record).strength, name=name)
        try:
            layers.load_adapter_state(task, name, {k: v for k, v in state.items() if not k.startswith(_REPLACED)})
        except UserError as error:
            layers.drop(task, name)
            raise UserError(f"{folder / TENSORS}: {error}") from None
        if scale != 1.0:
            layers.scale(task, name, scale)
    elif scale != 1.0:
        raise UserError(f"{folder} holds a whole layer, which cannot be scaled: leave the scale at 1")
    for key, value in replaced.items():
        known.replaced.setdefault(key, mine[key].clone())
        mine[key].copy_(value)
    known.attached.append(name)
    _UNDERNEATH[task] = known
    return name


def detach(task: Task) -> None:
    """Take all adapters off: the base, bit for bit."""
    layers.remove(task)
    known = _UNDERNEATH.pop(task, None)
    if known is not None:
        mine = task.state_dict()
        for name, value in known.replaced.items():
            mine[name].copy_(value)


def merge(task: Task) -> None:
    """Add the adapters in use to the weights: a plain model that knows no base any more."""
    layers.merge(task)
    _UNDERNEATH.pop(task, None)


def _plain_name(folder: Path) -> str:
    """A name from the folder's; ``runs/kitchen/adapter`` is called kitchen."""
    place = folder.resolve()
    own = place.parent.name if place.name == "adapter" else place.name
    text = "".join(c if c.isalnum() or c == "_" else "_" for c in own)
    return text if text.isidentifier() else f"adapter_{text}"


def _read_tensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is missing, truncated or damaged: {plugins.one_line(error)}") from None


def _card(card: Card, recipe: str, info: Mapping[str, Any]) -> str:
    """The model card, with what an adapter's reader must know first."""
    how = {
        "lora": f"rank {info['rank']} in {len(info['layers'])} layers",
        "head": "the output layer alone",
        "full": "all weights",
    }[info["method"]]
    text = model_card(card, recipe, info)
    head, title, rest = text.partition(f"# {card.title}\n")
    told = f"An adapter ({how}) for `{info['base']}`, whose weights have the SHA-256\n`{info['digest']}`.\n"
    return f"{head}{title}\n{told}{rest}"
