"""The predictor's part of ``flowkit app``: a clip goes in, its continuations come out beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from domains.video.past import REDRAWS
from domains.video.pipeline import VideoPredictor
from flowkit.app.controls import Choice, Control, Number, Slider, Upload
from flowkit.app.panel import Made, Panel, Progress, Show
from flowkit.artifacts import Artifact
from flowkit.clip import import_av, save_film
from flowkit.errors import UserError
from flowkit.solvers.sampler import Sampler

#: Frames of the example clip, and of the strip of pictures.
_EXAMPLE, _STRIP = 40, 10


class VideoPanel(Panel):
    """Goes on with a clip."""

    button = "Predict"
    shows = (
        Show("film", "film", "The clip and its continuations: known frames in blue, predicted ones in orange"),
        Show("strip", "picture", "Over time, from left to right; the true clip above where it goes on"),
    )

    def __init__(self, artifact: Artifact) -> None:
        super().__init__(artifact)
        import_av()  # nothing can be shown without it
        self.predictor: VideoPredictor = artifact.pipeline()
        if self.predictor.channels != 3:
            raise UserError(f"the model reads frames of {self.predictor.channels} channels, files have 3")

    def controls(self) -> Sequence[Control]:
        """Clip, numbers of frames and samples, seed, and the dials of the prediction."""
        predictor, dials = self.predictor, self.predictor.dials
        actions = [
            Upload(
                name="actions", label="Actions", suffixes=(".npy", ".csv"),
                info=f"a row of {self.task.actions} numbers for each predicted frame",
            )
        ]  # fmt: skip
        return (
            Upload(
                name="clip", label="Clip", film=True,
                examples={"Bouncing sprites": self._sprites, "The model's own example": self._own},
            ),
            *(actions if self.task.actions else ()),
            Slider(
                name="context", label="Known frames", low=1, high=max(16, predictor.context), value=predictor.context
            ),
            Slider(name="frames", label="Frames to predict", low=1, high=120, value=15),
            Slider(name="samples", label="Samples", low=1, high=8, value=3),
            Number(name="seed", label="Seed", dice=True),
            Number(name="start", label="First frame of the clip", more=True),
            Slider(name="stride", label="Take each n-th frame", low=1, high=16, value=1, more=True),
            Choice(name="redraw", label="Past frame is drawn anew", options=REDRAWS, value=dials.redraw, more=True),
            Slider(
                name="strength", label="Strength", low=0.0, high=0.95, value=dials.strength, step=0.05, more=True,
                info="start at this t on the path to the last frame",
            ),
        )  # fmt: skip

    def _sprites(self, folder: Path) -> Path:
        """A clip of the test split, as :class:`BouncingSprites` draws it."""
        from domains.video.data.sprites import BouncingSprites

        source = BouncingSprites(frames=_EXAMPLE, size=max(32, self.predictor.size), colour=True)
        return _written(folder / "sprites.mp4", source.split("test").read(np.array([3]))[0], source.fps)

    def _own(self, folder: Path) -> Path:
        """The frames that the model keeps as its example."""
        return _written(folder / "example.mp4", self.task.example.cpu().numpy(), self.predictor.fps or 10.0)

    def run(self, asked: Mapping[str, Any], sampler: Sampler) -> Iterator[Progress | Made]:
        """Predict frame after frame."""
        from domains.video.present import grid, side_by_side
        from flowkit.present import Picture

        context, frames, samples = asked["context"], asked["frames"], asked["samples"]
        seen, fps = self._seen(asked)
        predictor = VideoPredictor(
            self.predictor.task, sampler, redraw=asked["redraw"], strength=asked["strength"],
            horizon=self.predictor.dials.horizon,
        )  # fmt: skip
        stream = predictor.stream(seen[:context], samples=samples, seed=asked["seed"], actions=self._actions(asked))
        made, nfe, calls, seconds = [], 0.0, 0.0, 0.0
        for number, frame in enumerate(islice(stream, frames), 1):
            made.append(frame.pixels.numpy())
            nfe, calls, seconds = nfe + frame.nfe, calls + frame.network_calls, seconds + frame.seconds
            yield Progress(number / frames, f"frame {number} of {frames}")
        followed = len(seen) > context
        panels = [np.concatenate([seen[:context], [step[i] for step in made]]) for i in range(samples)]
        rows = ([seen] if followed else []) + panels
        at = np.linspace(max(0, context - 2), context + len(made) - 1, _STRIP).round().astype(int)
        at = np.unique(at)
        strip = [[row[min(t, len(row) - 1)] for t in at] for row in rows]
        known = [[bool(t < context or (followed and place == 0)) for t in at] for place in range(len(rows))]
        clip = side_by_side([rows], context=context, fps=fps, truth=followed)
        facts = {"frames": f"{context} known + {len(made)}", "a frame": f"{1000 * seconds / len(made):.0f} ms"}
        yield Made(
            {"film": clip, "strip": Picture(grid(strip, known))}, nfe / len(made), calls / len(made), "frame", seconds,
            facts, notes=self._notes(fps, asked["stride"]),
        )  # fmt: skip

    def _seen(self, asked: Mapping[str, Any]) -> tuple[np.ndarray, float]:
        """The known frames and those of the clip that follow, as far as it goes."""
        from domains.video.reading import read_square

        context, start = asked["context"], asked["start"]
        if not asked["clip"]:
            raise UserError("no clip: upload a video file, or take an example")
        if start < 0:
            raise UserError(f"first frame {start}: at least 0")
        path = Path(asked["clip"])
        try:
            seen, fps = read_square(
                path, size=self.predictor.size, start=start, count=context + asked["frames"], stride=asked["stride"]
            )
        except UserError as error:  # where the page keeps uploads is no business of a reader's
            raise UserError(str(error).replace(str(path), path.name)) from error
        if len(seen) < context:
            where = f" from frame {start} on" if start else ""
            raise UserError(
                f"{path.name} has {len(seen)} frames{where}, {context} known ones are asked for: lower that"
            )
        return seen, fps

    def _actions(self, asked: Mapping[str, Any]) -> np.ndarray | None:
        if not self.task.actions:
            return None
        if not asked["actions"]:
            raise UserError("this model needs the actions between the frames: upload a file of them")
        from domains.video.reading import read_actions

        actions = read_actions(asked["actions"], self.task.actions)
        if len(actions) < asked["frames"]:
            raise UserError(f"{asked['frames']} frames need as many rows of actions, the file has {len(actions)}")
        return actions

    def _notes(self, fps: float, stride: int) -> list[str]:
        learnt = self.predictor.fps
        better = max(1, round(stride * fps / learnt)) if learnt else stride
        if better == stride:
            return []
        return [
            f"the clip has {fps:g} frames a second, the model learnt from {learnt:g}: each {better}-th comes nearest"
        ]


def _written(path: Path, frames: np.ndarray, fps: float) -> Path:
    return save_film(path, list(frames.transpose(0, 2, 3, 1)), fps)
