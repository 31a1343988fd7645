"""Guidance: the mixture, the interval, the rescaling and honest counts (objectives card, 0.8)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch

from flowkit.cond import Cond
from flowkit.errors import UserError
from flowkit.fields import (
    Autoguidance,
    ClassifierFree,
    DataPrediction,
    DiffusionVelocity,
    Evaluation,
    Field,
    NetworkField,
    NoisePrediction,
    Prediction,
    ScorePrediction,
    Velocity,
)
from flowkit.nn.network import Head, Network, NetworkSpec
from flowkit.paths import LinearPath, TrigonometricPath, VPBetaPath
from flowkit.paths.affine import AffinePath


class Toy(Network):
    """Reads label, text and padding, and remembers what it was asked."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__(NetworkSpec(heads=(Head("v"), Head("spread", "scalar"))))
        self.gain = gain
        self.batches: list[int] = []

    def forward(
        self, inputs: Sequence[torch.Tensor], times: Sequence[torch.Tensor], cond: Cond
    ) -> dict[str, torch.Tensor]:
        x, t = inputs[0], times[0]
        self.batches.append(len(x))
        shift = torch.nn.functional.one_hot(cond["label"], 4).to(x).sum(1) * cond["label"]
        v = self.gain * torch.sin(x + shift[:, None] + cond["text"]) + t[:, None]
        return {"v": v, "spread": shift}


