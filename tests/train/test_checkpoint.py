"""A checkpoint is whole or it is none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from flowkit import atomic
from flowkit.errors import UserError
from flowkit.train.checkpoint import Checkpoints


def fill(folder: Path) -> None:
    atomic.write_tensors(folder / "model" / "model.safetensors", {"w": torch.arange(100.0)})
    atomic.write_text(folder / "state" / "trainer.json", "{}\n")


def test_newest_and_best_are_kept_and_linked(tmp_path: Path) -> None:
    for mode, best in (("min", 2), ("max", 3)):
        checkpoints = Checkpoints(tmp_path / mode, keep=2, mode=mode)  # pyright: ignore[reportArgumentType]
        for step, score in ((1, 0.5), (2, 0.1), (3, 0.9), (4, None), (5, 0.3), (6, None)):
            checkpoints.save(step, fill, score=score)
        assert checkpoints.steps() == [best, 5, 6]
        assert checkpoints.best() == (best, {2: 0.1, 3: 0.9}[best])
        links = {name: (checkpoints.folder / name).readlink().name for name in ("last", "best")}
        assert links == {"last": "00000006", "best": f"{best:08d}"}


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing", "unsealed", "half a seal"])
def test_a_damaged_checkpoint_is_never_taken(tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoints = Checkpoints(tmp_path, keep=0)
    checkpoints.save(1, fill)
    folder = checkpoints.save(2, fill)
    weights, seal = folder / "model" / "model.safetensors", folder / "complete.json"
    content = bytearray(weights.read_bytes())
    if damage == "truncated":
        weights.write_bytes(content[:-10])
    elif damage == "flipped":
        content[-1] ^= 1
        weights.write_bytes(content)
    elif damage == "missing":
        weights.unlink()
    elif damage == "unsealed":
        seal.unlink()
    else:
        seal.write_text(seal.read_text()[:40])
    found = checkpoints.find("last")
    assert found is not None
    assert found[0] == 1
    with pytest.raises(UserError, match=r"damaged|no whole checkpoint of step 2"):
        checkpoints.find(2)


def test_what_is_being_written_is_invisible_and_cleaned_after_a_kill(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)

    def interrupted(folder: Path) -> None:
        fill(folder)
        assert checkpoints.steps() == []
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(3, interrupted)
    assert list(checkpoints.folder.iterdir()) == []
    (checkpoints.folder / ".00000003.77.writing").mkdir()
    checkpoints.clean()
    assert list(checkpoints.folder.iterdir()) == []
    assert checkpoints.find("last") is None


def test_going_back_sets_later_checkpoints_aside(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=0)
    for step in (1, 2, 3):
        checkpoints.save(step, fill, score=-float(step))
    assert checkpoints.abandon_after(1) == [2, 3]
    assert checkpoints.steps() == [1]
    assert (checkpoints.folder / "best").resolve().name == (checkpoints.folder / "last").resolve().name == "00000001"
    assert (checkpoints.folder / "abandoned" / "00000003" / "model").is_dir()
    checkpoints.save(2, fill)
    assert checkpoints.steps() == [1, 2]


def test_requests_that_cannot_be_met_name_what_there_is(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(4, fill)
    with pytest.raises(UserError, match=r"no whole checkpoint of step 3 .*there are: 4"):
        checkpoints.find("3")
    with pytest.raises(UserError, match="say last, best or a step"):
        checkpoints.find("lats")
    best = checkpoints.find("best")
    assert best is not None
    assert best[0] == 4, "without a score the last one is the best"


def test_tensors_that_share_memory_are_written_each(tmp_path: Path) -> None:
    w = torch.arange(6.0)
    atomic.write_tensors(tmp_path / "t.safetensors", {"a": w, "b": w, "c": w[2:4], "d": w.reshape(2, 3).T})
    found = load_file(tmp_path / "t.safetensors")
    assert torch.equal(found["a"], w)
    assert torch.equal(found["b"], w)
    assert torch.equal(found["c"], w[2:4])
    assert torch.equal(found["d"], w.reshape(2, 3).T)
