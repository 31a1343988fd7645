"""Predicting frames with exported programs, on the CPU, by the draws of the eager predictor."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import UInt8

from domains.video.exporting import DECODE, ENCODE, NEXT
from domains.video.past import integers
from flowkit.errors import UserError
from flowkit.random import Rows, mix_seed, normal

if TYPE_CHECKING:
    from flowkit.export.runtime import Exported


class ExportedPredictor:
    """A video model as programs::

        predictor = ExportedPredictor.open("exports/river")
        clip = predictor(context, frames=30, samples=4, seed=0)      # uint8 (4, 30, c, h, w)

    Args:
        exported: the programs of a video model.

    Attributes:
        size, channels, context, fps: as of ``VideoPredictor``.

    Raises:
        UserError: they are of something else.
    """

    def __init__(self, exported: Exported) -> None:
        if NEXT not in exported:
            raise UserError(f"{exported.folder} predicts no video: it is an export of {exported.info['task']}")
        self.exported, self.facts = exported, exported.facts
        self.size, self.channels = int(self.facts["size"]), int(self.facts["channels"])
        self.context, self.fps = int(self.facts["context"]), float(self.facts["fps"])

    @classmethod
    def open(cls, folder: str | Path, *, runtime: str | None = None, threads: int = 0) -> ExportedPredictor:
        """Of an export folder."""
        from flowkit.export.runtime import open_export

        return cls(open_export(folder, runtime=runtime, threads=threads))

    def __call__(
        self, context: Any, *, frames: int, samples: int = 1, seed: int = 0, actions: Any = None
    ) -> UInt8[np.ndarray, "samples frames c h w"]:
        """``frames`` predicted frames.

        Args:
            context: uint8 (k, c, h, w), the oldest first.
            frames: how many, at least 1.
            samples: continuations.
            seed: of the draws.
            actions: (n, A) from the last context frame on, where the model reads actions.

        Raises:
            UserError: frames of another kind, wrong actions.
        """
        return np.stack(list(islice(self.stream(context, samples=samples, seed=seed, actions=actions), frames)), 1)

    def stream(
        self, context: Any, *, samples: int = 1, seed: int = 0, actions: Any = None
    ) -> Iterator[UInt8[np.ndarray, "samples c h w"]]:
        """Frames as they come, without end (with actions: as many as there are)."""
        seen = np.asarray(context)
        wanted = (self.channels, self.size, self.size)
        if seen.dtype != np.uint8 or seen.ndim != 4 or seen.shape[1:] != wanted or not len(seen):
            raise UserError(f"the known frames are uint8 (frames, {', '.join(map(str, wanted))}), not {seen.shape}")
        given = 0 if actions is None else np.asarray(actions).shape[-1]
        if given != self.facts["actions"]:
            raise UserError(f"the model reads {self.facts['actions']} numbers of action a frame, {given} were given")
        return self._frames(seen, samples, seed, actions)

    def _frames(self, seen: np.ndarray, samples: int, seed: int, actions: Any) -> Iterator[np.ndarray]:
        horizon = int(self.facts["horizon"]) or None
        encoded = self.exported(ENCODE, frames=seen if horizon is None else seen[-horizon:])["latents"]
        known = deque((np.repeat(one[None], samples, 0) for one in encoded), maxlen=horizon)
        number = 0
        while actions is None or number < len(actions):
            inputs = self._inputs(known, Rows(mix_seed(seed, 0xF0E, number), total=samples))
            if actions is not None:
                inputs["action"] = np.repeat(np.asarray(actions, np.float32)[number][None], samples, 0)
            latent = self.exported(NEXT, **inputs)["latent"]
            known.append(latent)
            shown = self.exported(DECODE, latents=latent)["frames"]
            yield np.rint((np.clip(shown, -1.0, 1.0) + 1.0) * 127.5).astype(np.uint8)
            number += 1

    def _inputs(self, known: deque[np.ndarray], generator: Rows) -> dict[str, np.ndarray]:
        """Draws in the order of the eager rollout: a past, the noise, further pasts."""
        latents = np.stack(known, 1)
        if latents.shape[1] == 1:
            latents = np.repeat(latents, 2, 1)  # one known frame is reference and past
        rows, k = latents.shape[:2]
        low = torch.zeros(rows, dtype=torch.long)
        places = [integers(low, low + (k - 2), generator)]
        inputs = {}
        if self.facts["noise"]:
            inputs["noise"] = normal((rows, *latents.shape[2:]), generator).numpy()
        steps, redraw = self.facts["steps_of_pasts"], self.facts["redraw"]
        if steps and k > 2:
            drawn, last = [], -1
            for step in steps:
                if redraw == "call" or step != last:
                    places, last = [integers(low, low + (k - 2), generator)], step
                drawn += places
            places = drawn
        chosen = torch.stack(places * (self.facts["pasts"] // len(places)), 1).numpy()
        past = latents[np.arange(rows)[:, None], chosen]
        return {"reference": latents[:, -1], "past": past, "distance": k - 1 - chosen, **inputs}