def setting(n: int = 6) -> tuple[torch.Tensor, torch.Tensor, Cond]:
    generator = torch.Generator().manual_seed(0)
    x, text = (torch.randn(n, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    label = torch.arange(n) % 3 + 1
    return x, torch.linspace(0.0, 1.0, n, dtype=torch.float64), Cond({"label": label, "text": text}, nulls={"label": 0})


def field(network: Network | None = None, path: AffinePath | None = None) -> NetworkField:
    return NetworkField(network or Toy(), path or LinearPath())


def rms(v: torch.Tensor) -> torch.Tensor:
    return v.std(1, unbiased=False)


@pytest.mark.parametrize("scale", [-1.0, 0.0, 0.5, 3.0])
def test_the_mixture_in_one_batch(scale: float) -> None:
    x, t, cond = setting()
    network = Toy()
    guided = ClassifierFree(scale).apply(field(network))
    out = guided(x, t, cond)
    strong, weak = field()(x, t, cond), field()(x, t, cond.null())
    torch.testing.assert_close(out.v, weak.v + scale * (strong.v - weak.v), rtol=1e-12, atol=1e-12)
    assert torch.equal(out.heads["spread"], strong.heads["spread"])
    assert out.calls == 2
    assert network.batches == [12]
    assert guided.path is not None


def test_scale_one_is_the_plain_field_and_zero_the_unconditional_one() -> None:
    x, t, cond = setting()
    plain = field()
    assert ClassifierFree(1.0).apply(plain) is plain
    out = ClassifierFree(0.0).apply(plain)(x, t, cond)
    torch.testing.assert_close(out.v, plain(x, t, cond.null()).v, rtol=0.0, atol=0.0)


def test_only_the_named_conditions_are_left_out() -> None:
    x, t, cond = setting()
    out = ClassifierFree(3.0, names=["text"]).apply(field())(x, t, cond)
    strong, weak = field()(x, t, cond).v, field()(x, t, cond.null(["text"])).v
    torch.testing.assert_close(out.v, weak + 3.0 * (strong - weak))
    assert not torch.allclose(out.v, ClassifierFree(3.0).apply(field())(x, t, cond).v)


class Repeated(Network):
    """A given prediction of an affine path, conditional or not, from one velocity."""

    def __init__(self, convert: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__(NetworkSpec())
        self.convert = convert
        self.velocity = Toy()

    def forward(
        self, inputs: Sequence[torch.Tensor], times: Sequence[torch.Tensor], cond: Cond
    ) -> dict[str, torch.Tensor]:
        v = self.velocity(inputs, times, cond)["v"]
        return {"v": self.convert(inputs[0], v, times[0])}


@pytest.mark.parametrize("path", [LinearPath(), TrigonometricPath(), VPBetaPath()], ids=repr)
def test_guiding_any_prediction_is_guiding_the_velocity(path: AffinePath) -> None:
    x, _, cond = setting()
    t = torch.linspace(0.05, 0.95, 6, dtype=torch.float64)
    expected = ClassifierFree(2.5).apply(field(path=path))(x, t, cond).v
    ways: list[tuple[Prediction, Callable[..., torch.Tensor]]] = [
        (Velocity(), lambda x, v, t: v),
        (DataPrediction(), path.data),
        (NoisePrediction(), path.noise),
        (ScorePrediction(), lambda x, v, t: path.score(x, v, t, assume_independent_gaussian=True)),
        (DiffusionVelocity(), path.diffusion_velocity),
    ]
    for prediction, convert in ways:
        network = Repeated(convert)
        guided = ClassifierFree(2.5).apply(NetworkField(network, path, prediction))
        torch.testing.assert_close(guided(x, t, cond).v, expected, rtol=1e-8, atol=1e-8)
        # The mixture of the outputs themselves, then converted, is the same again.
        strong, weak = (network((x,), (t,), c)["v"] for c in (cond, cond.null()))
        mixed = prediction.to_velocity(weak + 2.5 * (strong - weak), x, t, path)
        torch.testing.assert_close(mixed, expected, rtol=1e-8, atol=1e-8)


def test_outside_the_interval_it_costs_one_call() -> None:
    x, t, cond = setting()  # t = 0, 0.2, ..., 1
    network = Toy()
    guided = ClassifierFree(3.0, interval=(0.3, 0.8)).apply(field(network))
    out = guided(x, t, cond)
    assert isinstance(out.calls, torch.Tensor)
    assert out.calls.tolist() == [1, 1, 2, 2, 2, 1]
    assert sum(network.batches) == 9
    everywhere, plain = ClassifierFree(3.0).apply(field())(x, t, cond), field()(x, t, cond)
    inside = ((t >= 0.3) & (t <= 0.8))[:, None]
    torch.testing.assert_close(out.v, torch.where(inside, everywhere.v, plain.v), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(out.heads["spread"], plain.heads["spread"])
    network.batches.clear()
    early = guided(x, torch.full_like(t, 0.1), cond)
    assert (early.calls, network.batches) == (1, [6])
    late = guided(x, torch.full_like(t, 0.5), cond)
    assert (late.calls, network.batches) == (2, [6, 12])


def test_rescaling_restores_the_deviation() -> None:
    x, t, cond = setting()
    strong = field()(x, t, cond).v
    plain, full, half = (ClassifierFree(4.0, rescale=r).apply(field())(x, t, cond).v for r in (0.0, 1.0, 0.5))
    assert not torch.allclose(rms(plain), rms(strong), rtol=0.1)
    torch.testing.assert_close(rms(full), rms(strong), rtol=1e-10, atol=0.0)
    torch.testing.assert_close(half, 0.5 * (plain + full), rtol=1e-10, atol=1e-12)


def test_rescaling_reads_the_padding() -> None:
    x, t, cond = setting()
    padding = torch.tensor([True, True, False]).expand(6, 3)
    padded = Cond(cond.values, padding, cond.nulls)
    out = ClassifierFree(4.0, rescale=1.0).apply(field())(x, t, padded).v
    spoiled = x.masked_fill(~padding, 100.0)
    torch.testing.assert_close(ClassifierFree(4.0, rescale=1.0).apply(field())(spoiled, t, padded).v[:, :2], out[:, :2])
    torch.testing.assert_close(rms(out[:, :2]), rms(field()(x, t, padded).v[:, :2]), rtol=1e-10, atol=0.0)


def test_a_new_condition_is_seen_between_calls() -> None:
    x, t, cond = setting()
    guided = ClassifierFree(2.0).apply(field())
    first = guided(x, t, cond).v
    other = cond.take(torch.arange(5, -1, -1))
    torch.testing.assert_close(guided(x, t, other).v, ClassifierFree(2.0).apply(field())(x, t, other).v)
    torch.testing.assert_close(guided(x, t, cond).v, first)


def test_autoguidance_counts_both_networks() -> None:
    x, t, cond = setting()
    strong, weak = Toy(1.0), Toy(0.5)
    out = Autoguidance(field(weak), 2.0).apply(field(strong))(x, t, cond)
    a, b = field(Toy(1.0))(x, t, cond).v, field(Toy(0.5))(x, t, cond).v
    torch.testing.assert_close(out.v, b + 2.0 * (a - b))
    assert out.calls == 2
    nested = Autoguidance(field(weak), 2.0).apply(ClassifierFree(3.0, interval=(0.3, 0.8)).apply(field(strong)))
    calls = nested(x, t, cond).calls
    assert isinstance(calls, torch.Tensor)
    assert calls.tolist() == [2, 2, 3, 3, 3, 2]
    inside = Autoguidance(field(weak), 2.0, interval=(0.3, 0.8)).apply(field(strong))(x, t, cond)
    assert isinstance(inside.calls, torch.Tensor)
    assert inside.calls.tolist() == [1, 1, 2, 2, 2, 1]


class Expensive(Field):
    """Charges each row its own price."""

    path = LinearPath()

    def __call__(self, x: torch.Tensor, t: torch.Tensor, cond: Cond | None = None) -> Evaluation:
        return Evaluation(x, calls=torch.arange(len(x)) % 3 + 1)


def test_prices_per_row_add_up() -> None:
    x, t, cond = setting()
    assert ClassifierFree(2.0).apply(Expensive())(x, t, cond).calls.tolist() == [2, 4, 6, 2, 4, 6]  # type: ignore[union-attr]


@pytest.mark.parametrize("cond", [None, Cond()])
def test_nothing_to_leave_out(cond: Cond | None) -> None:
    with pytest.raises(UserError, match="needs a condition to leave out"):
        ClassifierFree(2.0).apply(Expensive())(torch.zeros(2, 3), torch.zeros(2), cond)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": float("nan")}, "scale"),
        ({"interval": (0.8, 0.2)}, "interval"),
        ({"rescale": 1.5}, "rescale"),
    ],
)
def test_refusals(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ClassifierFree(**options)
    with pytest.raises(UserError, match=message):
        Autoguidance(Expensive(), **options)


def test_off_the_cpu_the_interval_never_asks_the_device() -> None:
    """Meta tensors hold no values: reading one (which would wait for a real device) raises."""

    class Plain(Field):
        path = LinearPath()

        def __call__(self, x: torch.Tensor, t: torch.Tensor, cond: Cond | None = None) -> Evaluation:
            assert cond is not None
            return Evaluation(x + cond["text"])

    x = torch.empty(3, 2, device="meta")
    cond = Cond({"text": x}, padding=torch.empty(3, 2, dtype=torch.bool, device="meta"))
    guided = ClassifierFree(3.0, interval=(0.2, 0.8), rescale=0.5).apply(Plain())
    out = guided(x, torch.empty(3, device="meta"), cond)
    assert out.v.shape == x.shape
    assert out.calls == 2  # both halves were made, so both are counted
