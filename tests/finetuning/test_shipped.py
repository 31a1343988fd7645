"""Adapters of the models that ship, in three domains: nothing at first, small, exact, and gone without a trace."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from flowkit import adapters
from flowkit.artifacts import describe_run, from_pretrained
from flowkit.config.recipe import load_recipe
from flowkit.errors import UserError
from flowkit.finetuning import layers
from flowkit.finetuning.finetune import Finetune, heads
from flowkit.finetuning.routing import routed
from flowkit.procedures.pair_store import weights_digest
from flowkit.solvers.sampler import Sampler
from flowkit.tasks import Task
from flowkit.train.trainer import Trainer

pytest.importorskip("peft")

SHIPPED = ("speech/prompts-en", "policy/fork", "video/river-sprites")
ROWS = 3


def computed(task: Task, which: list[str] | None = None) -> list[Tensor]:
    """What the model's programs (text encoder, decoder, actor, predictor; two steps) give for fixed random inputs,
    each row with the adapter that ``which`` names."""
    found: list[Tensor] = []
    generator = torch.Generator().manual_seed(0)
    for program in task.eval().exports(Sampler(steps=2)).programs.values():
        sizes = {name: axis.sizes[0] for name, axis in program.axes.items()} | {"batch": ROWS}
        with torch.no_grad(), routed(task, which) if which else nullcontext():
            out = program.module(*(port.draw(sizes, generator) for port in program.inputs))
        found += [out] if isinstance(out, Tensor) else list(out)
    return found


def alike(a: list[Tensor], b: list[Tensor], tolerance: float = 1e-5) -> bool:
    """Within ``tolerance`` of the largest value."""
    return len(a) == len(b) and all(
        (x.float() - y.float()).abs().max() <= tolerance * max(1.0, float(y.abs().max()))
        for x, y in zip(a, b, strict=True)
    )


@dataclass
class Fitted:
    name: str
    folders: list[Path]
    before: list[Tensor]
    fresh: list[Tensor]

    def base(self) -> Task:
        return from_pretrained(self.name).task


@pytest.fixture(scope="module", params=SHIPPED)
def fitted(request, tmp_path_factory):
    """A shipped model and two adapters for it, whose terms are drawn instead of learnt."""
    name = request.param
    recipe = load_recipe(str(describe_run(name)["recipe"]), trainer=Trainer)
    folders, fresh, before = [], [], []
    for number in range(2):
        task = from_pretrained(name).task
        state = {key: value.clone() for key, value in task.state_dict().items()}
        before = computed(task)
        settings = Finetune(name, weights_digest(state))
        settings.apply(task)
        fresh = computed(task)
        generator = torch.Generator().manual_seed(number)
        for key, value in layers.adapter_state(task, "default").items():
            if key.endswith("lora_B"):
                value.normal_(0.0, 0.02, generator=generator)
        folder = tmp_path_factory.mktemp("adapters") / f"fit{number}"
        folders.append(adapters.save_adapter(folder, task, settings, base=state, recipe=recipe))
    return Fitted(name, folders, before, fresh)


def test_an_adapter_begins_as_nothing_and_is_small(fitted):
    assert all(torch.equal(a, b) for a, b in zip(fitted.fresh, fitted.before, strict=True))
    size = sum(path.stat().st_size for path in fitted.folders[0].iterdir())
    assert size < 2 * 2**20, f"the adapter of {fitted.name} takes {size} bytes"


def test_merging_changes_nothing_and_removal_gives_the_base_bit_for_bit(fitted):
    task = from_pretrained(fitted.folders[0]).task
    with_adapter = computed(task)
    assert not alike(with_adapter, fitted.before, 1e-3), "the adapter does something"
    adapters.merge(task)
    assert alike(computed(task), with_adapter)
    task = from_pretrained(fitted.folders[0]).task
    adapters.detach(task)
    assert all(torch.equal(a, b) for a, b in zip(computed(task), fitted.before, strict=True))
    mine, theirs = task.state_dict(), fitted.base().state_dict()
    assert set(mine) == set(theirs)
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_samples_of_one_batch_have_adapters_of_their_own(fitted):
    task, first, second = fitted.base(), *fitted.folders
    adapters.attach(task, first, name="first")
    adapters.attach(task, second, name="second")
    mixed = computed(task, ["second", "base", "first"])
    alone = [computed(from_pretrained(second).task), fitted.before, computed(from_pretrained(first).task)]
    for row, expected in enumerate(alone):
        assert alike([out[row] for out in mixed], [out[row] for out in expected])


def test_another_base_is_refused_in_one_line(fitted):
    task = fitted.base()
    with torch.no_grad():
        next(task.networks.parameters()).view(-1)[0] += 1e-3
    with pytest.raises(UserError, match="attach it to its own base") as caught:
        adapters.attach(task, fitted.folders[0])
    assert "\n" not in str(caught.value)
    other = SHIPPED[SHIPPED.index(fitted.name) - 1]
    with pytest.raises(UserError, match="attach it to its own base"):
        adapters.attach(from_pretrained(other).task, fitted.folders[0])


def test_the_output_layer_alone_is_the_one_that_makes_the_result():
    for name, layer in (
        ("speech/prompts-en", "main.body.heads.v"), ("policy/fork", "main.heads.v"),
        ("video/river-sprites", "main.heads.v"),
    ):  # fmt: skip
        assert list(heads(from_pretrained(name).task)) == [f"networks.by_name.{layer}"]
