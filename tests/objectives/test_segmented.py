"""Learning a teacher segment by segment: SeqRF and the phased Rectified Diffusion against exact teachers."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from flowkit.cond import Cond
from flowkit.couplings import Batch, GivenPairs
from flowkit.errors import UserError
from flowkit.fields.predictions import DataPrediction
from flowkit.nn.network import Network, NetworkSpec
from flowkit.objectives.consistency_fm import ConsistencyFM
from flowkit.objectives.flow_matching import FlowMatching
from flowkit.objectives.objective import Networks
from flowkit.objectives.rectified_diffusion import PhasedRectifiedDiffusion
from flowkit.objectives.segmented import Segmented
from flowkit.objectives.seq_rf import SeqRF
from flowkit.objectives.teacher import Teacher
from flowkit.paths.linear import LinearPath
from flowkit.paths.trigonometric import TrigonometricPath
from flowkit.random import Rows
from flowkit.solvers.bogacki_shampine import BogackiShampine
from flowkit.solvers.controllers import Tolerance
from flowkit.solvers.ddim import DDIM
from flowkit.solvers.euler import Euler
from flowkit.solvers.heun import Heun
from flowkit.solvers.rk4 import RK4
from flowkit.solvers.sampler import Sampler
from flowkit.testing import ExactNetwork, GaussianMixture
from flowkit.times import ImportanceTimes, SegmentGrid

RING = GaussianMixture.ring(components=4, radius=2.0, scale=0.4)


def teacher(law: GaussianMixture = RING) -> Teacher:
    objective = FlowMatching(path=law.path)
    return Teacher(objective, Networks({"main": ExactNetwork(law)}), Sampler())


class Named(Network):
    """v = 1 + the start of the segment that it is told."""

    def __init__(self) -> None:
        super().__init__(NetworkSpec(times=2))
        self.seen: list[tuple[float, float]] = []

    def forward(self, inputs: Sequence[Tensor], times: Sequence[Tensor], cond: Cond) -> dict[str, Tensor]:
        self.seen.append((float(times[0][0]), float(times[1][0])))
        return {"v": torch.ones_like(inputs[0]) + times[1][:, None]}


class Zero(Network):
    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__(spec)

    def forward(self, inputs: Sequence[Tensor], times: Sequence[Tensor], cond: Cond) -> dict[str, Tensor]:
        return {"v": torch.zeros_like(inputs[0])}


def batch(n: int = 64) -> Batch:
    return Batch(x1=RING.sample(n, torch.Generator().manual_seed(1)))


def test_one_segment_is_the_reflow_batch_bit_for_bit():
    student = SeqRF(segments=1, teacher_solver=RK4(), teacher_steps=25)
    student.teacher = taught = teacher()
    data = batch()
    assert data.x1 is not None
    _, point, _, _ = student.draw(data, Rows(7, 0, 64))
    rows = Rows(7, 0, 64)
    x0 = student.source.draw(data.x1, data.cond, rows)
    made = taught.objective.generate(taught.networks, data.x1, Cond(), sampler=Sampler(solver=RK4(), steps=25), x0=x0).x
    rows.draws += 1  # SeqRF draws its segments there
    _, expected, _, _ = FlowMatching(coupling=GivenPairs()).draw(Batch(x1=made, x0=x0), rows)
    assert torch.equal(point.t, expected.t)
    assert torch.equal(point.xt, expected.xt)
    assert torch.equal(point.vt, expected.vt)


def test_a_constant_teacher_is_met_by_a_constant_student():
    class Still(Named):
        def forward(self, inputs, times, cond):
            return {"v": torch.full_like(inputs[0], 0.7)}

    single = Still()
    single.spec = NetworkSpec()
    student = SeqRF(segments=[0.0, 0.3, 0.5, 1.0], by_length=True)
    student.teacher = Teacher(FlowMatching(), Networks({"main": single}), Sampler())
    loss = student.loss(Networks({"main": Still()}), batch(), generator=torch.Generator().manual_seed(0))
    assert float(loss.total) < 1e-24


@pytest.mark.parametrize("kind", [SeqRF, PhasedRectifiedDiffusion])
def test_pieces_join_the_teachers_states_at_the_boundaries(kind: type[Segmented]):
    law = RING.on(TrigonometricPath())
    student = kind(segments=3, path=law.path, teacher_solver=RK4(), teacher_steps=20)
    student.teacher = teacher(law)
    start = torch.tensor([0.0, 1 / 3, 2 / 3], dtype=torch.float64)
    x = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    end = start + 1 / 3
    from flowkit.objectives.segmented import Piece

    piece = Piece(start, end, x, student.carry(x, start, end, Cond()))
    for share, state in ((0.0, piece.x_start), (1.0, piece.x_end)):
        point = student.inside(piece, torch.full((3,), share, dtype=torch.float64))
        assert torch.allclose(point.xt, state, atol=1e-6)
        assert bool((point.t < end).all())  # the end is the next segment's


def test_on_the_linear_path_both_ask_for_the_same():
    straight, curved = SeqRF(segments=4, prediction=DataPrediction()), PhasedRectifiedDiffusion(segments=4)
    points = []
    for student in (straight, curved):
        student.teacher_solver, student.teacher_steps = RK4(), 2
        student.teacher = teacher()
        points.append(student.draw(batch(), Rows(3, 0, 64))[1])
    assert torch.allclose(points[0].xt, points[1].xt, atol=1e-9)
    assert torch.allclose(points[0].vt, points[1].vt, atol=1e-6)
    assert torch.allclose(points[0].x1, points[1].x1, atol=1e-6)


def test_the_phased_loss_is_zero_for_a_teacher_of_first_order():
    law = GaussianMixture([1.0], [[1.5, -0.5]], 0.0, TrigonometricPath())
    student = PhasedRectifiedDiffusion(segments=3, path=law.path, segment_input=False, distance=None)
    student.teacher = teacher(law)
    networks = Networks({"main": ExactNetwork(law, DataPrediction())})
    data = Batch(x1=law.sample(64, torch.Generator().manual_seed(0)))
    assert float(student.loss(networks, data, generator=torch.Generator().manual_seed(0)).total) < 1e-12
    wrong = Networks({"main": Zero(NetworkSpec())})
    assert float(student.loss(wrong, data, generator=torch.Generator().manual_seed(0)).total) > 1e-2


def test_a_boundary_belongs_to_the_segment_that_begins_there_and_stages_at_an_end_to_their_own():
    student, network = SeqRF(segments=4), Named()
    networks = Networks({"main": network})
    x = torch.zeros(1, 2)
    t = torch.tensor([0.0, 0.2499, 0.25, 0.5, 0.75, 0.9999, 1.0])
    starts = student.field(networks)(x.expand(7, 2), t).v[:, 0] - 1.0
    assert starts.tolist() == [0.0, 0.0, 0.25, 0.5, 0.75, 0.75, 0.75]
    network.seen.clear()
    grid = SegmentGrid(4)
    made = student.generate(networks, x, Cond(), sampler=Sampler(solver=Heun(), steps=4, grid=grid), x0=x)
    assert network.seen == [(k / 4, s) for s in (0.0, 0.25, 0.5, 0.75) for k in (4 * s, 4 * s + 1)]
    assert float(made.x[0, 0]) == pytest.approx(1.375)
    assert made.evaluations.tolist() == [8]
    back = student.generate(
        networks, x, Cond(), sampler=Sampler(solver=Euler(), steps=8, grid=grid), x0=made.x, span=(1.0, 0.0)
    )
    assert torch.allclose(back.x, x, atol=1e-6)
    adaptive = student.generate(
        networks, x, Cond(), sampler=Sampler(solver=BogackiShampine(), controller=Tolerance()), x0=x
    )
    assert torch.allclose(adaptive.x, made.x, atol=1e-5)
    assert adaptive.rejected.tolist() == [0]  # each segment is smooth, for it is solved alone


def test_first_order_steps_sample_what_the_phased_student_learnt():
    law = GaussianMixture([1.0], [[1.5, -0.5]], 0.0, TrigonometricPath())
    student = PhasedRectifiedDiffusion(segments=3, path=law.path, segment_input=False)
    networks = Networks({"main": ExactNetwork(law, DataPrediction())})
    x0 = torch.randn(5, 2, dtype=torch.float64)
    made = student.generate(networks, x0, Cond(), sampler=Sampler(solver=DDIM(), steps=3, grid=SegmentGrid(3)), x0=x0)
    assert torch.allclose(made.x, torch.tensor([1.5, -0.5]).double().expand(5, 2), atol=1e-9)


def test_a_law_of_times_that_learns_is_told_shares_of_segments():
    student = SeqRF(segments=4, times=ImportanceTimes(adapt=True, bins=2, momentum=0.0))
    student.teacher = teacher()
    student.record(torch.tensor([0.05, 0.3, 0.55, 0.80]), torch.ones(4))
    law = student.times
    assert isinstance(law, ImportanceTimes)
    assert law.seen.tolist() == [True, False]
    student.record(torch.tensor([0.24, 0.99]), torch.ones(2))
    assert law.seen.tolist() == [True, True]


def test_mistakes_are_one_line():
    with pytest.raises(UserError, match="teacher: RUN"):
        SeqRF().loss(Networks({"main": Named()}), batch())
    with pytest.raises(UserError, match="steps over the segment boundary"):
        SeqRF(segments=4).generate(
            Networks({"main": Named()}), torch.zeros(1, 2), Cond(), sampler=Sampler(steps=5), x0=torch.zeros(1, 2)
        )
    with pytest.raises(UserError, match="teacher_steps"):
        SeqRF(teacher_steps=0)
    taught = SeqRF()
    taught.teacher = Teacher(ConsistencyFM(), Networks({"main": Named()}), Sampler())
    with pytest.raises(UserError, match="ConsistencyFM has none that can be solved"):
        taught.loss(Networks({"main": Named()}), batch())
    curved = SeqRF(path=TrigonometricPath())
    curved.teacher = teacher()
    with pytest.raises(UserError, match=r"path TrigonometricPath\(\), and its teacher was trained with LinearPath"):
        curved.loss(Networks({"main": Named()}), batch())
    assert not SeqRF(path=LinearPath()).independent_gaussian
