"""The predictor of bouncing sprites, fitted to videos of another scene."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.tuning.case import Case


class VideoCase(Case):
    """Judged on clips of videos that training has not seen: 5 known frames, the others predicted.

    Args:
        file: arrays of videos, 64 x 64 (:mod:`domains.video.data.arrays`).
        frames: of a clip.
        videos: to train on, at most (0: all); the others beside the held-out ones are left out.
    """

    def __init__(
        self, *, file: Path, frames: int = 15, videos: int = 0, base: str = "video/river-sprites", device: str,
        limit: int,
    ) -> None:  # fmt: skip
        self.base, self.device, self.limit = base, device, limit
        self.file, self.frames, self.videos = file.resolve(), frames, videos

    def data(self, *, light: bool = False) -> Mapping[str, Any]:
        source = {
            "class_path": "ArrayClips",
            "init_args": {"file": str(self.file), "frames": self.frames, "size": 64, "validation": 0.02, "test": 0.2},
        }
        # Clips are numbered video by video: the first so many are those of the first videos.
        kept = {"source": source, "device": "cpu" if light or self.device == "cpu" else "auto"}
        if self.videos or light:
            kept["clips"] = 256 if light else self.videos * self._starts
        return {"class_path": "ResidentClips", "init_args": kept}

    @cached_property
    def _source(self) -> Any:
        from domains.video.data.arrays import ArrayClips

        source = ArrayClips(str(self.file), frames=self.frames, size=64, validation=0.02, test=0.2)
        source.prepare()
        return source

    @property
    def _starts(self) -> int:
        """Training clips of one video."""
        return int(self._source.mapped.manifest["videos"][0]["frames"]) - self.frames + 1

    def judge(self, model: str, keep: Path | None) -> dict[str, float]:
        from domains.video.judge import judge
        from flowkit.artifacts import from_pretrained

        loaded = from_pretrained(model, device=self.device)
        task: Any = loaded.task.eval()
        task.evaluate_clips, task.evaluate_samples = self.limit, 3
        return judge(task, self._source.split("test"), sampler=loaded.sampler, seed=self.seed)

    def reference(self) -> dict[str, Any]:
        clips = {name: len(self._source.split(name)) for name in ("train", "test")}
        kept = min(clips["train"], self.videos * self._starts or clips["train"])
        return {"file": self.file.name, "frames": self.frames, "training clips": kept, "test clips": clips["test"]}
