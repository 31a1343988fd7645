"""Exported programs give the numbers of the models they were made of; what cannot be exported is one line."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exported_models import FORMATS, Made, policy_task

from domains.policy.exported import ExportedPolicy
from domains.policy.pipeline import FlowPolicy
from domains.speech.exported import ExportedVoice, exported_speech, speech_of
from domains.speech.pipeline import TextToSpeech
from domains.video.exported import ExportedPredictor
from domains.video.pipeline import VideoPredictor
from flowkit.cli.main import main
from flowkit.cond import Cond
from flowkit.errors import UserError
from flowkit.export import cached_export, open_export, write_export
from flowkit.export.trace import trace
from flowkit.export.write import verify
from flowkit.fields.guidance import ClassifierFree
from flowkit.nn.mlp import MLP
from flowkit.nn.network import NetworkSpec
from flowkit.objectives.flow_matching import FlowMatching
from flowkit.objectives.objective import Networks
from flowkit.objectives.regression import Regression
from flowkit.programs import Axis, Exportable, Port, Program, generate, planned
from flowkit.random import Rows
from flowkit.solvers.controllers import Tolerance
from flowkit.solvers.dormand_prince import DormandPrince
from flowkit.solvers.heun import Heun
from flowkit.solvers.rk4 import RK4
from flowkit.solvers.sampler import Sampler
from flowkit.sources.gaussian import ScaledGaussian

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("runtime", FORMATS)
def test_a_policy_gives_the_plans_of_the_task(policy: Made, runtime: str) -> None:
    rng = np.random.default_rng(0)
    state = rng.normal(size=(7, 2, 3)).astype(np.float32)
    eye = rng.integers(0, 256, (7, 2, 32, 32, 3)).astype(np.uint8)
    noise = rng.normal(size=(7, 4, 2)).astype(np.float32)
    found = policy.open(runtime)("policy", state=state, image_eye=eye, noise=noise)["actions"]
    parts = {"state": torch.from_numpy(state), "image/eye": torch.from_numpy(eye)}
    plan = policy.task.plan(parts, sampler=policy.sampler, x0=torch.from_numpy(noise))  # pyright: ignore[reportCallIssue]
    np.testing.assert_allclose(found, plan.actions.numpy(), atol=1e-4)
    assert (found[..., 0] == 4.0).any()  # the bounds are inside
    # An episode, drawn by seeds.
    exported, eager = ExportedPolicy(policy.open(runtime)), FlowPolicy(policy.task, policy.sampler)  # pyright: ignore[reportArgumentType]
    for model in (exported, eager):
        model.reset(seed=5)
    for step in range(5):
        seen = {"position": state[step, 0], "eye": eye[step, 0]}
        np.testing.assert_allclose(exported(seen), eager(seen), atol=1e-4)


@pytest.mark.parametrize("runtime", FORMATS)
@pytest.mark.parametrize("length_scale", [1.0, 1.3])
def test_a_voice_says_the_same(voice: Made, runtime: str, length_scale: float) -> None:
    eager = TextToSpeech(voice.task, voice.sampler)  # pyright: ignore[reportArgumentType]
    exported = speech_of(voice.open(runtime))
    asked: dict[str, Any] = {"seed": 3, "speaker": "bert", "length_scale": length_scale}
    one, other = eager.speak("hello there. a", **asked), exported.speak("hello there. a", **asked)
    assert one.mel.shape == other.mel.shape
    torch.testing.assert_close(one.mel, other.mel, atol=2e-4, rtol=0)
    assert (one.wave - other.wave).norm() < 0.05 * one.wave.norm()  # Griffin-Lim magnifies
    torch.testing.assert_close(one.alignment, other.alignment)
    assert (one.nfe, one.evaluations) == (other.nfe, other.evaluations)


@pytest.mark.parametrize("runtime", FORMATS)
def test_a_padded_batch_is_said_as_each_alone(voice: Made, runtime: str) -> None:
    model = ExportedVoice(voice.open(runtime))
    tokens = torch.tensor([[0, 3, 0, 5, 0, 7, 0], [0, 4, 0, 0, 0, 0, 0], [2, 0, 0, 0, 0, 0, 0]])
    lengths, who = torch.tensor([7, 3, 1]), torch.tensor([0, 1, 1])
    made = model.synthesise(tokens, lengths, sampler=model.sampler, speaker=who, generator=Rows(1, total=3))
    for row in range(3):
        n, t = int(lengths[row]), int(made.lengths[row])
        alone = model.synthesise(
            tokens[row : row + 1, :n], lengths[row : row + 1], sampler=model.sampler, speaker=who[row : row + 1],
            generator=Rows(1, first=row, total=3),
        )  # fmt: skip
        torch.testing.assert_close(alone.mel[0], made.mel[row, :, :t], atol=1e-4, rtol=0)


@pytest.mark.parametrize("runtime", FORMATS)
@pytest.mark.parametrize("known", [1, 2, 4])
def test_a_video_goes_on_as_the_task_does(video: Made, runtime: str, known: int) -> None:
    context = np.random.default_rng(known).integers(0, 256, (known, 3, 8, 8)).astype(np.uint8)
    eager = VideoPredictor(video.task, video.sampler)(context, frames=4, samples=3, seed=2)  # pyright: ignore[reportArgumentType]
    found = ExportedPredictor(video.open(runtime))(context, frames=4, samples=3, seed=2)
    assert found.shape == (3, 4, 3, 8, 8)
    assert np.abs(found.astype(int) - eager.numpy().astype(int)).max() <= 1  # a byte's rounding
    assert found.std() > 5


@pytest.mark.parametrize("solver", [Heun(), RK4()])
@pytest.mark.parametrize("interval", [(0.0, 1.0), (0.3, 0.7)])
def test_solvers_guidance_and_source_are_inside(solver: Any, interval: tuple[float, float]) -> None:
    torch.manual_seed(0)
    network = MLP(NetworkSpec(), dimension=2, width=8, depth=1, vectors={"c": 3})
    objective = FlowMatching(source=ScaledGaussian(2.0, mean=1.0))
    networks = Networks({"main": network})
    sampler = Sampler(solver=solver, steps=3, guidance=ClassifierFree(2.5, interval=interval), temperature=0.5)
    times = planned(sampler)

    class Points(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.networks = networks

        def forward(self, c: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
            return generate(objective, self.networks, noise, Cond({"c": c}), times)

    ports = [Port("c", ("batch", 3)), Port("noise", ("batch", 2))]
    traced = trace("points", Program(Points().eval(), ports, [Port("x", ("batch", 2))])).module()
    c, noise = torch.randn(6, 3), torch.randn(6, 2)
    wanted = objective.generate(
        networks, noise, Cond({"c": c}), sampler=replace(sampler, temperature=1.0), x0=1.0 + 2.0 * 0.5 * noise
    ).x
    torch.testing.assert_close(traced(c, noise), wanted, atol=1e-5, rtol=0)


def test_a_folder_tells_what_it_holds(voice: Made, policy: Made) -> None:
    info = json.loads((voice.folder / "export.json").read_text())
    decoder = info["programs"]["decoder"]
    assert info["sampler"]["solver"] == "Euler"
    assert info["sampler"]["times"] == [0.0, 1.0]
    assert [port["name"] for port in decoder["inputs"]] == ["mu", "lengths", "noise", "speaker"]
    assert decoder["axes"]["frames"] == {"least": 6, "multiple": 2}
    assert decoder["network_calls"] == 1
    assert json.loads((policy.folder / "export.json").read_text())["programs"]["policy"]["network_calls"] == 3
    for errors in (decoder["verified"]["largest_difference"],):
        assert set(errors) == set(FORMATS)
        assert max(errors.values()) <= 1e-4
    assert "decoder.pt2" in (voice.folder / "README.md").read_text()
    for path in voice.folder.iterdir():  # nothing tells where it was made
        assert str(Path(__file__).parents[2]).encode() not in path.read_bytes(), path.name
    assert not list(voice.folder.parent.glob(".*"))


def test_flowkit_speak_takes_an_export(voice: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["speak", str(voice.folder), "--text", "hello", "--out", str(tmp_path / "a.wav"), "--json"]
    assert main([*words, "--runtime", FORMATS[0]]) == 0
    told = json.loads(capsys.readouterr().out)
    assert Path(told["speech"][0]["files"]["wav"]).stat().st_size > 1000
    for more, said in (
        (["--steps", "4"], "sampler is fixed"), (["--runtime", "eager"], "is an export"),
        (["--speaker", "x"], "no speaker"),
    ):  # fmt: skip
        assert main([*words, *more]) == 2
        assert said in capsys.readouterr().err


def test_an_export_has_one_sampler(voice: Made) -> None:
    with pytest.raises(UserError, match="are fixed"):
        exported_speech(voice.folder).speak("hello", steps=3)


def test_the_verb_writes_a_folder_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["export", "policy/fork", "--format", "torch", "--out", str(tmp_path / "fork")]
    assert main(words) == 2
    assert "say how many, with --steps" in capsys.readouterr().err
    assert not (tmp_path / "fork").exists()
    assert main([*words, "--steps", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sampler"]["steps"] == 1
    assert main([*words, "--steps", "1"]) == 2
    assert "exists" in capsys.readouterr().err
    policy = ExportedPolicy.open(tmp_path / "fork")
    eager = FlowPolicy.from_pretrained("policy/fork", steps=1)
    for model in (policy, eager):
        model.reset(seed=1)
    seen = np.array([0.1, 0.2], np.float32)
    np.testing.assert_allclose(policy(seen), eager(seen), atol=1e-4)


def test_what_cannot_be_exported_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task, out = policy_task(images=None, encoder=_plain), tmp_path / "out"
    adaptive = Sampler(solver=DormandPrince(), controller=Tolerance(1e-3, 1e-3))
    with pytest.raises(UserError, match="Tolerance"):
        write_export(out, task, adaptive, formats=("torch",))
    fresh = policy_task(images=None, encoder=_plain)
    fresh.normaliser.facts.zero_()
    with pytest.raises(UserError, match="train it first"):
        write_export(out, fresh, Sampler(steps=1), formats=("torch",))
    with pytest.raises(UserError, match="no format 'tflite'"):
        write_export(out, task, Sampler(steps=1), formats=("tflite",))
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UserError, match=r"flowkit-fm\[export\]"):
        write_export(out, task, Sampler(steps=1), formats=("onnx",))
    assert not list(tmp_path.iterdir())


def test_a_run_without_a_checkpoint_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    assert main(["export", str(tmp_path / "run"), "--steps", "1"]) == 2
    assert "no complete checkpoint" in capsys.readouterr().err


class _Wild(torch.nn.Module):
    """Another number every time."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.rand(())


