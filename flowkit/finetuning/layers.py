"""Low-rank adapters in the layers of a task, through peft: put in, stacked, scaled, merged, taken out.

Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models" (arXiv 2106.09685): a frozen layer W x gets the
term (alpha / rank) B A x, where A is drawn at random and B begins at zero, so that the model is unchanged at first.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from flowkit.errors import UserError, nearest

#: Layers that can take an adapter.
_KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
Layer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
_BASE = ".base_layer"
#: Where peft keeps the tensors of an adapter in a layer.
_PARTS = ("lora_A", "lora_B")
#: What the first adapter of a task froze; learns again when the last one is gone.
_FROZEN: WeakKeyDictionary[nn.Module, list[nn.Parameter]] = WeakKeyDictionary()


def candidates(task: nn.Module, *, rank: int, targets: Sequence[str] = ()) -> dict[str, Layer]:
    """The layers that an adapter of this rank goes to, by name.

    By default these are the linear layers and convolutions that learn (a frozen autoencoder does not) and that are
    larger than their adapter would be. ``targets`` narrows them down: patterns (regular expressions) of which one is
    found in the layer's name; a layer that is named so is taken whatever its size.

    Raises:
        UserError: a target is no pattern or fits no layer, or nothing is left.
    """
    layers = {
        name: layer
        for name, layer in task.named_modules()
        if isinstance(layer, _KINDS) and getattr(layer, "groups", 1) == 1 and layer.weight.requires_grad
    }
    if not targets:
        chosen = {name: layer for name, layer in layers.items() if _size(layer, rank) < layer.weight.numel()}
        if not chosen:
            raise UserError(f"no layer of this model is larger than an adapter of rank {rank}: choose a smaller rank")
        return chosen
    chosen = {}
    for target in targets:
        try:
            fitting = {name: layer for name, layer in layers.items() if re.search(target, name)}
        except re.error as error:
            raise UserError(f"target {target!r} is no pattern: {error}") from None
        if not fitting:
            raise UserError(f"target {target!r} fits no layer; {nearest(target, layers)}")
        chosen |= fitting
    return chosen


def adapter_parameters(layers: Mapping[str, Layer], rank: int) -> int:
    """Numbers that an adapter of ``layers`` learns."""
    return sum(_size(layer, rank) for layer in layers.values())


def inject(
    task: nn.Module, layers: Sequence[str], *, rank: int, alpha: float, dropout: float = 0.0, name: str = "default"
) -> None:
    """Put an adapter into ``layers`` and switch it on, beside those that are there; everything else is frozen, until
    the last one is taken out.

    Draws from torch's global state.

    Raises:
        UserError: peft is missing, or the task has an adapter of this name.
    """
    peft = _peft()
    if name in names(task):
        raise UserError(f"the model has an adapter {name!r} already: give the new one another name")
    config = peft.LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=list(layers), bias="none"
    )  # fmt: skip
    active = names(task)
    if not active:
        _FROZEN[task] = [parameter for parameter in task.parameters() if parameter.requires_grad]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")  # stacking is meant
        peft.inject_adapter_in_model(config, task, adapter_name=name)
    activate(task, [*active, name])


def names(task: nn.Module) -> list[str]:
    """The adapters in the task, in the order they came."""
    found: dict[str, None] = {}
    for _, layer in adapted(task):
        found.update(dict.fromkeys(layer.lora_A))  # pyright: ignore[reportArgumentType, reportCallIssue]
    return list(found)


def adapted(task: nn.Module) -> list[tuple[str, nn.Module]]:
    """The layers that hold adapters, by name."""
    return [(name, layer) for name, layer in task.named_modules() if hasattr(layer, "lora_A")]


def activate(task: nn.Module, which: Sequence[str]) -> None:
    """Use these adapters, their terms added up; none gives the model underneath.

    Raises:
        UserError: there is no such adapter.
    """
    there = names(task)
    for name in which:
        if name not in there:
            raise UserError(f"the model has no adapter {name!r}; {nearest(name, there)}")
    for _, layer in adapted(task):
        layer.set_adapter([name for name in which if name in layer.lora_A])  # pyright: ignore


def scale(task: nn.Module, name: str, factor: float) -> None:
    """Multiply the term of an adapter by ``factor`` (1 is what was trained, 0 takes it away).

    Raises:
        UserError: there is no such adapter.
    """
    there = names(task)
    if name not in there:
        raise UserError(f"the model has no adapter {name!r}; {nearest(name, there)}")
    for _, layer in adapted(task):
        if name in layer.lora_A:  # pyright: ignore[reportOperatorIssue]
            layer.set_scale(name, factor)  # pyright: ignore


@torch.no_grad()
def merge(task: nn.Module) -> None:
    """Add the active adapters to the weights and take all adapters out: a plain model, as fast as before.

    Raises:
        UserError: a sum is not finite.
    """
    for name, layer in adapted(task):
        if layer.active_adapters:
            try:
                layer.merge(safe_merge=True)  # pyright: ignore[reportCallIssue]
            except ValueError as error:
                raise UserError(f"the adapter cannot be merged into {name}: {error}") from None
    remove(task)


def drop(task: nn.Module, name: str) -> None:
    """Take one adapter out; layers that hold no other are those from before."""
    for place, layer in adapted(task):
        if name in layer.lora_A:  # pyright: ignore[reportOperatorIssue]
            layer.delete_adapter(name)  # pyright: ignore[reportCallIssue]
        if not layer.lora_A:
            _unwrap(task, place, layer)
    if not names(task):
        _learn_again(task)


def remove(task: nn.Module) -> None:
    """Take all adapters out; the layers are those from before, bit for bit (unless they were merged)."""
    for name, layer in adapted(task):
        _unwrap(task, name, layer)
    _learn_again(task)


def adapter_state(task: nn.Module, name: str) -> dict[str, Tensor]:
    """The tensors of one adapter: ``<layer>.lora_A`` and ``<layer>.lora_B``."""
    found = {}
    for place, layer in adapted(task):
        for part in _PARTS:
            holder: Any = getattr(layer, part)
            if name in holder:
                found[f"{place}.{part}"] = holder[name].weight.detach()
    return found


@torch.no_grad()
def load_adapter_state(task: nn.Module, name: str, state: Mapping[str, Tensor]) -> None:
    """The inverse of :func:`adapter_state`.

    Raises:
        UserError: the tensors do not fit the adapter.
    """
    mine = adapter_state(task, name)
    for key in sorted({*mine, *state}):
        if key not in mine or key not in state or mine[key].shape != state[key].shape:
            raise UserError(f"the adapter's tensors do not fit the model (first: {key})")
        mine[key].copy_(state[key])


def base_state(task: nn.Module) -> dict[str, Tensor]:
    """The state dict of the model underneath: without adapters, under the names from before."""
    state = task.state_dict()
    return {
        name.replace(_BASE, ""): tensor
        for name, tensor in state.items()
        if not any(f".{part}." in name for part in _PARTS)
    }


def load_base_state(task: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Fill the model underneath; the adapters stay as they are.

    Raises:
        UserError: the tensors are those of another model.
    """
    own = task.state_dict()
    mine = {name.replace(_BASE, ""): name for name in own if not any(f".{part}." in name for part in _PARTS)}
    for name in sorted({*mine, *state}):
        if name not in mine or name not in state or own[mine[name]].shape != state[name].shape:
            raise UserError(f"the weights do not fit the model (first: {name})")
    task.load_state_dict({mine[name]: tensor for name, tensor in state.items()}, strict=False)


def _unwrap(task: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(task.get_submodule(parent), own, layer.get_base_layer())  # pyright: ignore[reportCallIssue]


def _learn_again(task: nn.Module) -> None:
    for parameter in _FROZEN.pop(task, ()):
        parameter.requires_grad_(True)


def _size(layer: Layer, rank: int) -> int:
    """Numbers of an adapter for this layer: A is as wide as the kernel reads, B as the output."""
    return rank * (layer.weight[0].numel() + layer.weight.shape[0])


def _peft() -> Any:
    try:
        import peft
    except ImportError:
        raise UserError("adapters need the package peft: pip install 'flowkit-fm[finetune]'") from None
    return peft
