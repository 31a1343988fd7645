"""Models of ``transformers`` with random weights in the place of our transformer."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from flowkit.cond import Cond
from flowkit.couplings import Batch
from flowkit.errors import UserError
from flowkit.foreign.causal_lm import TransformersCausal
from flowkit.nn.network import NetworkSpec
from flowkit.objectives import CaLMFlow, Networks
from flowkit.solvers.sampler import Sampler

pytest.importorskip("transformers", reason="the package transformers is optional")

SIZES = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "num_hidden_layers": 2}


def built(objective: CaLMFlow, model: str) -> Networks:
    torch.manual_seed(0)

    def network(spec: NetworkSpec) -> TransformersCausal:
        known = replace(spec, state=(2,), labels={"label": 4})
        return TransformersCausal(known, model=model, config=SIZES)

    return Networks.build(objective.needs(), network).eval()


@pytest.mark.parametrize("model", ["gpt_neox", "llama"])
@pytest.mark.parametrize("trajectories", [1, 2])
def test_it_is_causal_caches_and_learns(model, trajectories):
    objective = CaLMFlow(points=5, latent=3, trajectories=trajectories)
    networks, cond = built(objective, model), Cond({"label": torch.arange(4)})
    network, rows, n = networks.main, 4 // trajectories, 4 * trajectories
    w, t = torch.randn(rows, n, 2), torch.linspace(0.0, 0.75, 4).repeat_interleave(trajectories).expand(rows, -1)
    with torch.no_grad():
        whole = network((w,), (t,), cond)["mean"]
        changed = w.clone()
        changed[:, 2] += 1.0
        after = network((changed,), (t,), cond)["mean"]
        assert torch.equal(after[:, :2], whole[:, :2])
        assert not torch.allclose(after[:, 2], whole[:, 2])
        memory, parts = network.begin(rows, cond), []
        for i in range(0, n, trajectories):
            part = slice(i, i + trajectories)
            heads, memory = network.extend(memory, (w[:, part],), (t[:, part],), cond)
            parts.append(heads["mean"])
        assert torch.allclose(torch.cat(parts, 1), whole, atol=1e-5)
        made = objective.generate(networks, torch.zeros(4, 2), cond, sampler=Sampler(steps=4))
        assert made.x.shape == (4, 2)
    objective.loss(networks, Batch(x1=torch.randn(4, 2), cond=cond)).total.backward()
    assert all(p.grad is not None for p in networks.parameters())


def test_a_configuration_that_cannot_be_is_refused():
    with pytest.raises(UserError, match="transformers makes no model 'no-such-model'"):
        built(CaLMFlow(points=3), "no-such-model")
