"""Fine-tuning: fit a trained model to other data, by adapters, its output layer or all of its weights."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from flowkit import adapters
from flowkit.artifacts import describe_run, from_pretrained
from flowkit.config import plugins
from flowkit.config.classes import import_path, resolve
from flowkit.config.overrides import Override
from flowkit.config.recipe import Recipe, find_recipe, parse_recipe
from flowkit.config.yamlfile import read_yaml
from flowkit.data import DataSource
from flowkit.errors import UserError
from flowkit.finetuning import layers
from flowkit.finetuning.finetune import Finetune, Method
from flowkit.model_card import Card
from flowkit.procedures.pair_store import weights_digest
from flowkit.tasks import Task
from flowkit.train.trainer import Trainer

#: Folder of the adapter inside a run's.
ADAPTER = "adapter"
#: Share of the base's peak learning rate. Adapters begin at nothing and want larger steps; whole weights were learnt.
_RATES: Mapping[Method, float] = {"lora": 3.0, "head": 1.0, "full": 0.3}


@dataclass(frozen=True)
class Finetuning:
    """One fine-tuning.

    Args:
        base: run, pretrained name or model folder to begin from.
        method: what learns; see :class:`Finetune`.
        rank, alpha, dropout, targets: of the adapters; see :class:`Finetune`.
        data: a recipe (a file or a name) whose data is taken, or the name of a data source, which gets from
            the base's data what must fit the model; "" keeps the base's class and arguments.
        overrides: of the resulting recipe.
        steps: of the training, unless an override says otherwise.
        seed: of the training.
    """

    base: str
    method: Method = "lora"
    rank: int = 8
    alpha: float = 0.0
    dropout: float = 0.0
    targets: list[str] = field(default_factory=list)
    data: str = ""
    overrides: Iterable[Override] = ()
    steps: int = 1000
    seed: int | None = None

    def run(self, folder: Path, *, resume: str | int | None = None, dry_run: bool = False) -> dict[str, Any]:
        """Train in ``folder`` and write ``folder/adapter`` (not for ``full``); returns what ``summary.json`` holds.

        Raises:
            UserError: no such base or data, the data does not fit the model, or the folder holds another run or was
                begun on other weights.
        """
        if adapters.is_adapter(self.base):
            raise UserError(f"{self.base} is an adapter: make a model of it first, with flowkit merge {self.base}")
        artifact = from_pretrained(self.base)
        if layers.names(artifact.task):
            raise UserError(
                f"{self.base} was itself fitted by adapters: make a model of it first, with flowkit merge "
                f"{Path(self.base) / ADAPTER}"
            )
        if artifact.task.objective.needs_teacher:
            raise UserError(
                f"{self.base} learnt from a trained flow, not from data: fine-tune its teacher, and train it on that"
            )
        state = {name: tensor.clone() for name, tensor in artifact.task.state_dict().items()}
        digest = weights_digest(state)
        if resume is not None:
            _same_base(folder, self.base, digest)
        recipe = self.recipe(digest)
        built = recipe.build()
        layers.load_base_state(built.task, state)
        summary = built.trainer.fit(
            built.task, built.data, sampler=built.sampler, seed=built.seed, folder=folder, recipe_text=recipe.dump(),
            resume=resume, dry_run=dry_run, warm_start=True,
        )  # fmt: skip
        if not dry_run and self.method != "full" and not int(os.environ.get("RANK", "0")):
            self._save(folder / ADAPTER, built.task, recipe, state, built.data, summary)
        return summary

    def recipe(self, digest: str) -> Recipe:
        """The recipe of the fine-tuning: the base's, with other data and a gentler trainer."""
        path = Path(describe_run(self.base)["recipe"])
        raw = dict(read_yaml(path))
        if self.data:
            raw["data"] = self._data(raw.get("data"))
        trainer = dict(raw.get("trainer") or {})
        rate = float(trainer.get("lr", Trainer.lr)) * _RATES[self.method]
        regular = max(self.steps // 5, 1)
        trainer |= {
            "steps": self.steps, "lr": rate, "warmup": min(100, self.steps // 10), "schedule": "cosine", "seconds": 0.0,
            "ema": min(float(trainer.get("ema", Trainer.ema)), 0.99), "evaluate_every": regular,
            "sample_every": regular, "checkpoint_every": regular,
        }  # fmt: skip
        raw["trainer"] = trainer
        raw["finetune"] = {
            "base": str(self.base), "digest": digest, "method": self.method, "rank": self.rank, "alpha": self.alpha,
            "dropout": self.dropout, "targets": list(self.targets),
        }  # fmt: skip
        seed = [] if self.seed is None else [("seed", str(self.seed))]
        return parse_recipe(raw, f"{self.base}, fine-tuned", [*self.overrides, *seed], trainer=Trainer)

    def _data(self, bases: Any) -> Any:
        """The data of a recipe, or of a class by its name, which then gets what must fit the model (mels, frames,
        horizon) from the base's data."""
        if self.data.isidentifier():
            plugins.import_classes()
            wanted = resolve(DataSource, self.data, "--data").fitting
            known = _arguments(bases)
            return {"class_path": self.data, "init_args": {name: known[name] for name in wanted if name in known}}
        found = read_yaml(find_recipe(self.data))
        if not isinstance(found, Mapping) or not found.get("data"):
            raise UserError(f"--data {self.data}: the recipe names no data")
        return found["data"]

    def _save(
        self, folder: Path, task: Task, recipe: Recipe, base: Mapping[str, Tensor], data: DataSource,
        summary: Mapping[str, Any],
    ) -> None:  # fmt: skip
        statistics = data.statistics()
        made = {name: value for name, value in summary["metrics"].items() if name.startswith("eval/")}
        adapters.save_adapter(
            folder, task, Finetune.of(dict(recipe.resolved["finetune"])), base=base, recipe=recipe,
            card=Card(
                title=f"An adapter for {self.base}",
                data=f"{import_path(type(data))}: {statistics.get('source') or statistics.get('name') or 'own data'}",
                licence=str(statistics.get("licence") or ""), metrics=made,
            ),
        )  # fmt: skip


def _same_base(folder: Path, base: str, digest: str) -> None:
    """A fine-tuning goes on with the weights that it began with: its checkpoints hold them.

    Raises:
        UserError: ``base`` has others now, or the run is no fine-tuning.
    """
    path = folder / "recipe.yaml"
    if not path.is_file():
        return  # the trainer says that nothing can be resumed
    begun = read_yaml(path).get("finetune")
    if not isinstance(begun, Mapping):
        raise UserError(f"{folder} is a run that is no fine-tuning: name another --out")
    if begun.get("digest") != digest:
        raise UserError(
            f"{folder} was begun on {begun.get('base')} (weights {str(begun.get('digest'))[:12]}), {base} has other "
            f"weights now ({digest[:12]}): bring that base back, or begin anew with another --out"
        )


def _arguments(data: Any) -> dict[str, Any]:
    """The arguments of a recipe's ``data``; where it wraps another source, with that one's."""
    own = data.get("init_args") if isinstance(data, Mapping) else None
    return {**_arguments(own.get("source")), **own} if isinstance(own, Mapping) else {}
