"""Policies in loops: history, chunks, seeds, rows beside each other, saved and loaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from fork_toy import ForkToy, small

import flowkit
from domains.policy.noise import PlanNoise
from domains.policy.pipeline import FlowPolicy
from flowkit.config.recipe import parse_recipe
from flowkit.errors import UserError
from flowkit.fields.predictions import DataPrediction
from flowkit.objectives.ada_flow import AdaFlow
from flowkit.objectives.flow_matching import FlowMatching
from flowkit.random import normal
from flowkit.solvers.sampler import Sampler
from flowkit.solvers.variance_adaptive import VarianceAdaptive


def policy(**kwargs: object) -> FlowPolicy:
    """Random weights, large enough that noise and observations matter."""
    sampler = kwargs.pop("sampler", Sampler(steps=3))
    task = small(kwargs.pop("objective", None), **kwargs)  # pyright: ignore[reportArgumentType]
    with torch.no_grad():
        for parameter in task.networks.parameters():
            parameter.mul_(1.5)
    return FlowPolicy(task, sampler)  # pyright: ignore[reportArgumentType]


def walk(n: int, steps: int, seed: int = 0) -> np.ndarray:
    """Observations (steps, n, 2), float32."""
    return np.random.default_rng(seed).uniform([0, -0.4], [1.3, 0.4], (steps, n, 2)).astype(np.float32)


def alone(acting: FlowPolicy, observations: np.ndarray, seed: int) -> np.ndarray:
    """Actions of one row (steps, A)."""
    acting.reset(seed=seed)
    return np.stack([acting(observation) for observation in observations])


def test_a_user_loop_gets_bounded_float_actions() -> None:
    acting = policy()
    actions = alone(acting, walk(1, 20)[:, 0] * 5, seed=3)
    assert actions.shape == (20, 1)
    assert actions.dtype == np.float32
    assert (np.abs(actions) <= 1).all()
    assert acting.layout.state_size == 2
    assert (acting.history, acting.horizon, acting.execute, acting.environment) == (1, 16, 8, "")


def test_a_chunk_is_carried_out_before_the_next_is_planned() -> None:
    acting = policy()
    acting.reset(seed=0)
    seen = walk(1, 17)[:, 0]
    planned = []
    for observation in seen:
        acting(observation)
        planned.append(len(acting.last.rows))
    assert planned == [1, *[0] * 7, 1, *[0] * 7, 1]
    # What is seen between two decisions does not matter where there is no history.
    other = seen.copy()
    other[[1, 2, 5, 7, 9, 13]] = 0.0
    assert np.array_equal(alone(acting, seen, 0), alone(acting, other, 0))


@pytest.mark.parametrize("history", [1, 3])
def test_rows_side_by_side_equal_policies_alone(history: int) -> None:
    """Each row, reset in its own time and idle at times, does what a policy alone does with its seed."""
    acting = policy(history=history)
    seen = walk(4, 30)
    vector = acting.vector(4)
    seeds = [5, 6, 7, 8]
    vector.reset(range(4), seeds)
    rng = np.random.default_rng(1)
    told: list[list[np.ndarray]] = [[] for _ in range(4)]
    taken: list[list[np.ndarray]] = [[] for _ in range(4)]
    for step in range(30):
        if step == 11:
            vector.reset([2], [20])
            told[2], taken[2], seeds[2] = [], [], 20
        active = rng.random(4) < 0.7
        now = np.where(active[:, None], seen[step], np.nan).astype(np.float32)
        actions = vector.act(now, active)
        assert actions.shape == (4, 1)
        for row in np.flatnonzero(active):
            told[row].append(seen[step, row])
            taken[row].append(actions[row])
    for row in range(4):
        assert np.allclose(np.stack(taken[row]), alone(acting, np.stack(told[row]), seeds[row]), atol=1e-5)


def test_a_plan_does_not_depend_on_the_batch_it_is_made_in() -> None:
    acting = policy(
        objective=AdaFlow(prediction=DataPrediction()),
        sampler=Sampler(controller=VarianceAdaptive(0.4, max_steps=8)),
    )
    with torch.no_grad():
        acting.task.networks.main.get_submodule("heads.log_sigma")[-1].weight.mul_(20.0)  # pyright: ignore[reportIndexIssue]
    seen = walk(64, 1)[0]
    wide = acting.vector(64)
    wide.reset(range(64), range(100, 164))
    together = wide.act(seen)
    nfe = wide.last.nfe
    assert wide.last.sigma0 is not None
    assert wide.last.sigma0.shape == (64,)
    assert len(set(nfe.tolist())) > 1
    for row in (0, 17, 63):
        narrow = acting.vector(1)
        narrow.reset([0], [100 + row])
        assert np.allclose(narrow.act(seen[row : row + 1])[0], together[row], atol=1e-5)
        assert narrow.last.nfe[0] == nfe[row]


def test_the_first_observation_is_repeated_as_history() -> None:
    acting = policy(history=3)
    spied: list[torch.Tensor] = []
    plan = acting.task.plan

    def spy(parts, **kwargs):  # type: ignore[no-untyped-def]
        spied.append(parts["state"].clone())
        return plan(parts, **kwargs)

    acting.task.plan = spy  # type: ignore[method-assign]
    seen = walk(1, 9)[:, 0]
    alone(acting, seen, 0)
    assert np.array_equal(spied[0][0], seen[[0, 0, 0]])
    assert np.array_equal(spied[1][0], seen[[6, 7, 8]])
    acting.reset(seed=1)
    acting(seen[4])
    assert np.array_equal(spied[2][0], seen[[4, 4, 4]])


def test_seeds_and_decisions_decide_the_noise() -> None:
    acting = policy()
    seen = np.repeat(walk(1, 1), 16, 0)[:, 0]
    first, again, other = alone(acting, seen, 0), alone(acting, seen, 0), alone(acting, seen, 1)
    assert np.array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3
    assert np.abs(first[:8] - first[8:]).max() > 1e-3
    acting.reset()
    acting(seen[0])
    later = acting(seen[0], seed=0)
    assert np.array_equal(later, first[0])


def test_noise_of_a_row_is_that_of_its_seed() -> None:
    noise = normal((3, 5000), PlanNoise([4, 9, 4]))
    assert torch.equal(noise[0], noise[2])
    assert abs(float(noise.mean())) < 0.03
    assert abs(float(noise.std()) - 1) < 0.03
    assert abs(float((noise[0] * noise[1]).mean())) < 0.05
    source = PlanNoise([9])
    assert torch.equal(normal((1, 5000), source)[0], noise[1])
    assert not torch.equal(normal((1, 5000), source)[0], noise[1])
    with pytest.raises(ValueError, match="2 rows"):
        normal((2, 3), PlanNoise([1]))


def test_pictures_reach_the_encoder() -> None:
    data = ForkToy(size=40)
    acting = policy(data=data, images={"eye": [40, 40]})
    rng = np.random.default_rng(0)
    seen = {"position": np.zeros(2, np.float32), "eye": rng.integers(0, 255, (40, 40, 3), np.uint8)}
    other = {**seen, "eye": 255 - seen["eye"]}
    assert not np.array_equal(acting(seen, seed=0), acting(other, seed=0))
    with pytest.raises(UserError, match="40 x 40"):
        acting({**seen, "eye": np.zeros((20, 40, 3), np.uint8)}, seed=0)


def test_wrong_observations_are_said_in_one_line() -> None:
    acting = policy()
    with pytest.raises(UserError, match="has 3 entries, 2 are expected"):
        acting(np.zeros(3, np.float32))
    with pytest.raises(UserError, match="not finite"):
        acting(np.array([0.0, np.nan], np.float32))
    with pytest.raises(UserError, match="2 observations were given to 3 rows"):
        acting.vector(3).act(np.zeros((2, 2), np.float32))
    with pytest.raises(UserError, match="no row 3"):
        acting.vector(3).reset([3], [0])
    with pytest.raises(UserError, match="one a row"):
        acting.vector(3).reset([0, 1], [0])


def test_damaged_weights_are_told() -> None:
    acting = policy()
    with torch.no_grad():
        next(acting.task.networks.parameters()).fill_(float("nan"))
    with pytest.raises(UserError, match="action that is not finite"):
        acting(np.zeros(2, np.float32))


def test_an_untrained_task_is_no_policy() -> None:
    task = small()
    task.normaliser.facts.zero_()
    with pytest.raises(UserError, match="train it first"):
        FlowPolicy(task)


def test_samplers_can_be_changed_without_training() -> None:
    adaptive = policy(objective=AdaFlow(prediction=DataPrediction()))
    assert adaptive.with_sampler(steps=7).steps == 7
    sampler = adaptive.with_sampler(eta=0.1)
    assert isinstance(sampler.controller, VarianceAdaptive)
    assert (sampler.controller.eta, sampler.controller.max_steps) == (0.1, 3)
    assert adaptive.with_sampler(eta=0.1, steps=9).controller.max_steps == 9  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
    assert FlowPolicy(adaptive.task, sampler).with_sampler(steps=2).controller is None
    with pytest.raises(UserError, match="predicts none: give steps"):
        policy(objective=FlowMatching()).with_sampler(eta=0.1)
    with pytest.raises(UserError, match="steps must be"):
        adaptive.with_sampler(steps=0)
    with pytest.raises(UserError, match="execute is 17"):
        FlowPolicy(adaptive.task, execute=17)


RECIPE = {
    "data": {
        "class_path": "domains.policy.data.arrays.ArrayDemonstrations",
        "init_args": {"file": "x.npz", "state": ["s"]},
    },
    "task": {
        "class_path": "PolicyTask",
        "init_args": {
            "network": {"class_path": "ChunkMLP", "init_args": {"width": 64, "depth": 2}},
            "objective": {"class_path": "AdaFlow", "init_args": {"prediction": {"class_path": "DataPrediction"}}},
            "state": 2,
            "actions": 1,
        },
    },
    "sampler": {"controller": {"class_path": "VarianceAdaptive", "init_args": {"eta": 0.05, "max_steps": 6}}},
}


def test_a_saved_policy_plans_the_same(tmp_path: Path) -> None:
    before = policy(
        objective=AdaFlow(prediction=DataPrediction()), sampler=Sampler(controller=VarianceAdaptive(0.05, max_steps=6))
    )
    flowkit.save_pretrained(tmp_path / "model", before.task, recipe=parse_recipe(RECIPE, "test"))
    after = FlowPolicy.from_pretrained(tmp_path / "model")
    seen = walk(1, 20)[:, 0]
    assert np.array_equal(alone(before, seen, 4), alone(after, seen, 4))
    assert after.layout == before.layout
    quick = FlowPolicy.from_pretrained(tmp_path / "model", steps=1, execute=2)
    alone(quick, seen[:1], 4)
    assert quick.last.nfe.tolist() == [1]
    assert quick.execute == 2
    assert isinstance(flowkit.load(tmp_path / "model"), FlowPolicy)
