"""A student's networks begin as those of its teacher in every domain, whatever more they read."""

from __future__ import annotations

import pytest
import torch

from domains.speech.models.layers import Convolution
from flowkit.cond import Cond
from flowkit.config.recipe import load_recipe
from flowkit.nn.mlp import MLP
from flowkit.nn.network import Network, NetworkSpec
from flowkit.objectives import Networks
from flowkit.train import reflow, teacher
from flowkit.train.trainer import Trainer

FORK = [("data.episodes", "4"), ("task.rollout_episodes", "0"), ("task.objective.prediction", "Velocity")]
UNET = ("task.network", '{"class_path": "ChunkUNet", "init_args": {"widths": [16, 32]}}')
SENTENCES = ("data.sentences", '["Hello there.", "Good night.", "Not today.", "Press one."]')
#: Recipe of each network and what makes it quick.
NETWORKS = {
    "MLP": ("generic/mixture-flow-matching", [("data.size", "64")]),
    "PictureUNet": ("imaging/smoke/glyphs-flow-matching", []),
    "ChunkMLP": ("policy/smoke/flow-fork", FORK),
    "ChunkUNet": ("policy/smoke/flow-fork", [*FORK, UNET]),
    "MatchaDecoder": ("speech/smoke/matcha-rulemade", [SENTENCES]),
    "RiverTransformer": (
        "video/smoke/river-sprites",
        [("data.clips", "8"), ("data.validation", "2"), ("data.test", "2")],
    ),
}


@pytest.fixture(scope="module")
def taught():
    """A network of a domain with outputs, and what it reads."""
    kept = {}

    def of(name: str):
        if name not in kept:
            recipe, quick = NETWORKS[name]
            torch.manual_seed(0)
            built = load_recipe(recipe, quick, trainer=Trainer).build()
            built.data.prepare()
            built.task.adapt(built.data)
            built.task.eval()
            network = built.task.networks.main
            assert type(network).__name__ == name
            for parameter in network.parameters():
                if float(parameter.detach().abs().max()) == 0:  # outputs that begin at 0
                    torch.nn.init.normal_(parameter, std=0.1)
            generator = torch.Generator().manual_seed(0)
            batch = built.task.prepare(built.data.split("train").batch([0, 1, 2]), generator)
            t = torch.rand(3, generator=generator)
            cond = batch.cond.at(t, 0, generator)
            x, other = (cond.real(torch.randn(batch.x1.shape, generator=generator)) for _ in range(2))
            kept[name] = network, (x, other), t, cond, quick
        return kept[name]

    return of


def ordered(name: str, objective: str, network: str, quick) -> Network:
    """A network that an objective orders, drawn anew."""
    more = [("task.objective", objective), ("sampler.solver", "Euler"), ("sampler.steps", "4")]
    built = load_recipe(NETWORKS[name][0], [*quick, *more], trainer=Trainer).build("task")
    return built.task.networks[network].eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_one_that_reads_a_further_state_answers_as_its_teacher(name, taught):
    known, (x, other), t, cond, quick = taught(name)
    student = ordered(name, "ConstantAcceleration", "acceleration", quick)
    assert student.spec.inputs == 2
    student.begin_as(known)
    # Its head has another name: all before it is the teacher's.
    heads = {
        key.replace("heads.v.", "heads.a."): value for key, value in known.state_dict().items() if "heads.v." in key
    }
    assert heads
    student.load_state_dict(heads, strict=False)
    with torch.no_grad():
        wanted, found = known((x,), (t,), cond)["v"], student((x, other), (t,), cond)["a"]
    assert float(wanted.abs().max()) > 0.01
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "RiverTransformer"])
def test_one_that_reads_a_further_time_answers_as_its_teacher(name, taught):
    # RiverTransformer reads a time as one token more, to which others pay attention.
    known, (x, _), t, cond, quick = taught(name)
    student = ordered(name, "SeqRF", "main", quick)
    assert student.spec.times == 2
    student.begin_as(known)
    for later in (torch.rand(3), torch.rand(3)):
        with torch.no_grad():
            wanted, found = known((x,), (t,), cond)["v"], student((x,), (t, later), cond)["v"]
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    # It is silent, not dead: it learns.
    student((x,), (t, torch.rand(3)), cond)["v"].square().mean().backward()
    codes = list(student.time_codes())
    assert all(any(p.grad is not None and bool(p.grad.any()) for p in code.parameters()) for code in codes)


def test_a_network_that_the_teacher_lacks_begins_like_the_one_that_it_is_said_to():
    def build(specs):
        return Networks.build(specs, lambda spec: MLP(spec, dimension=3, width=8, depth=2))

    torch.manual_seed(0)
    flow = build({"main": NetworkSpec()})
    student = build({"main": NetworkSpec(), "twin": NetworkSpec(like="main"), "other": NetworkSpec()})
    before = {name: value.clone() for name, value in student.state_dict().items()}
    student.begin_like(flow)
    x, t = torch.randn(4, 3), torch.rand(4)
    assert torch.equal(student["twin"]((x,), (t,), Cond())["v"], flow.main((x,), (t,), Cond())["v"])
    after = student.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before if ".twin." not in name)
    # A teacher that has the network hands it on as every other.
    both = build({"main": NetworkSpec(), "twin": NetworkSpec()})
    student.begin_like(both)
    assert all(torch.equal(value, after[name]) for name, value in student.state_dict().items())


@pytest.mark.parametrize("begin", [lambda one, two: teacher.begin_as(one, two, "the flow"), reflow._begin_as])
def test_the_acceleration_begins_with_the_velocity_of_a_teacher_in_trainings_and_in_reflows(begin):
    recipe, quick = NETWORKS["ChunkMLP"]
    torch.manual_seed(0)
    flow, student = (
        load_recipe(recipe, [*quick, *more], trainer=Trainer).build("task").task
        for more in ([], [("task.objective", "ConstantAcceleration"), ("sampler.solver", "Euler")])
    )
    begin(student, flow)
    theirs, mine = flow.networks.main.state_dict(), student.networks["acceleration"].state_dict()
    later = [name for name in theirs if name.startswith("layers.1")]
    assert later
    assert all(torch.equal(mine[name], theirs[name]) for name in later)
    size = theirs["layers.0.weight"].shape[1] - mine["layers.0.weight"].shape[1]
    assert size < 0  # the initial velocity, with weight 0 at first
    assert not bool(mine["layers.0.weight"][:, -size : -2 * size].any())


def test_the_weight_of_a_convolution_is_seen_frame_by_frame():
    layer = Convolution(4, 5)
    x = torch.randn(2, 7, 4)
    weight = layer.frames_of_weight()
    assert tuple(weight.shape) == (5, 3, 4)
    padded = torch.nn.functional.pad(x, (0, 0, 1, 1))
    wanted = sum(padded[:, k : k + 7] @ weight[:, k].T for k in range(3)) + layer.linear.bias
    torch.testing.assert_close(layer(x), wanted)
