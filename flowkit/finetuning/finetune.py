"""What learns when a trained model is fitted to other data: the recipe's key ``finetune``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from torch import nn

from flowkit.errors import UserError
from flowkit.finetuning import layers
from flowkit.tasks import Task

#: ``lora``: low-rank adapters, all else frozen. ``head``: the output layer of each network. ``full``: everything.
Method = Literal["lora", "head", "full"]


@dataclass(frozen=True)
class Finetune:
    """How a model is fitted to other data, and which model it was.

    A recipe with this key builds its task with the adapters in place, so that training, checkpoints, resuming and
    loading need not know of them.

    Args:
        base: run, pretrained name or model folder that it began as.
        digest: SHA-256 of the base's weights.
        method: what learns: ``lora`` (adapters), ``head`` (the output layer of each network) or ``full`` (everything).
        rank: of the adapters.
        alpha: the adapters' term is multiplied by alpha / rank; 0 means 2 rank.
        dropout: of the adapters' inputs, in [0, 1).
        targets: patterns of the names of the layers that get adapters; [] means all linear layers and convolutions
            that are larger than their adapter.

    Raises:
        UserError: a number out of its range.
    """

    base: str
    digest: str
    method: Method = "lora"
    rank: int = 8
    alpha: float = 0.0
    dropout: float = 0.0
    targets: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.method not in ("lora", "head", "full"):
            raise UserError(f"finetune.method is lora, head or full, not {self.method!r}")
        if self.rank < 1 or self.alpha < 0 or not 0 <= self.dropout < 1:
            raise UserError(
                f"finetune: rank must be at least 1, alpha at least 0 and dropout in [0, 1), not {self.rank}, "
                f"{self.alpha:g} and {self.dropout:g}"
            )

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Finetune:
        """From an adapter's record, which holds more."""
        return cls(**{f.name: record[f.name] for f in fields(cls) if f.name in record})

    @property
    def strength(self) -> float:
        """alpha, its default resolved."""
        return self.alpha or 2.0 * self.rank

    def apply(self, task: Task) -> None:
        """Put the adapters in, and freeze what does not learn.

        Raises:
            UserError: the task has no layer of that kind.
        """
        if self.method == "lora":
            chosen = layers.candidates(task, rank=self.rank, targets=self.targets)
            layers.inject(task, list(chosen), rank=self.rank, alpha=self.strength, dropout=self.dropout)
            task.networks.copy_anew()
        elif self.method == "head":
            learning = {id(p) for layer in heads(task).values() for p in layer.parameters()}
            for parameter in task.parameters():
                parameter.requires_grad_(id(parameter) in learning and parameter.requires_grad)


def heads(task: Task) -> dict[str, nn.Module]:
    """The output layer of each of the task's networks: the last layer with weights, by name; where a network has
    several heads (AdaFlow's variance is one), that of its first.

    Raises:
        UserError: there is none.
    """
    found: dict[str, nn.Module] = {}
    for network in task.networks:
        layers_of = {
            name: layer
            for name, layer in task.networks[network].named_modules()
            if any(p.requires_grad for p in layer.parameters(recurse=False)) and name
        }
        main = f".heads.{task.networks[network].spec.heads[0].name}."
        chosen = [name for name in layers_of if main in f".{name}."] or list(layers_of)
        if chosen:
            found[f"networks.by_name.{network}.{chosen[-1]}"] = layers_of[chosen[-1]]
    if not found:
        raise UserError(
            f"{type(task).__name__} has no network whose output layer could learn alone: use --adapter lora"
        )
    return found
