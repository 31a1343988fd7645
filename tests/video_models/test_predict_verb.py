"""``flowkit predict`` from the command line, with a model that was trained for a moment."""

from __future__ import annotations

import json
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_video import write_video

import flowkit as kit
from domains.video.data.reader import decode
from domains.video.pipeline import VideoPredictor
from domains.video.present import BORDER, GAP, LEAST_SIDE
from domains.video.reading import read_square
from domains.video.river import RiverTask
from flowkit.cli.main import main
from flowkit.clip import save_film
from flowkit.errors import UserError


@pytest.fixture(scope="module")
def sprites_run(tmp_path_factory):
    out = tmp_path_factory.mktemp("trained") / "run"
    few = ["--trainer.steps", "6", "--trainer.evaluate_every", "6", "--trainer.sample_every", "6"]
    few += ["--trainer.checkpoint_every", "0", "--trainer.progress", "false", "--device", "cpu"]
    assert main(["train", "video/smoke/river-sprites", "--out", str(out), *few]) == 0
    return out


@pytest.fixture
def flowkit(capsys):
    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([*map(str, arguments), "--device", "cpu"])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_training_measured_and_showed_clips(sprites_run):
    lines = [json.loads(line) for line in (sprites_run / "metrics.jsonl").read_text().splitlines()]
    names = {name for line in lines for name in line}
    assert {"eval/psnr", "eval/psnr_copy", "eval/ssim", "eval/nfe"} <= names
    assert list((sprites_run / "samples").rglob("*.mp4"))


