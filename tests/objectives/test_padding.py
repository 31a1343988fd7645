"""Every objective, the same: what lies in the padding changes nothing, and what is not kept teaches nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from flowkit.cond import Cond
from flowkit.couplings import Batch, LearnedCoupling, MinibatchOT, Sinkhorn
from flowkit.nn.causal_transformer import CausalTransformer
from flowkit.nn.mlp import MLP
from flowkit.nn.network import Network, NetworkSpec
from flowkit.objectives.ada_flow import AdaFlow
from flowkit.objectives.c_rectified import CRectifiedFlow
from flowkit.objectives.calm_flow import CaLMFlow
from flowkit.objectives.consistency_fm import ConsistencyFM
from flowkit.objectives.constant_acceleration import ConstantAcceleration
from flowkit.objectives.distance import PseudoHuber
from flowkit.objectives.flow_matching import FlowMatching
from flowkit.objectives.high_pass import HighPass
from flowkit.objectives.idode import IDODE
from flowkit.objectives.objective import Networks, Objective
from flowkit.objectives.rectified_diffusion import PhasedRectifiedDiffusion, RectifiedDiffusion
from flowkit.objectives.seq_rf import SeqRF
from flowkit.objectives.simple_reflow import SimpleReFlow
from flowkit.objectives.teacher import Teacher
from flowkit.paths.trigonometric import TrigonometricPath
from flowkit.random import Rows
from flowkit.solvers.sampler import Sampler

DIMENSION = 4
MADE = {
    "plain": FlowMatching,
    "transport": lambda: FlowMatching(coupling=MinibatchOT()),
    "sinkhorn": lambda: FlowMatching(coupling=Sinkhorn()),
    "learned": lambda: FlowMatching(coupling=LearnedCoupling(standardise=True)),
    "huber": lambda: FlowMatching(distance=PseudoHuber()),
    "high pass": lambda: FlowMatching(distance=HighPass(axes=[-1])),
    "adaflow": AdaFlow,
    "consistency": lambda: ConsistencyFM(boundary=0.7, delta=0.05, target="ema"),
    "acceleration": ConstantAcceleration,
    "gradients": CRectifiedFlow,
    "likelihood": lambda: IDODE(second_order=0.1),
    "trajectories": lambda: CaLMFlow(points=4, latent=3),
    "diffusion": RectifiedDiffusion,
    "simple": SimpleReFlow,
    "segments": lambda: SeqRF(segments=2),
    "phases": lambda: PhasedRectifiedDiffusion(segments=2, teacher_steps=2, path=TrigonometricPath()),
}


def network(spec: NetworkSpec) -> Network:
    if spec.sequence:
        changed = NetworkSpec(heads=spec.heads, sequence=spec.sequence, latent=spec.latent, state=(DIMENSION,))
        return CausalTransformer(changed, width=8, layers=1, heads=1)
    return MLP(spec, dimension=DIMENSION, width=16, depth=2)


def built(name: str) -> tuple[Objective, Networks]:
    torch.manual_seed(0)
    objective = MADE[name]()
    networks = Networks.build(objective.needs(), network).double()
    if objective.needs_teacher:
        guide = FlowMatching(path=objective.path)  # type: ignore[attr-defined]
        objective.teacher = Teacher(guide, Networks.build(guide.needs(), network).double(), Sampler())
    return objective, networks


def gradients(objective: Objective, networks: Networks, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    networks.zero_grad()
    loss = objective.loss(networks, batch, step=9, generator=Rows(3, total=6)).total
    loss.backward()
    found = {name: p.grad for name, p in networks.named_parameters() if p.grad is not None}
    assert found
    return loss.detach(), found


@pytest.mark.parametrize("name", MADE)
def test_the_padding_may_hold_anything(name: str) -> None:
    objective, networks = built(name)
    padding = torch.arange(DIMENSION) < torch.tensor([4, 3, 2, 1, 4, 2])[:, None]
    x1 = torch.randn(6, DIMENSION, dtype=torch.float64)
    seen: list[Any] = []
    for filling in (0.0, 1e4, torch.nan):
        objective, networks = built(name)
        batch = Batch(x1=x1.masked_fill(~padding, filling), cond=Cond(padding=padding))
        seen.append(gradients(objective, networks, batch))
    assert bool(seen[0][0].isfinite())
    for loss, found in seen[1:]:
        assert torch.equal(loss, seen[0][0])
        assert all(torch.equal(found[key], value) for key, value in seen[0][1].items())


@pytest.mark.parametrize("name", [name for name in MADE if name not in ("trajectories", "gradients")])
def test_elements_that_are_not_kept_teach_nothing(name: str) -> None:
    objective, networks = built(name)
    x1 = torch.randn(6, DIMENSION, dtype=torch.float64)
    keep = torch.tensor([True, True, False, True]).expand(6, DIMENSION)
    _, found = gradients(objective, networks, Batch(x1=x1, keep=keep))
    heads = {key: g for key, g in found.items() if ".heads." in key and "encoder" not in key and len(g) == DIMENSION}
    assert heads
    for gradient in heads.values():
        assert not gradient[2].any()
        assert gradient[0].any()
