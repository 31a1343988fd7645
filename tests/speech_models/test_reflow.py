"""A voice is rectified on its own pairs: means and padding are kept with them, and the text side stays as it is."""

from __future__ import annotations

import torch
from toy import ToyData, toy_task

from flowkit.couplings.given_pairs import GivenPairs
from flowkit.objectives.flow_matching import FlowMatching
from flowkit.paths.linear import LinearPath
from flowkit.procedures.pair_data import PairData
from flowkit.procedures.pairs import PairPlan, generate_pairs
from flowkit.solvers.sampler import Sampler
from flowkit.train.reflow import Conditions
from flowkit.train.trainer import Trainer


def test_pairs_of_utterances_train_the_decoder_alone(tmp_path):
    torch.manual_seed(0)
    teacher = toy_task(weighting="frames")
    data = ToyData(48)
    teacher.adapt(data)
    teacher.eval().requires_grad_(False)
    conditions = Conditions(teacher, data.split("train"), seed=0)
    store = generate_pairs(
        tmp_path / "pairs", teacher.objective, teacher.networks, conditions, plan=PairPlan(48, shard=32, batch=8),
        sampler=Sampler(steps=2), provenance={"teacher": "t"}, lengths=conditions.lengths,
    )  # fmt: skip
    batch = store.batch(range(48))
    frames = batch["padding"].sum((1, 2))
    assert frames.min() < frames.max()
    for name in ("x0", "x1", "cond/mu"):
        assert not batch[name][~batch["padding"].expand_as(batch[name])].any()
    torch.testing.assert_close(batch["weight"], frames / teacher.mean_frames)
    again = teacher.objective.generate(
        teacher.networks, batch["x0"][:8],
        teacher.prepare_pairs({f"pair_{name}": value[:8] for name, value in batch.items()}).cond,
        sampler=Sampler(steps=2), x0=batch["x0"][:8],
    )  # fmt: skip
    torch.testing.assert_close(again.x, batch["x1"][:8], atol=1e-4, rtol=1e-4)

    student = toy_task(FlowMatching(path=LinearPath(floor=1e-4), coupling=GivenPairs()), weighting="frames")
    student.load_state_dict(teacher.state_dict())
    trainer = Trainer(
        steps=4, batch=8, bucket=8, evaluate_every=0, sample_every=0, tensorboard=False, progress=False, device="cpu"
    )
    trainer.fit(
        student, PairData(str(tmp_path / "pairs"), data), sampler=Sampler(), seed=0, folder=tmp_path / "run",
        recipe_text="", warm_start=True,
    )  # fmt: skip
    before = teacher.state_dict()
    changed = {name for name, value in student.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.startswith("networks.") for name in changed)