def test_without_a_file_it_goes_on_with_the_models_example(flowkit, sprites_run, tmp_path):
    out = tmp_path / "out.mp4"
    code, text, err = flowkit("predict", sprites_run, "--frames", 2, "--samples", 1, "--out", out, "--json")
    assert code == 0, err
    told = json.loads(text)
    assert (told["input"], told["context"], told["true_frames"]) == (None, 3, 0)
    film = np.stack(list(decode(out)))
    inner = slice(BORDER, BORDER + LEAST_SIDE)
    example = kit.load(sprites_run).task.example.numpy()
    shown = np.repeat(np.repeat(example, LEAST_SIDE // 16, 2), LEAST_SIDE // 16, 3)
    assert np.abs(film[:3, :, inner, inner].astype(int) - shown).mean() < 12  # a film is lossy
    code, _, err = flowkit("predict", sprites_run, "--context", 4)
    assert code == 2
    assert "example has 3 frames" in err
    code, _, err = flowkit("predict", sprites_run, "--start", 2)
    assert code == 2
    assert "--input" in err


def test_a_film_of_the_truth_and_the_continuations(flowkit, sprites_run, tmp_path):
    write_video(tmp_path / "clip.mp4", frames=12)
    out = tmp_path / "new" / "out.mp4"
    code, text, err = flowkit(
        "predict", sprites_run, "--input", tmp_path / "clip.mp4", "--context", 5, "--frames", 6, "--samples", 3,
        "--out", out, "--steps", 3, "--json",
    )  # fmt: skip
    assert code == 0, err
    told = json.loads(text)
    assert told["nfe_per_frame"] == 3
    assert told["true_frames"] == 6
    film = np.stack(list(decode(out)))
    side = LEAST_SIDE + 2 * BORDER
    assert len(film) == 5 + 6
    assert film.shape[2] in (side, side + side % 2)
    assert abs(film.shape[3] - (4 * side + 3 * GAP)) <= 1
    # The border of each panel is blue while the frames are known, then orange but for the truth.
    places = [BORDER // 2 + k * (side + GAP) for k in range(4)]
    edges = film[:, :, side // 2, :][:, :, places]  # (frames, rgb, panels)
    blue = edges[:, 2] > edges[:, 0]
    assert blue[:5].all()
    assert blue[5:].tolist() == [[True, False, False, False]] * 6


def test_without_a_future_in_the_file_there_is_no_true_panel(flowkit, sprites_run, tmp_path):
    write_video(tmp_path / "clip.mp4", frames=4)
    out = tmp_path / "out.mp4"
    code, text, err = flowkit("predict", sprites_run, "--input", tmp_path / "clip.mp4", "--context", 4, "--frames", 2,
                              "--samples", 1, "--out", out, "--steps", 1)  # fmt: skip
    assert code == 0, err
    assert str(out) in text
    assert "the true clip" not in text
    assert next(decode(out)).shape[2] <= LEAST_SIDE + 2 * BORDER + 1


def test_one_frame_of_context_and_all_dials(flowkit, sprites_run, tmp_path):
    write_video(tmp_path / "clip.mp4", frames=5)
    code, _, err = flowkit(
        "predict", sprites_run, "--input", tmp_path / "clip.mp4", "--context", 1, "--frames", 3, "--samples", 2,
        "--start", 1, "--stride", 2, "--redraw", "once", "--strength", 0.5, "--horizon", 2, "--steps", 2,
        "--solver", "Midpoint", "--out", tmp_path / "out.mp4",
    )  # fmt: skip
    assert code == 0, err


def test_mistakes_get_one_line_and_leave_nothing(flowkit, sprites_run, tmp_path):
    import av

    write_video(tmp_path / "clip.mp4", frames=4)
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("this is no video\n" * 50)
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    clip = tmp_path / "clip.mp4"
    out = tmp_path / "out.mp4"
    cases = [
        (["--input", tmp_path / "none.mp4"], "no such file"),
        (["--input", tmp_path / "empty.mp4"], "empty"),
        (["--input", tmp_path / "text.mp4"], "cannot read the video"),
        (["--input", tmp_path / "sound.mp4"], "no video stream"),
        (["--input", clip, "--context", 9], "has 4 frames, the context needs 9"),
        (["--input", clip, "--start", 3], "has 1 frames from frame 3 on"),
        (["--input", clip, "--frames", 0], "--frames 0"),
        (["--input", clip, "--strength", 1], "--strength 1"),
        (["--input", clip, "--horizon", 1], "--horizon 1"),
        (["--input", clip, "--out", tmp_path / "a.avi"], "must end in .mp4"),
        (["--input", clip, "--tolerance", 1e-2, "--solver", "DormandPrince"], "redrawn"),
    ]
    for options, message in cases:
        code, _, err = flowkit("predict", sprites_run, "--out", out, *options)
        assert code == 2, (options, err)
        assert message in err, err
        assert len(err.strip().splitlines()) == 1, err
    assert not out.exists()
    assert not list(tmp_path.glob("*.tmp*"))


def test_a_model_of_another_kind_is_refused(flowkit, tmp_path):
    write_video(tmp_path / "clip.mp4", frames=4)
    code, _, err = flowkit("predict", "policy/fork", "--input", tmp_path / "clip.mp4")
    assert code == 2
    assert "predicts no video" in err


def test_saved_and_loaded_it_predicts_the_same(sprites_run, tmp_path):
    write_video(tmp_path / "clip.mp4", frames=4)
    frames, _ = read_square(tmp_path / "clip.mp4", size=16, start=0, count=3)
    artifact = kit.from_pretrained(sprites_run)
    saved = kit.save_pretrained(tmp_path / "saved", artifact.task, recipe=artifact.recipe)
    first = artifact.pipeline()(frames, frames=4, samples=2, seed=1)
    again = VideoPredictor.from_pretrained(saved)
    assert torch.equal(first, again(frames, frames=4, samples=2, seed=1))
    assert again.task.reach == 7
    assert again.fps == 10
    assert again.task.example.float().std() > 0
    assert VideoPredictor.from_pretrained(saved, steps=7).sampler.steps == 7


def test_frames_go_into_the_film_as_they_come(flowkit, sprites_run, tmp_path, monkeypatch):
    decoded, seen = [], []
    decode_latents = RiverTask.decode
    monkeypatch.setattr(RiverTask, "decode", lambda task, z: decoded.append(1) or decode_latents(task, z))

    def take_some(path, frames, fps):
        for picture in frames:
            seen.append((picture.shape, len(decoded)))
            if len(seen) == 6:
                raise UserError("enough")

    monkeypatch.setattr("flowkit.clip.save_film", take_some)
    code, _, err = flowkit("predict", sprites_run, "--frames", 60, "--samples", 2, "--steps", 1,
                           "--out", tmp_path / "out.mp4")  # fmt: skip
    assert (code, "enough" in err) == (2, True)
    # Three known frames, then one picture for each predicted one; none of the rest was computed.
    assert [count for _, count in seen] == [1, 1, 1, 1, 2, 3]
    assert len({shape for shape, _ in seen}) == 1


def test_a_film_that_cannot_go_on_leaves_nothing(tmp_path):
    def frames():
        yield np.zeros((7, 9, 3), np.uint8)
        raise UserError("no more")

    with pytest.raises(UserError, match="no more"):
        save_film(tmp_path / "a.mp4", frames(), 10.0)
    assert not list(tmp_path.iterdir())
    save_film(tmp_path / "a.mp4", (np.full((7, 9, 3), 10 * i, np.uint8) for i in range(5)), 10.0)
    film = np.stack(list(decode(tmp_path / "a.mp4")))
    assert film.shape == (5, 3, 8, 10)
    assert np.abs(film.mean((1, 2, 3)) - 10 * np.arange(5)).max() < 3


def test_without_an_encoder_there_is_one_line_and_no_file(flowkit, sprites_run, tmp_path, monkeypatch):
    import av

    def unknown(name, **_):
        raise av.codec.codec.UnknownCodecError(name)

    monkeypatch.setattr(av, "open", lambda *_, **__: nullcontext(SimpleNamespace(add_stream=unknown)))
    code, _, err = flowkit("predict", sprites_run, "--frames", 1, "--samples", 1, "--out", tmp_path / "a.mp4")
    assert (code, err.count("\n")) == (2, 1), err
    assert "no encoder libx264" in err
    assert not list(tmp_path.iterdir())


def test_another_rate_than_the_training_clips_is_told(flowkit, sprites_run, tmp_path):
    learnt = VideoPredictor.from_pretrained(sprites_run).fps
    write_video(tmp_path / "clip.mp4", frames=12)
    _, rate = read_square(tmp_path / "clip.mp4", size=16, start=0, count=1)
    near, out = max(1, round(rate / learnt)), tmp_path / "out.mp4"
    for stride in (near, near + 2):
        code, _, err = flowkit("predict", sprites_run, "--input", tmp_path / "clip.mp4", "--context", 2, "--frames", 1,
                               "--samples", 1, "--steps", 1, "--stride", stride, "--out", out)  # fmt: skip
        assert code == 0
        assert (f"--stride {near} comes nearest" in err) == (stride != near), err
        assert err.count("\n") == (stride != near)
