"""``flowkit finetune`` and ``flowkit merge``: runs like any other, in every domain."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from short_training import FEW

from flowkit.artifacts import from_pretrained
from flowkit.train.finetune import Finetuning

pytest.importorskip("peft")

SMOKE = {
    "generic": "generic/mixture-flow-matching",
    "policy": "policy/smoke/adaflow-fork",
    "video": "video/smoke/river-sprites",
    "speech": "speech/smoke/matcha-rulemade",
}


@pytest.mark.parametrize("domain", list(SMOKE))
def test_every_domain_trains_an_adapter_that_loads_samples_and_merges(flowkit, tmp_path, domain):
    run, tuned = tmp_path / "base", tmp_path / "tuned"
    assert flowkit("train", SMOKE[domain], "--out", run, *FEW)[0] == 0
    code, text, err = flowkit("finetune", run, "--out", tuned, "--rank", 2, "--json", *FEW)
    assert code == 0, err
    told = json.loads(text)
    learnt = sum(told["summary"]["parameters"].values())
    whole = sum(p.numel() for p in from_pretrained(run).task.parameters())
    assert 0 < learnt < whole / 2
    kept = load_file(f"{told['adapter']}/adapter.safetensors")
    assert sum(v.numel() for name, v in kept.items() if not name.startswith("replaced.")) == learnt
    assert not [name for name in kept if name.startswith("replaced.networks")], "the base's weights are not in it"
    loaded, trained = from_pretrained(told["adapter"]).task.state_dict(), from_pretrained(tuned).task.state_dict()
    assert sorted(v.double().sum().item() for v in loaded.values()) == pytest.approx(
        sorted(v.double().sum().item() for v in trained.values())
    )
    few = ("-n", 2, "--steps", 2, "--device", "cpu")
    code, _, err = flowkit("sample", told["adapter"], *few, "--out", tmp_path / "a")
    assert code == 0, err
    assert flowkit("merge", told["adapter"], "--out", tmp_path / "merged")[0] == 0
    code, _, err = flowkit(
        "sample", tmp_path / "merged", "-n", 2, "--steps", 2, "--device", "cpu", "--out", tmp_path / "m"
    )
    assert code == 0, err


@pytest.mark.parametrize("method", ["lora", "head", "full"])
def test_an_interrupted_fine_tuning_resumes_bit_for_bit(flowkit, base, tmp_path, method):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    options = ("--adapter", method, *FEW, "--trainer.schedule", "constant", "--trainer.warmup", 0)
    assert flowkit("finetune", base, "--out", whole, *options, "--trainer.steps", 5)[0] == 0
    assert flowkit("finetune", base, "--out", cut, *options, "--trainer.steps", 2)[0] == 0
    assert flowkit("finetune", base, "--out", cut, *options, "--trainer.steps", 5, "--resume", "last")[0] == 0
    one, other = (load_file(f / "checkpoints" / "last" / "model" / "model.safetensors") for f in (whole, cut))
    assert all(torch.equal(one[name], other[name]) for name in one)
    if method != "full":
        one, other = (load_file(f / "adapter" / "adapter.safetensors") for f in (whole, cut))
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_phases_learn_adapters_in_turns(flowkit, tmp_path):
    run, whole, cut = (tmp_path / name for name in ("base", "whole", "cut"))
    critic = ("--task.critic_weight", 0.1, "--task.critic_channels", 8)
    assert flowkit("train", "video/smoke/codec-sprites", *critic, "--out", run, *FEW)[0] == 0
    options = ("--rank", 2, *FEW, "--trainer.schedule", "constant", "--trainer.warmup", 0, "--trainer.lr", 0.01)
    assert flowkit("finetune", run, "--out", whole, *options, "--trainer.steps", 4)[0] == 0
    assert flowkit("finetune", run, "--out", cut, *options, "--trainer.steps", 2)[0] == 0
    assert flowkit("finetune", run, "--out", cut, *options, "--trainer.steps", 4, "--resume", "last")[0] == 0
    one, other = (load_file(folder / "adapter" / "adapter.safetensors") for folder in (whole, cut))
    assert all(torch.equal(one[name], other[name]) for name in one)
    for side in ("network.", "critic."):
        learnt = [value for name, value in one.items() if name.startswith(side) and name.endswith("lora_B")]
        assert learnt, side
        assert all(value.abs().max() > 0 for value in learnt), side


def test_the_adapter_is_the_average_of_its_training(flowkit, base, tmp_path):
    steady = (*FEW, "--trainer.lr", 0.003, "--trainer.warmup", 0, "--trainer.schedule", "constant")
    kept = []
    for ema in (0.9, 0.0):
        options = (*steady, "--rank", 2, "--trainer.steps", 6, "--trainer.ema", ema)
        assert flowkit("finetune", base, "--out", tmp_path / f"{ema}", *options)[0] == 0
        state = load_file(tmp_path / f"{ema}" / "adapter" / "adapter.safetensors")
        kept.append(sum(float(value.norm()) for name, value in state.items() if name.endswith("lora_B")))
    assert 0 < kept[0] < 0.97 * kept[1], "averages lag behind weights that began at zero"


def test_a_fine_tuning_goes_on_with_its_own_base_and_its_own_verb(flowkit, base, tmp_path):
    mine, tuned = tmp_path / "mine", tmp_path / "tuned"
    shutil.copytree(base, mine)
    assert flowkit("finetune", mine, "--out", tuned, "--rank", 2, *FEW)[0] == 0
    before = (tuned / "adapter" / "adapter.safetensors").read_bytes()
    said = "no fine-tuning"
    for arguments, message in (
        (("train", tuned, "--resume", "last", "--trainer.steps", 5), "flowkit finetune"),
        (("train", tuned / "recipe.yaml", "--out", tmp_path / "x"), "flowkit finetune"),
        (("finetune", base, "--out", mine, "--resume", "last", *FEW), said),
    ):
        code, _, err = flowkit(*arguments)
        assert (code, err.count("\n")) == (2, 1), err
        assert message in err
    assert flowkit("train", mine, "--resume", "last", "--trainer.steps", 5)[0] == 0  # the base is another now
    code, _, err = flowkit("finetune", mine, "--out", tuned, "--rank", 2, "--resume", "last", *FEW)
    assert (code, err.count("\n")) == (2, 1), err
    assert "other weights now" in err
    assert (tuned / "adapter" / "adapter.safetensors").read_bytes() == before


def test_only_what_was_asked_for_learns(flowkit, base, tmp_path):
    assert flowkit("finetune", base, "--adapter", "head", "--out", tmp_path / "h", *FEW)[0] == 0
    kept = load_file(tmp_path / "h" / "adapter" / "adapter.safetensors")
    layers = {name.removeprefix("replaced.").rpartition(".")[0] for name in kept}
    assert len(layers) == 1
    before, after = (
        from_pretrained(base).task.state_dict(),
        from_pretrained(tmp_path / "h" / "adapter").task.state_dict(),
    )
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert changed <= {name.removeprefix("replaced.") for name in kept}


def test_mistakes_are_one_line(flowkit, base, adapter, tmp_path):
    for arguments, message in (
        ((adapter,), "flowkit merge"),
        ((adapter.parent,), "flowkit merge"),
        ((tmp_path / "nothing",), "neither a run folder nor"),
        ((base, "--target", "attention"), "fits no layer"),
        ((base, "--rank", 0), "at least 1"),
        ((base, "--adapter", "head", "--alpha", 3), "of --adapter lora"),
        ((base, "--adapter", "head", "--rank", 8), "of --adapter lora"),
        ((base, "--data", "NoSuchData"), "NoSuchData"),
    ):
        code, _, err = flowkit("finetune", *arguments, "--out", tmp_path / "x", *FEW)
        assert (code, err.count("\n")) == (2, 1), err
        assert message in err
    assert not (tmp_path / "x").exists()


def test_a_base_that_has_changed_or_gone_is_named(flowkit, tmp_path, base):
    moved = tmp_path / "moved"
    shutil.copytree(base, moved)
    assert flowkit("finetune", moved, "--out", tmp_path / "t", *FEW)[0] == 0
    moved.rename(tmp_path / "elsewhere")
    code, _, err = flowkit("sample", tmp_path / "t" / "adapter", "--device", "cpu", "--out", tmp_path / "s")
    assert (code, err.count("\n")) == (2, 1)
    assert "is an adapter, and its base cannot be read" in err
    code, _, err = flowkit(
        "merge", tmp_path / "t" / "adapter", "--base", tmp_path / "elsewhere", "--out", tmp_path / "m"
    )
    assert code == 0, err


def test_a_target_that_follows_the_network_follows_its_adapters(flowkit, tmp_path):
    run, tuned = tmp_path / "base", tmp_path / "tuned"
    assert flowkit("train", "generic/mixture-consistency", "--task.objective.target", "ema", "--out", run, *FEW)[0] == 0
    code, _, err = flowkit("finetune", run, "--out", tuned, "--rank", 2, *FEW, "--trainer.lr", 0.01)
    assert code == 0, err
    state = load_file(tuned / "checkpoints" / "last" / "model" / "model.safetensors")
    followed = {name: value for name, value in state.items() if ".target." in name and "lora_B" in name}
    assert followed
    assert all(value.abs().max() > 0 for value in followed.values())
    assert not [name for name in load_file(tuned / "adapter" / "adapter.safetensors") if ".target." in name]
    assert flowkit("sample", tuned / "adapter", "-n", 2, "--device", "cpu", "--out", tmp_path / "a")[0] == 0


def test_a_fitted_model_is_straightened_as_a_plain_one(flowkit, base, adapter, tmp_path):
    few = ("--pairs", 40, "--trainer.steps", 2, "--device", "cpu")
    for number, teacher in enumerate((adapter, adapter.parent)):
        out = tmp_path / str(number)
        code, _, err = flowkit("reflow", teacher, "--out", out, *few)
        assert code == 0, err
        assert set(from_pretrained(out / "round-1").task.state_dict()) == set(from_pretrained(base).task.state_dict())


def test_a_student_of_a_teacher_is_not_fitted_to_data(flowkit, base, tmp_path):
    run = tmp_path / "student"
    assert flowkit("train", "generic/mixture-seqrf", "--teacher", base, "--out", run, *FEW)[0] == 0
    code, _, err = flowkit("finetune", run, "--out", tmp_path / "tuned", *FEW)
    assert (code, err.count("\n")) == (2, 1)
    assert "learnt from a trained flow" in err


@pytest.mark.parametrize(
    ("base", "data", "expected"),
    [
        ("speech/prompts-en", "LJSpeech", {"blank": True, "phonemes": "espeak"}),
        ("policy/fork", "ArrayDemonstrations", {"history": 1, "horizon": 16, "execute": 8}),
        ("video/river-sprites", "VideoFolder", {"frames": 20, "size": 64}),
    ],
)
def test_data_of_another_class_get_what_the_model_relies_on(base, data, expected):
    own = {"ArrayDemonstrations": {"file": "mine.npz", "state": "[x]"}}.get(data, {"folder": "mine"})
    overrides = [(f"data.{name}", value) for name, value in own.items()]
    made = Finetuning(base=base, data=data, overrides=overrides).recipe("digest").resolved["data"]["init_args"]
    assert expected == {name: made[name] for name in expected}
    if base.startswith("speech"):
        assert made["mel"]["sample_rate"] == 16000, "LJSpeech's own is 22050"
    else:
        assert made["validation"] == 0.05, "the new class's own"


def test_a_fitted_policy_acts_where_its_new_data_come_from(flowkit, tmp_path):
    run, tuned = tmp_path / "base", tmp_path / "tuned"
    asked = ("--task.environment", "FlowKit/Fork-v0", "--task.rollout_episodes", 0)
    assert flowkit("train", SMOKE["policy"], "--out", run, *FEW, *asked)[0] == 0
    gymnasium = pytest.importorskip("gymnasium")
    gymnasium.register("FlowKit/ForkElsewhere-v0", entry_point="domains.policy.envs.fork:Fork")
    try:
        code, _, err = flowkit(
            "finetune", run, "--data.environment", "FlowKit/ForkElsewhere-v0", "--out", tuned, "--rank", 2, *FEW
        )
    finally:
        del gymnasium.registry["FlowKit/ForkElsewhere-v0"]
    assert code == 0, err
    assert from_pretrained(run).task.environment == "FlowKit/Fork-v0"
    assert from_pretrained(tuned / "adapter").task.environment == "FlowKit/ForkElsewhere-v0"
