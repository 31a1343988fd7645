"""What an adapter is: nothing at first, a term that adds up, gone without a trace."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from flowkit import adapters
from flowkit.artifacts import from_pretrained, save_pretrained
from flowkit.cond import Cond
from flowkit.config.recipe import load_recipe
from flowkit.errors import UserError
from flowkit.finetuning import layers
from flowkit.finetuning.finetune import Finetune, heads
from flowkit.finetuning.routing import routed
from flowkit.train.teacher import teach
from flowkit.train.trainer import Trainer

pytest.importorskip("peft")


def velocity(task, x=None):
    torch.manual_seed(3)
    x = torch.randn(6, 2) if x is None else x
    with torch.no_grad():
        return task.networks.main((x,), (torch.linspace(0.1, 0.9, len(x)),), Cond({}))["v"]


def test_a_fresh_adapter_changes_nothing_and_everything_else_is_frozen(base):
    task = from_pretrained(base).task
    before = velocity(task)
    weights = {name: value.clone() for name, value in task.state_dict().items()}
    Finetune("x", "y", rank=4).apply(task)
    assert torch.equal(velocity(task), before)
    learning = [name for name, p in task.named_parameters() if p.requires_grad]
    assert learning
    assert all(".lora_A." in name or ".lora_B." in name for name in learning)
    assert all(torch.equal(value, weights[name]) for name, value in layers.base_state(task).items())


def test_its_term_is_alpha_over_rank_times_b_a(base):
    task = from_pretrained(base).task
    chosen = layers.candidates(task, rank=2)
    name, layer = next(iter(chosen.items()))
    weight = layer.weight.clone()
    layers.inject(task, [name], rank=2, alpha=6.0)
    state = layers.adapter_state(task, "default")
    state[f"{name}.lora_B"].normal_(generator=torch.Generator().manual_seed(0))
    layers.merge(task)
    expected = weight + 3.0 * state[f"{name}.lora_B"] @ state[f"{name}.lora_A"]
    torch.testing.assert_close(task.get_submodule(name).weight, expected, rtol=1e-5, atol=1e-6)


def test_a_merged_model_equals_the_unmerged_and_removal_gives_the_base_bit_for_bit(base, adapter):
    plain, task = from_pretrained(base).task, from_pretrained(adapter).task
    before, with_adapter = velocity(plain), velocity(task)
    assert (with_adapter - before).abs().max() > 1e-3, "the adapter has learnt something"
    adapters.merge(task)
    assert layers.names(task) == []
    assert set(task.state_dict()) == set(plain.state_dict())
    torch.testing.assert_close(velocity(task), with_adapter, rtol=1e-5, atol=1e-5)
    task = from_pretrained(adapter).task
    adapters.detach(task)
    mine, theirs = task.state_dict(), plain.state_dict()
    assert set(mine) == set(theirs)
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_terms_add_up_and_scale(base, adapter, other_adapter):
    task = from_pretrained(base).task
    zero = {name: layer.weight.clone() for name, layer in layers.candidates(task, rank=2).items()}
    first = adapters.attach(task, adapter, name="first")
    second = adapters.attach(task, other_adapter, name="second", scale=0.5)
    assert layers.names(task) == [first, second] == ["first", "second"]
    both = velocity(task)
    expected = dict(zero)
    for name, factor in (("first", 2.0), ("second", 0.5 * 8 / 2)):
        state = layers.adapter_state(task, name)
        for layer in {key.rpartition(".")[0] for key in state}:
            expected[layer] = expected[layer] + factor * state[f"{layer}.lora_B"] @ state[f"{layer}.lora_A"]
    by_hand = from_pretrained(base).task
    for layer, weight in expected.items():
        by_hand.get_submodule(layer).weight.data.copy_(weight)
    torch.testing.assert_close(both, velocity(by_hand), rtol=1e-5, atol=1e-5)
    layers.activate(task, ["first"])
    assert torch.equal(velocity(task), velocity(from_pretrained(adapter).task))
    layers.activate(task, [])
    assert torch.equal(velocity(task), velocity(from_pretrained(base).task))
    layers.activate(task, ["first", "second"])
    layers.scale(task, "first", 0.0)
    layers.scale(task, "second", 0.0)
    torch.testing.assert_close(velocity(task), velocity(from_pretrained(base).task))


def test_a_student_begins_as_its_adapted_teacher(base, adapter):
    fitted = velocity(from_pretrained(adapter).task)
    assert (fitted - velocity(from_pretrained(base).task)).abs().max() > 1e-3
    for teacher in (adapter, adapter.parent):
        recipe = load_recipe("generic/mixture-seqrf", [("teacher", str(teacher))], trainer=Trainer)
        student = recipe.build("task").task
        teach(recipe, student)
        torch.manual_seed(3)
        x, t = torch.randn(6, 2), torch.linspace(0.1, 0.9, 6)
        with torch.no_grad():
            begun = student.networks.main((x,), (t, t), Cond({}))["v"]  # it begins as blind to the second time
        torch.testing.assert_close(begun, velocity(from_pretrained(teacher).task), rtol=1e-5, atol=1e-5)


def test_a_model_with_adapters_is_saved_when_they_are_merged(base, adapter, tmp_path):
    loaded = from_pretrained(adapter)
    with_adapter = velocity(loaded.task)
    with pytest.raises(UserError, match="merge first"):
        save_pretrained(tmp_path / "model", loaded.task, recipe=loaded.recipe)
    adapters.merge(loaded.task)
    save_pretrained(tmp_path / "model", loaded.task, recipe=loaded.recipe)
    torch.testing.assert_close(velocity(from_pretrained(tmp_path / "model").task), with_adapter, rtol=1e-5, atol=1e-5)
    run = from_pretrained(adapter.parent)  # its recipe puts the adapters in place
    save_pretrained(tmp_path / "run", run.task, recipe=run.recipe)
    assert torch.equal(velocity(from_pretrained(tmp_path / "run").task), velocity(run.task))


def test_each_sample_of_a_batch_may_have_its_own(base, adapter, other_adapter):
    task = from_pretrained(base).task
    adapters.attach(task, adapter, name="first")
    adapters.attach(task, other_adapter, name="second")
    alone = {
        name: velocity(from_pretrained(path).task) for name, path in (("first", adapter), ("second", other_adapter))
    }
    alone["base"] = velocity(from_pretrained(base).task)
    which = ["first", "base", "second", "second", "base", "first"]
    with routed(task, which):
        mixed = velocity(task)
    for row, name in enumerate(which):
        torch.testing.assert_close(mixed[row], alone[name][row], rtol=1e-5, atol=1e-6)
    torch.manual_seed(3)
    x = torch.randn(6, 2)
    with routed(task, which):
        doubled = velocity(task, torch.cat([x, x]))
        with pytest.raises(UserError, match="6 rows"):
            velocity(task, x)  # the copies may not come and go: rows of finished samples would be taken for copies
    assert doubled.shape == (12, 2)
    with pytest.raises(UserError, match="5 rows"), routed(task, which):
        velocity(task, x[:5])
    with pytest.raises(UserError, match="no adapter 'frist'"), routed(task, ["frist"]):
        pass


def test_the_wrong_base_is_refused_in_one_line(base, adapter):
    task = from_pretrained(base).task
    with torch.no_grad():
        next(task.networks.parameters())[0].add_(1e-3)
    with pytest.raises(UserError, match="and this model is another") as caught:
        adapters.attach(task, adapter)
    assert "\n" not in str(caught.value)


def test_damage_is_said_in_one_line(base, adapter, tmp_path):
    task = from_pretrained(base).task
    for number, (file, content, message) in enumerate(
        (
            ("adapter.json", "{", "damaged"), ("adapter.json", '{"format": 99}', "newer"),
            ("adapter.safetensors", "x", "damaged"), ("adapter.json", None, "no adapter"),
        )
    ):  # fmt: skip
        folder = tmp_path / str(number)
        shutil.copytree(adapter, folder)
        if content is None:
            (folder / file).unlink()
        else:
            (folder / file).write_text(content)
        with pytest.raises(UserError, match=message):
            adapters.attach(task, folder)
    record = json.loads((adapter / "adapter.json").read_text())
    for change, message in (
        ({"layers": ["nothing"]}, r"adapter.json does not fit the model \(first: nothing\)"),
        ({"layers": []}, "adapter.json does not fit the model"), ({"layers": 3}, "damaged"),
        ({"rank": "two"}, "damaged"), ({"rank": 0}, "damaged"), ({"method": "magic"}, "damaged"),
        ({"digest": None}, "damaged"),
    ):  # fmt: skip
        folder = tmp_path / "-".join(map(str, change.items()))
        shutil.copytree(adapter, folder)
        (folder / "adapter.json").write_text(json.dumps({**record, **change}))
        with pytest.raises(UserError, match=message):
            adapters.attach(task, folder)
    assert layers.names(task) == []
    folder = tmp_path / "wider"
    shutil.copytree(adapter, folder)
    (folder / "adapter.json").write_text(json.dumps({**record, "rank": 5}))
    task = from_pretrained(base).task
    before = velocity(task)
    with pytest.raises(UserError, match="do not fit"):
        adapters.attach(task, folder)
    assert layers.names(task) == []
    assert torch.equal(velocity(task), before)
    adapters.attach(task, adapter, name="sound")
    with pytest.raises(UserError, match="do not fit"):
        adapters.attach(task, folder)
    assert layers.names(task) == ["sound"]
    assert torch.equal(velocity(task), velocity(from_pretrained(adapter).task))


def test_what_an_adapter_froze_learns_again_without_it(base, adapter, tmp_path):
    task = from_pretrained(base).task
    before = [parameter.requires_grad for parameter in task.parameters()]
    assert all(before)
    for take_off in (adapters.detach, adapters.merge):
        adapters.attach(task, adapter)
        adapters.attach(task, adapter, name="again")
        assert not all(parameter.requires_grad for parameter in task.parameters())
        take_off(task)
        assert [parameter.requires_grad for parameter in task.parameters()] == before
    task = from_pretrained(base).task
    folder = tmp_path / "wider"
    shutil.copytree(adapter, folder)
    record = json.loads((adapter / "adapter.json").read_text())
    (folder / "adapter.json").write_text(json.dumps({**record, "rank": 5}))
    with pytest.raises(UserError, match="do not fit"):
        adapters.attach(task, folder)
    assert [parameter.requires_grad for parameter in task.parameters()] == before


def test_targets_are_patterns(base):
    task = from_pretrained(base).task
    every = layers.candidates(task, rank=1)
    name = next(iter(every))
    assert list(layers.candidates(task, rank=1, targets=[f"^{name}$"])) == [name]
    with pytest.raises(UserError, match="fits no layer"):
        layers.candidates(task, rank=1, targets=["attention"])
    with pytest.raises(UserError, match="no pattern"):
        layers.candidates(task, rank=1, targets=["("])
    with pytest.raises(UserError, match="smaller rank"):
        layers.candidates(task, rank=1000)


def test_the_head_is_the_output_layer(base):
    task = from_pretrained(base).task
    found = heads(task)
    assert len(found) == 1
    caught = {}
    ((name, layer),) = found.items()
    layer.register_forward_hook(lambda module, given, out: caught.update(out=out))
    v = velocity(task)
    assert torch.equal(caught["out"], v)
    Finetune("x", "y", method="head").apply(task)
    assert {n for n, p in task.named_parameters() if p.requires_grad} == {
        f"{name}.{p}" for p, _ in layer.named_parameters()
    }
