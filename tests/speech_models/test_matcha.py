"""Matcha as a task: its losses, its statistics, its durations, and that it takes any objective."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jaxtyping
import pytest
import torch
from toy import BINS, MEL, SYMBOLS, ToyData, decoder, toy_task

from domains.speech.models.text_encoder import EncoderSizes
from domains.speech.voice import Voice
from flowkit.cond import Cond
from flowkit.couplings.coupling import Batch
from flowkit.couplings.learned import LearnedCoupling
from flowkit.errors import UserError
from flowkit.nn.network import Head, Network, NetworkSpec
from flowkit.objectives.consistency_fm import ConsistencyFM
from flowkit.objectives.constant_acceleration import ConstantAcceleration
from flowkit.objectives.flow_matching import FlowMatching
from flowkit.objectives.objective import Loss, Networks, Objective
from flowkit.paths.linear import LinearPath
from flowkit.random import Rows
from flowkit.solvers.euler import Euler
from flowkit.solvers.sampler import Sampler
from flowkit.tensors import mean_per_sample


@pytest.fixture
def task():
    torch.manual_seed(0)
    task = toy_task()
    task.adapt(ToyData())
    return task


@pytest.fixture
def raw():
    return ToyData().split("test").batch(range(4))


def test_losses_are_those_of_the_paper(task, raw) -> None:
    task.eval()
    loss = task(raw, generator=Rows(3, 0, 4))
    assert set(loss.terms) == {"flow", "dur", "prior"}
    aligned = task.align(raw)
    for i in range(4):
        n, t = int(raw["token_lengths"][i]), int(raw["mel_lengths"][i])
        duration = (aligned.encoded.log_durations[i, :n] - torch.log(1e-8 + aligned.durations[i, :n])).square().mean()
        assert torch.allclose(loss.terms["dur"][i], duration, atol=1e-5)
        mu = aligned.encoded.mu[i, :n].repeat_interleave(aligned.durations[i, :n], 0).T
        y = raw["mel"][i, :, :t] / 3.0
        prior = ((y - mu).square() + math.log(2 * math.pi)).sum() / (2 * BINS * t)
        assert torch.allclose(loss.terms["prior"][i], prior, atol=1e-5)
    assert torch.allclose(loss.total, sum(term.mean() for term in loss.terms.values()))


def test_prior_floor(task, raw) -> None:
    assert 0.5 * math.log(2 * math.pi) == pytest.approx(0.919, abs=1e-3)
    assert (task(raw, generator=Rows(0, 0, 4)).terms["prior"] >= 0.9189).all()


def test_gradient_of_the_flow_loss_reaches_the_encoder(raw) -> None:
    task = toy_task(prior_weight=0.0, duration_weight=0.0)
    task.adapt(ToyData())
    task(raw, generator=Rows(0, 0, 4)).total.backward()
    assert task.encoder.embedding.weight.grad is not None
    assert task.encoder.embedding.weight.grad.abs().sum() > 0


def test_the_loss_of_an_utterance_does_not_depend_on_its_company(task, raw) -> None:
    task.eval()
    together = task(raw, generator=Rows(5, 0, 4))
    alone = {k: v[:1] for k, v in raw.items()}
    alone["mel"] = alone["mel"][:, :, : int(raw["mel_lengths"][0])]
    alone["tokens"] = alone["tokens"][:, : int(raw["token_lengths"][0])]
    by_itself = task(alone, generator=Rows(5, 0, 4))
    for name, term in by_itself.terms.items():
        assert torch.allclose(term, together.terms[name][:1], atol=1e-4), name


@pytest.mark.parametrize(
    "objective",
    [
        FlowMatching,
        lambda: ConsistencyFM(boundary=0.7, target="ema"),
        ConstantAcceleration,
        lambda: FlowMatching(coupling=LearnedCoupling()),
    ],
)
def test_padding_may_hold_anything(objective, raw) -> None:
    torch.manual_seed(0)
    task = toy_task(objective())
    task.adapt(ToyData())
    dirty = raw | {"mel": raw["mel"].clone()}
    for i, length in enumerate(raw["mel_lengths"].tolist()):
        dirty["mel"][i, :, length:] = torch.nan
    task.eval()
    loss = task(dirty, generator=Rows(1, 0, 4))
    assert torch.equal(loss.total, task(raw, generator=Rows(1, 0, 4)).total)
    loss.total.backward()
    assert all(p.grad.isfinite().all() for p in task.parameters() if p.grad is not None)


def test_an_utterance_without_alignment_does_not_count(task, raw) -> None:
    raw["mel_lengths"][2] = int(raw["token_lengths"][2]) - 1
    terms = task(raw, generator=Rows(1, 0, 4)).terms
    assert all(term[2] == 0 and (term[[0, 1, 3]] > 0).all() for term in terms.values())


def test_weighting_by_frames_counts_every_frame_alike(raw) -> None:
    torch.manual_seed(0)
    plain, by_frames = toy_task(), toy_task(weighting="frames")
    by_frames.load_state_dict(plain.state_dict())
    for task in (plain, by_frames):
        task.adapt(ToyData())
        task.eval()
    one, other = (task(raw, generator=Rows(1, 0, 4)).terms["prior"] for task in (plain, by_frames))
    assert torch.allclose(other, one * raw["mel_lengths"] / 34, atol=1e-5)


def test_windows_are_cut_inside_the_utterances(raw) -> None:
    task = toy_task(window=8)
    task.adapt(ToyData())
    raw["mel_lengths"][1] = raw["token_lengths"][1] = 5
    batch = task.train().prepare(raw, Rows(0, 0, 4))
    assert batch.x1 is not None
    assert batch.x1.shape == (4, BINS, 8)
    assert batch.cond.padding is not None
    assert batch.cond.padding.sum((1, 2)).tolist() == [8, 5, 8, 8]
    whole = raw["mel"][0] / 3.0
    starts = [s for s in range(int(raw["mel_lengths"][0]) - 7) if torch.allclose(whole[:, s : s + 8], batch.x1[0])]
    assert len(starts) == 1
    assert task.eval().prepare(raw).x1.shape[2] == raw["mel"].shape[2]


def test_flow_loss_is_zero_at_the_exact_velocity() -> None:
    class Knowing(Network):
        def forward(self, inputs, times, cond):
            t, y = times[0][:, None, None], cond["y"]
            x0 = (inputs[0] - t * y) / (1 - (1 - 1e-4) * t)
            return {"v": y - (1 - 1e-4) * x0}

    y = torch.randn(3, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    objective = FlowMatching(path=LinearPath(floor=1e-4))
    networks = Networks.build(objective.needs(), Knowing)
    loss = objective.loss(networks, Batch(x1=y, cond=Cond({"y": y})), generator=Rows(0, 0, 3))
    assert loss.total < 1e-12
    # A field constant along its paths: one Euler step ends at x1 + floor * x0, and so do many.
    x0 = torch.randn(3, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for steps in (1, 7):
        sampler = Sampler(solver=Euler(), steps=steps)
        end = objective.generate(networks, y, Cond({"y": y}), sampler=sampler, x0=x0).x
        assert torch.allclose(end, y + 1e-4 * x0, atol=1e-9)


class TwoStates(Objective):
    """Asks for all that a network can be asked for."""

    def needs(self) -> dict[str, NetworkSpec]:
        return {
            "main": NetworkSpec(inputs=2, times=2, heads=(Head("v"), Head("spread", "scalar", detach=True))),
            "other": NetworkSpec(times=0),
        }

    def loss(self, networks, batch, *, phase="main", step=0, generator=None) -> Loss:
        t = torch.full((batch.x1.shape[0],), 0.5)
        heads = networks.main([batch.x1, batch.x1], [t, t], batch.cond)
        other = networks["other"]([batch.x1], [], batch.cond)["v"]
        error = mean_per_sample((heads["v"] - other - batch.x1).square(), batch.loss_mask)
        terms = {"mine": error, "spread": heads["spread"].square()}
        return Loss(sum(term.mean() for term in terms.values()), terms)

    def field(self, networks):
        raise NotImplementedError

    def generate(self, networks, like, cond, **options):
        raise NotImplementedError


def test_any_objective_trains_it(raw) -> None:
    task = toy_task(TwoStates())
    task.adapt(ToyData())
    loss = task(raw)
    assert set(loss.terms) == {"mine", "spread", "dur", "prior"}
    loss.total.backward()
    assert all(p.grad is not None for p in task.networks.parameters())


def test_speakers_and_languages(raw) -> None:
    with pytest.raises(
        UserError, match=r"decoder has condition = 0, this task needs 16: set decoder.init_args.condition: 16"
    ):
        toy_task(speakers=3, languages=2, speaker_width=8, language_width=8)
    torch.manual_seed(0)
    task = toy_task_with(
        lambda spec: decoder(spec, condition=16), speakers=3, languages=2, speaker_width=8, language_width=8
    )
    task.adapt(ToyData())
    raw["speaker"], raw["language"] = torch.tensor([0, 1, 2, 0]), torch.tensor([0, 0, 1, 1])
    task(raw, generator=Rows(0, 0, 4)).total.backward()
    assert task.speaker_table.weight.grad.abs().sum(1).gt(0).all()
    assert task.language_table.weight.grad.abs().sum(1).gt(0).all()
    task.eval()
    one, other = (
        task.synthesise(
            raw["tokens"][:1],
            raw["token_lengths"][:1],
            sampler=Sampler(steps=1),
            speaker=torch.tensor([s]),
            generator=Rows(0, 0, 1),
        )
        for s in (0, 1)
    )
    assert one.mu.shape != other.mu.shape or (one.mu - other.mu).abs().max() > 1e-3


def toy_task_with(factory: Any, **changes: Any):
    from domains.speech.matcha import Matcha

    sizes = EncoderSizes(width=32, filter_width=32, layers=1, prenet_layers=0, duration_width=16)
    return Matcha(factory, FlowMatching(), encoder=sizes, symbols=len(SYMBOLS), features=BINS, **changes)


def test_durations_follow_the_training_and_the_calibration(task, raw) -> None:
    assert task.duration_scale == 1.0
    task.train()
    task(raw, generator=Rows(0, 0, 4))
    assert task.duration_scale != 1.0
    before = task.duration_totals.clone()
    task.eval()
    task(raw, generator=Rows(0, 0, 4))
    assert torch.equal(task.duration_totals, before)
    samples = ToyData().split("validation")
    scale = task.calibrate(samples)
    assert scale == pytest.approx(float(task.duration_scale))
    ratio = task.evaluate(samples, sampler=Sampler(steps=1))["duration_ratio"]
    assert ratio == pytest.approx(1.0, abs=0.03)


def test_length_scale_stretches(task, raw) -> None:
    task.eval()
    lengths = {
        scale: task.synthesise(
            raw["tokens"], raw["token_lengths"], sampler=Sampler(steps=1), length_scale=scale, generator=Rows(0, 0, 4)
        ).lengths.sum()
        for scale in (1.0, 4.0)
    }
    assert 3.0 < lengths[4.0] / lengths[1.0] < 4.5


def test_synthesis_does_not_depend_on_the_batch(task, raw) -> None:
    task.eval()
    made = task.synthesise(raw["tokens"], raw["token_lengths"], sampler=Sampler(steps=3), generator=Rows(2, 0, 4))
    n = int(raw["token_lengths"][0])
    alone = task.synthesise(
        raw["tokens"][:1, :n], raw["token_lengths"][:1], sampler=Sampler(steps=3), generator=Rows(2, 0, 4)
    )
    assert made.lengths[0] == alone.lengths[0]
    assert (made.mel[0, :, : int(alone.lengths[0])] - alone.mel[0]).abs().max() < 1e-3
    assert made.mel.isfinite().all()


def test_evaluation_is_repeatable_and_leaves_the_mode(task) -> None:
    samples = ToyData().split("validation")
    task.train()
    one, other = (task.evaluate(samples, sampler=Sampler(steps=2), seed=3, limit=20) for _ in range(2))
    assert one == other
    assert task.training
    assert one["network_calls"] == 2
    assert task.evaluate(samples, sampler=Sampler(steps=2), limit=0) == {}


def test_exhibits(task, tmp_path) -> None:
    shown = task.present(ToyData().split("validation"), sampler=Sampler(steps=1))
    assert set(shown) == {"speech", "real", "mel", "alignment"}
    for name, presentation in shown.items():
        assert presentation.save(tmp_path / name).stat().st_size > 100


def test_what_the_data_says_is_saved_with_the_weights(task) -> None:
    fresh = toy_task()
    with pytest.raises(UserError, match="no data yet"):
        _ = fresh.voice
    fresh.load_state_dict(task.state_dict())
    assert fresh.voice == task.voice
    assert fresh.voice.symbols == tuple(SYMBOLS)
    assert float(fresh.mel_std) == 3.0
    mel = torch.randn(1, BINS, 4)
    assert torch.allclose(fresh.denormalise(fresh.normalise(mel)), mel, atol=1e-6)


class Other(ToyData):
    def __init__(self, **changes: Any) -> None:
        super().__init__()
        self.changes = changes

    def statistics(self) -> Mapping[str, Any]:
        return {**super().statistics(), **self.changes}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"symbols": list("_abcdefghijklmnop")},
            "17 symbols, the task was built for 13: set task.init_args.symbols: 17",
        ),
        ({"speakers": ["a", "b"]}, "2 speakers, the task was built for 1"),
        ({"languages": ["en", "fr"]}, "2 languages, the task was built for 1"),
        ({"speakers": ["x" * 20000]}, "use shorter names"),
    ],
)
def test_data_that_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        toy_task().adapt(Other(**changes))


def test_other_mel_bins_are_refused() -> None:
    with pytest.raises(UserError, match="8 mel bins, the task was built for 12"):
        toy_task_with_bins(12).adapt(ToyData())
    with pytest.raises(UserError, match="decoder has features = 8, this task needs 12"):
        toy_task(features=12)


def toy_task_with_bins(bins: int):
    from domains.speech.matcha import Matcha

    return Matcha(lambda spec: decoder(spec, features=bins), FlowMatching(), symbols=len(SYMBOLS), features=bins)


def test_impossible_arguments_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    # Outside of tests nothing checks the types, and the class itself must refuse.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(UserError, match="at least 1"):
        toy_task(symbols=0)
    with pytest.raises(UserError, match="rounding is nearest or ceil"):
        toy_task(rounding="floor")
    with pytest.raises(UserError, match="weighting"):
        toy_task(weighting="tokens")


def test_voice_names() -> None:
    voice = Voice(MEL, speakers=("ann", "bob"), languages=("en", "fr"), phonemes="characters")
    assert voice.number("speaker", None) == 0
    assert voice.number("speaker", "bob") == voice.number("speaker", 1) == voice.number("speaker", "1") == 1
    with pytest.raises(UserError, match="did you mean 'bob'"):
        voice.number("speaker", "bobb")
    with pytest.raises(UserError, match="has 2, counted from 0"):
        voice.number("language", 2)
    assert Voice.from_bytes(voice.to_bytes()) == voice
    assert voice.tokens("ab").tolist()[::2] == [0, 0, 0]
