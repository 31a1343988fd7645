"""Models that read actions: from made arrays, and from the pushing scene, to ``flowkit predict --actions``."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import yaml

from domains.video.data.push import PushScene
from domains.video.data.reader import decode
from domains.video.models.transformer import RiverTransformer
from domains.video.pipeline import VideoPredictor
from domains.video.river import RiverTask
from flowkit.cli.main import main
from flowkit.errors import UserError
from flowkit.nn.codec import IdentityCodec
from flowkit.objectives.flow_matching import FlowMatching
from flowkit.paths.linear import LinearPath

RECIPE = {
    "data": {"class_path": "ArrayClips", "init_args": {"frames": 6, "size": 8}},
    "task": {
        "class_path": "RiverTask",
        "init_args": {
            "network": {"class_path": "RiverTransformer", "init_args": {"width": 48, "heads": 2, "blocks": [1, 1, 1]}},
            "codec": {"class_path": "IdentityCodec", "init_args": {"patch": 4}},
            "size": 8,
            "context": 2,
            "actions": 1,
            "evaluate_clips": 4,
            "objective": {"class_path": "FlowMatching", "init_args": {"path": {"class_path": "LinearPath"}}},
        },
    },
    "trainer": {
        "steps": 120, "batch": 32, "lr": 3e-3, "ema": 0.9, "evaluate_every": 0, "sample_every": 0,
        "checkpoint_every": 0, "warmup": 10, "clip": 1.0,
    },
    "sampler": {"solver": "Euler", "steps": 2},
    "seed": 0,
}  # fmt: skip


def bars(count: int, frames: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """A bright bar goes right by 2 at action 1 and left by 2 at action -1, round the edge."""
    rng = np.random.default_rng(0)
    actions = rng.choice([-1.0, 1.0], (count, frames - 1, 1)).astype(np.float32)
    place = rng.integers(0, 4, (count, 1)) * 2
    place = np.concatenate([place, place + np.cumsum(2 * actions[..., 0], axis=1)], axis=1).astype(int) % 8
    shown = (np.arange(8) - place[..., None]) % 8 < 2
    return np.where(shown[:, :, None, :, None], 255, 0).astype(np.uint8).repeat(8, 2).repeat(3, 4), actions


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("actions")
    frames, actions = bars(400)
    np.savez(root / "bars.npz", allow_pickle=False, frames=frames, actions=actions, fps=np.float64(5))
    (root / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    file, cache = ["--data.file", str(root / "bars.npz")], ["--data.cache", str(root / "cache")]
    options = ["--out", str(root / "run"), "--device", "cpu", "--trainer.progress", "false", *file, *cache]
    assert main(["train", str(root / "recipe.yaml"), *options]) == 0
    return root / "run"


def test_the_prediction_does_what_the_actions_say(run):
    predictor = VideoPredictor.from_pretrained(run)
    context = bars(1)[0][0, :2].transpose(0, 3, 1, 2)
    start = int(context[1, 0, 0].argmax()) if context[1, 0, 0, 0] == 0 or context[1, 0, 0, 7] == 0 else 7
    for actions in ([1, 1, -1], [-1, 1, 1], [-1, -1, -1]):
        made = predictor(context, frames=3, samples=2, actions=np.asarray(actions)[:, None])
        for frame, moved in enumerate(np.cumsum(2 * np.asarray(actions))):
            expected = (np.arange(8) - start - moved) % 8 < 2
            light = made[:, frame].float().mean((0, 1, 2)) / 255
            assert light[expected].min() > light[~expected].max() + 0.2


def test_predict_takes_actions_from_files(run, tmp_path, capsys):

    def predict(*options: object) -> tuple[int, str]:
        capsys.readouterr()
        few = ["--context", 2, "--frames", 3, "--samples", 1, "--device", "cpu", "--steps", 1]
        code = main([*map(str, ["predict", run, "--input", tmp_path / "in.mkv", *few, *options])])
        return code, capsys.readouterr().err

    import av

    with av.open(str(tmp_path / "in.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=5)
        stream.width = stream.height = 8
        stream.pix_fmt = "bgr0"
        for picture in bars(1)[0][0, :2]:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    np.save(tmp_path / "a.npy", np.ones((5, 1)))
    (tmp_path / "b.csv").write_text("1\n1\n1\n")
    (tmp_path / "c.csv").write_text("-1\n-1\n-1\n")
    films = []
    for name in ("a.npy", "b.csv", "c.csv"):
        code, err = predict("--actions", tmp_path / name, "--out", tmp_path / "out.mp4")
        assert code == 0, err
        films.append(np.stack(list(decode(tmp_path / "out.mp4"))))
    assert np.array_equal(films[0], films[1])
    assert not np.array_equal(films[0], films[2])

    (tmp_path / "wide.csv").write_text("1,2\n1,2\n1,2\n")
    (tmp_path / "words.csv").write_text("left\nright\n")
    np.save(tmp_path / "few.npy", np.ones((2, 1)))
    np.save(tmp_path / "large.npy", np.full((3, 1), 1e300))
    np.save(tmp_path / "complex.npy", np.ones((3, 1), complex))
    (tmp_path / "empty.csv").write_text("\n")
    (tmp_path / "nan.csv").write_text("1\nnan\n1\n")
    for options, reason in (
        ((), "give --actions FILE, a row of 1 numbers"),
        (("--actions", tmp_path / "none.csv"), "no such file"),
        (("--actions", tmp_path / "wide.csv"), "shape (3, 2): rows of 1 finite numbers"),
        (("--actions", tmp_path / "words.csv"), "cannot read actions"),
        (("--actions", tmp_path / "large.npy"), "row 0 of"),
        (("--actions", tmp_path / "complex.npy"), "holds complex128"),
        (("--actions", tmp_path / "empty.csv"), "shape (0, 1)"),
        (("--actions", tmp_path / "nan.csv"), "row 1 of"),
        (("--actions", tmp_path / "few.npy"), "3 frames need as many rows, it has 2"),
    ):
        code, err = predict(*options, "--out", tmp_path / "never.mp4")
        assert code == 2
        assert reason in err
        assert err.count("\n") == 1
    assert not (tmp_path / "never.mp4").exists()


def test_river_learns_from_the_pushing_scene(tmp_path):
    pytest.importorskip("mujoco")
    data = PushScene(clips=6, validation=2, test=2, length=8, frames=8, size=16, cache=str(tmp_path))
    try:
        data.prepare()
    except UserError as error:
        pytest.skip(f"no OpenGL here: {error}")

    def network(spec):
        return RiverTransformer(spec, width=32, heads=2, blocks=(1, 1, 1))

    task = RiverTask(
        network, FlowMatching(path=LinearPath()), size=16, context=3, actions=2, codec=IdentityCodec(patch=4)
    )
    task.adapt(data)
    optimiser = torch.optim.Adam(task.parameters(), 3e-3)
    raw, generator = data.split("train").batch(range(6)), torch.Generator().manual_seed(0)
    losses = []
    for _ in range(20):
        loss = task(raw, generator=generator).total
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:3])
    held_out = data.split("test").batch([0])
    made = VideoPredictor(task)(held_out["frames"][0, :3], frames=5, actions=held_out["actions"][0, 2:])
    assert made.shape == (1, 5, 3, 16, 16)
