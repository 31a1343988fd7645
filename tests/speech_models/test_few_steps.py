"""The judge of few steps: distances to the voice's own accurate solve, in network calls that were really made."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from toy import ToyData, toy_task

from benchmarks.speech.few_steps import Judge
from benchmarks.speech_few_steps import METHODS
from flowkit.artifacts import Artifact
from flowkit.objectives import ConstantAcceleration, FlowMatching
from flowkit.paths.linear import LinearPath
from flowkit.solvers.euler import Euler
from flowkit.solvers.sampler import Sampler


def artifact(objective: Any, seed: int = 0) -> Artifact:
    torch.manual_seed(seed)
    task = toy_task(objective)
    task.adapt(ToyData())
    return Artifact(task.eval(), Sampler(Euler(), 10, temperature=0.8), cast(Any, None), {}, Path())


@pytest.fixture(scope="module")
def judge() -> Judge:
    voice = artifact(FlowMatching(path=LinearPath()))
    return Judge(voice, ToyData(), temperature=None, seed=0, listen=False, keep=None, limit=20)


def test_the_voice_comes_to_itself_with_its_steps(judge):
    assert judge.temperature == 0.8
    assert judge.references["accurate solve"]["to_voice"] == 0.0
    found = judge("voice", artifact(FlowMatching(path=LinearPath())), {1: 1, 4: 4, 64: 64})
    distances = [found[calls]["to_voice"] for calls in ("1", "4", "64")]
    assert distances[0] > distances[1] > distances[2] > 0.0
    assert distances[2] < 0.1 * distances[0]


def test_another_network_does_not_come_to_the_voice(judge):
    found = judge("other", artifact(FlowMatching(path=LinearPath()), seed=1), {64: 64})
    assert found["64"]["to_voice"] > 0.1


def test_calls_are_counted(judge):
    student = artifact(ConstantAcceleration())
    calls = {n: steps for n in (1, 2, 4) if (steps := METHODS["constant acceleration"].steps(n)) is not None}
    assert set(judge("caf", student, calls)) == {"2", "4"}
    with pytest.raises(AssertionError, match="3 network calls, not 2"):
        judge("caf", student, {2: 2})