class _Asking(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1 if bool(x.sum() > 0) else x


@pytest.mark.parametrize(("module", "said"), [(_Wild(), "differs from eager"), (_Asking(), "cannot be traced")])
def test_wrong_programs_are_not_kept(tmp_path: Path, module: torch.nn.Module, said: str) -> None:
    task = policy_task(images=None, encoder=_plain)
    ports = [Port("x", ("batch", 3))], [Port("y", ("batch", 3))]
    task.exports = lambda sampler: Exportable({"wild": Program(module.eval(), *ports)})  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(UserError, match=said):
        write_export(tmp_path / "out", task, Sampler(steps=1), formats=("torch",))
    assert not list(tmp_path.iterdir())


def test_verification_looks_at_other_sizes() -> None:
    class Frozen(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean(1)

    program = Program(
        Frozen(), [Port("x", ("batch", "n"))], [Port("y", ("batch",))], {"batch": Axis(), "n": Axis((4, 6))}
    )

    def runner(inputs: Any, outputs: Any) -> Any:
        return {"y": inputs["x"].sum(1) / 4}  # right at the traced size alone

    with pytest.raises(UserError, match="differs from eager"):
        verify("frozen", program, runner)  # pyright: ignore[reportArgumentType]


def test_a_program_that_gives_no_numbers_is_not_kept() -> None:
    program = Program(torch.nn.Identity(), [Port("x", ("batch", 3))], [Port("y", ("batch", 3))])
    with pytest.raises(UserError, match="differs from eager by nan"):
        verify("empty", program, lambda inputs, outputs: {"y": inputs["x"] * np.nan})  # pyright: ignore[reportArgumentType]


def test_a_regression_has_no_noise(tmp_path: Path) -> None:
    task = policy_task(images=None, encoder=_plain, objective=Regression())
    folder = write_export(tmp_path / "bc", task, Sampler(), formats=("torch",))
    state = np.random.default_rng(0).normal(size=(3, 2, 3)).astype(np.float32)
    found = open_export(folder)("policy", state=state)["actions"]
    plan = task.plan({"state": torch.from_numpy(state)}, sampler=Sampler())
    np.testing.assert_allclose(found, plan.actions.numpy(), atol=1e-5)


def test_wrong_inputs_are_one_line(policy: Made) -> None:
    exported = policy.open("torch")
    with pytest.raises(UserError, match="takes state, image_eye, noise"):
        exported("policy", state=np.zeros((1, 2, 3)))
    with pytest.raises(UserError, match="noise has shape"):
        exported("policy", state=np.zeros((1, 2, 3)), image_eye=np.zeros((1, 2, 32, 32, 3)), noise=np.zeros((1, 5, 2)))
    with pytest.raises(UserError, match="no program 'polcy'"):
        exported("polcy")
    with pytest.raises(UserError, match="is no voice"):
        ExportedVoice(exported)


def test_damaged_folders_are_one_line(policy: Made, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(policy.folder, tmp_path / "copy"))
    inputs = {"state": np.zeros((1, 2, 3)), "image_eye": np.zeros((1, 2, 32, 32, 3)), "noise": np.zeros((1, 4, 2))}
    program = folder / "policy.pt2"
    whole = program.read_bytes()
    program.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="damaged"):
        open_export(folder, runtime="torch")("policy", **inputs)
    program.unlink()
    with pytest.raises(UserError, match="missing"):
        open_export(folder, runtime="torch")("policy", **inputs)
    info = json.loads((folder / "export.json").read_text())
    for text, said in (
        ("{", "damaged"), (json.dumps({**info, "format": 99}), "newer"), (json.dumps({"format": 1}), "damaged"),
        (json.dumps({**info, "formats": ["torch"]}), "holds no onnx"),
    ):  # fmt: skip
        (folder / "export.json").write_text(text)
        with pytest.raises(UserError, match=said):
            open_export(folder, runtime="onnx")
    with pytest.raises(UserError, match="is no export"):
        open_export(tmp_path)


def test_the_cache_keeps_one_export_a_sampler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flowkit.artifacts import from_pretrained

    monkeypatch.setenv("FLOWKIT_CACHE", str(tmp_path))
    told: list[str] = []
    one = from_pretrained("policy/fork", overrides=[("sampler.steps", "1"), ("sampler.controller", "null")])
    first = cached_export(one, runtime="torch", tell=told.append)
    assert cached_export(one, runtime="torch", tell=told.append).folder == first.folder
    assert len(told) == 1
    next(one.task.parameters()).data += 1.0
    assert cached_export(one, runtime="torch", tell=told.append).folder != first.folder


def test_the_export_of_a_faster_process_is_as_good(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from flowkit.artifacts import from_pretrained
    from flowkit.export import cached

    monkeypatch.setenv("FLOWKIT_CACHE", str(tmp_path))
    artifact = from_pretrained("policy/fork", overrides=[("sampler.steps", "1"), ("sampler.controller", "null")])
    whole = cached.write_export

    def late(folder: Path, *arguments: Any, **options: Any) -> Path:
        whole(folder, *arguments, **options)
        return whole(folder, *arguments, **options)

    monkeypatch.setattr(cached, "write_export", late)
    assert "policy" in cached_export(artifact, runtime="torch")
    monkeypatch.setenv("FLOWKIT_CACHE", str(tmp_path / "elsewhere"))
    (tmp_path / "elsewhere").touch()
    with pytest.raises(UserError, match="cannot be written"):
        cached_export(artifact, runtime="torch")


def _plain(spec: Any) -> Any:
    from domains.policy.models.encoders import ObservationEncoder

    return ObservationEncoder(spec, width=8)
