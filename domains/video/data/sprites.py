"""Sprites that move in a box and bounce off its walls: video without a download, whose every attribute is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from domains.video.data.banks import Bank, Fashion, Shapes
from domains.video.data.clips import ClipSamples, ClipSource, check_clip, split_number
from domains.video.data.draws import uniforms
from domains.video.data.shapes import PHASES
from flowkit.data import Split
from flowkit.errors import UserError

#: Clips of a split are numbered from its place times this.
SPLIT_STEP = 1 << 40
#: Red, green and blue of sprites in colour.
PALETTE = np.array(
    [(230, 60, 60), (70, 200, 80), (80, 120, 255), (240, 200, 60), (200, 80, 220), (70, 210, 220)], dtype=np.uint16
)


def _polar(turn: np.ndarray, speed: np.ndarray) -> np.ndarray:
    """Velocities (..., 2), y then x, from parts of a full turn and speeds."""
    angle = 2 * np.pi * turn
    return np.stack([speed * np.sin(angle), speed * np.cos(angle)], -1)


@dataclass(frozen=True)
class Motion:
    """Where the sprites of b clips are: K of them, T frames.

    Args:
        pictures: (b, K) int64 numbers of the pictures that the sprites show.
        classes: (b, K) int64 numbers of their classes.
        colours: (b, K) int64 rows of the palette.
        corners: (b, T, K, 2) float64 upper left corners, y then x, in pixels.
        velocities: (b, T, K, 2) pixels a step, with which a sprite leaves the frame.
        bounced: (b, T, K) whether it met a wall since the frame before.
    """

    pictures: np.ndarray
    classes: np.ndarray
    colours: np.ndarray
    corners: np.ndarray
    velocities: np.ndarray
    bounced: np.ndarray


class SpriteClips(ClipSamples):
    """The clips of one split; clip i is a function of the source's arguments, of the split and of i."""

    def __init__(self, source: BouncingSprites, name: Split, count: int) -> None:
        self.source, self.name, self.count = source, name, count
        self._known = source.bank.numbers(name, source.held_out)

    def __len__(self) -> int:
        return self.count

    def clip_numbers(self, indices: np.ndarray) -> np.ndarray:
        """The index, behind the numbers of the splits before."""
        return indices + split_number(self.name) * SPLIT_STEP

    def motion(self, indices: np.ndarray) -> Motion:
        """How the sprites of the clips (b,) move."""
        source = self.source
        sprites, steps = source.sprites, (source.frames - 1) * source.stride
        draws = uniforms(source.seed, self.clip_numbers(indices), sprites * (6 + steps))
        # Frames last, so that a longer clip begins as a shorter one does.
        draws = draws.reshape(len(indices), 6 + steps, sprites).swapaxes(1, 2)
        pictures = self._known[(draws[..., 0] * len(self._known)).astype(np.int64)]
        classes = source.bank.classes(pictures)
        colours = (draws[..., 1] * len(PALETTE)).astype(np.int64)
        room = float(source.size - source.side)
        speed = source.speed_range[0] + draws[..., 2] * (source.speed_range[1] - source.speed_range[0])
        place: Any = draws[..., 3:5] * room
        velocity = _polar(draws[..., 5], speed)
        corners, velocities, hits = [place], [velocity], [np.zeros(classes.shape, dtype=bool)]
        for step in range(steps):
            place = place + velocity
            low, high = place < 0, place > room
            hit = low | high
            if source.deterministic:
                place = np.where(low, -place, np.where(high, 2 * room - place, place))
                turned = velocity
            else:
                place = np.clip(place, 0.0, room)
                turned = np.where(hit.any(-1)[..., None], _polar(draws[..., 6 + step], speed), velocity)
            # Away from the walls that were met.
            velocity = np.where(low, abs(turned), np.where(high, -abs(turned), turned))
            corners.append(place)
            velocities.append(velocity)
            hits.append(hit.any(-1))
        every = source.stride
        met = np.stack(hits, 1)
        bounced = np.add.reduceat(met, np.r_[0, 1 : steps + 1 : every], axis=1) > 0
        return Motion(
            pictures, classes, colours, np.stack(corners[::every], 1), np.stack(velocities[::every], 1), bounced
        )

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Draw; where sprites overlap the brighter one is seen."""
        source, side = self.source, self.source.side
        motion = self.motion(indices)
        fine = np.rint(motion.corners * PHASES).astype(np.int64)
        place, phase = fine // PHASES, fine % PHASES
        clips, frames, sprites = fine.shape[:3]
        channels = 3 if source.colour else 1
        # A margin for the smeared edge of a sprite at the far wall.
        canvas = np.zeros((clips, frames, channels, source.size + 1, source.size + 1), dtype=np.uint8)
        windows = np.lib.stride_tricks.sliding_window_view(canvas, (side + 1, side + 1), axis=(3, 4), writeable=True)  # pyright: ignore[reportCallIssue, reportArgumentType]
        row, frame = np.arange(clips)[:, None], np.arange(frames)
        for k in range(sprites):
            tint = motion.colours[:, k, None] * source.colour
            drawn = motion.pictures[:, k, None], tint, phase[:, :, k, 0], phase[:, :, k, 1]
            there = (row, frame, slice(None), place[:, :, k, 0], place[:, :, k, 1])
            windows[there] = np.maximum(windows[there], source.bank.draw(*drawn))
        inside = canvas[..., :-1, :-1]
        return np.ascontiguousarray(np.broadcast_to(inside, (*inside.shape[:2], 3, *inside.shape[3:])))

    def attributes(self, indices: Sequence[int]) -> Mapping[str, np.ndarray]:
        """What evaluators ask for, sprites in the second axis (K of them).

        ``classes``, ``pictures``, ``colours`` (b, K), ``direction`` (b, K) octant of the first step (0 to 7, counted
        from the positive x axis towards the positive y axis, which points down), ``speed`` (b, K) pixels a step,
        ``third`` (b, K) third of the range of speeds, ``bounces`` (b, K) number of frames before which a wall was met,
        ``positions`` (b, K, T, 2) middles of the sprites, y then x, in pixels.
        """
        rows = np.asarray(indices, dtype=np.int64)
        motion = self.motion(rows)
        first = motion.velocities[:, 0]
        angle = np.arctan2(first[..., 0], first[..., 1])
        speed = np.hypot(first[..., 0], first[..., 1])
        low, high = self.source.speed_range
        third = np.clip((speed - low) / max(high - low, 1e-9) * 3, 0, 2).astype(np.int64)
        return {
            "classes": motion.classes,
            "pictures": motion.pictures,
            "colours": motion.colours,
            "direction": np.floor(angle / (np.pi / 4)).astype(np.int64) % 8,
            "speed": speed,
            "third": third,
            "bounces": motion.bounced.sum(axis=1),
            "positions": (motion.corners + (self.source.side - 1) / 2).swapaxes(1, 2),
        }


class BouncingSprites(ClipSource):
    """Sprites at constant speed in a dark box. Clip i of a split is a function of the arguments, the split and i alone.

    Args:
        frames: of a clip.
        size: height and width in pixels.
        sprites: how many move.
        motion: ``stochastic``: a new direction, drawn uniformly among those that lead away, at each wall;
            ``deterministic``: reflected.
        speed: slowest and fastest, in pixels a step; empty: size/32 to 5 size/64 (2 to 5 at 64).
        colour: each sprite has one of six colours; otherwise white.
        side: height and width of a sprite; 0: 7/16 of ``size`` (28 at 64).
        pictures: what sprites show: twelve ``drawn`` shapes, or ``fashion-mnist`` (60,000 pictures of ten kinds of
            clothes; those of the test split are others).
        folder: of Fashion-MNIST's files; empty: where Debian's package dataset-fashion-mnist puts them.
        held_out: so many of the classes are seen in the test split only, and no others there; 0: all everywhere.
        stride: steps from one frame to the next.
        clips: of the training split.
        validation: clips of the validation split.
        test: clips of the test split.
        seed: another seed gives other clips.
        cache: not needed, as nothing is kept; here because other sources have it.
    """

    licence = "no recording: drawn by rule"
    fitting = ("frames", "size")
    fps = 10.0

    def __init__(
        self,
        *,
        frames: int = 20,
        size: int = 64,
        sprites: int = 2,
        motion: Literal["stochastic", "deterministic"] = "stochastic",
        speed: list[float] | None = None,
        colour: bool = False,
        side: int = 0,
        pictures: Literal["drawn", "fashion-mnist"] = "drawn",
        folder: str = "",
        held_out: int = 0,
        stride: int = 1,
        clips: int = 100_000,
        validation: int = 1000,
        test: int = 1000,
        seed: int = 0,
        cache: str = "",
    ) -> None:
        self.frames, self.size, self.sprites, self.motion, self.speed = frames, size, sprites, motion, speed
        self.colour, self.side, self.held_out, self.stride = colour, side or size * 7 // 16, held_out, stride
        self.counts: dict[Split, int] = {"train": clips, "validation": validation, "test": test}
        self.pictures, self.folder, self.seed, self.cache = pictures, folder, seed, cache

    @property
    def deterministic(self) -> bool:
        """Whether the walls reflect."""
        return self.motion == "deterministic"

    @property
    def speed_range(self) -> tuple[float, float]:
        """Slowest and fastest, in pixels a step."""
        low, high = self.speed or (self.size / 32, self.size * 5 / 64)
        return float(low), float(high)

    @cached_property
    def bank(self) -> Bank:
        """What the sprites show.

        Raises:
            UserError: Fashion-MNIST is asked for and not there.
        """
        tints = PALETTE if self.colour else np.full((1, 1), 255, dtype=np.uint16)
        return Shapes(self.side, tints) if self.pictures == "drawn" else Fashion(self.side, tints, self.folder)

    def prepare(self) -> None:
        """Check the arguments; there is nothing to fetch.

        Raises:
            UserError: arguments that make no clips.
        """
        check_clip(frames=self.frames, stride=self.stride, size=self.size)
        if self.sprites < 1:
            raise UserError(f"data.init_args.sprites is {self.sprites}: it is at least 1")
        if not 4 <= self.side < self.size:
            raise UserError(f"data.init_args.side is {self.side}: it is at least 4 and below size ({self.size})")
        if not 0 <= self.held_out < len(self.bank.names):
            raise UserError(f"data.init_args.held_out is {self.held_out}: there are {len(self.bank.names)} classes")
        if self.speed is not None and len(self.speed) != 2:
            raise UserError(f"data.init_args.speed has {len(self.speed)} entries: give the slowest and the fastest")
        low, high = self.speed_range
        if not 0 <= low <= high <= self.size - self.side:
            raise UserError(
                f"data.init_args.speed is {low:g} to {high:g}: speeds grow and lie in 0 to {self.size - self.side} "
                "(size - side) pixels a step"
            )
        for name, count in self.counts.items():
            if count < (name == "train"):
                raise UserError(f"data has {count} clips in the {name} split: it needs at least {int(name == 'train')}")

    def split(self, name: Split) -> SpriteClips:
        """One split.

        Raises:
            UserError: no such split, or arguments that make no clips.
        """
        split_number(name)
        self.prepare()
        return SpriteClips(self, name, self.counts[name])

    def statistics(self) -> Mapping[str, Any]:
        """``frames``, ``size``, ``channels``, ``fps``, ``clips`` (of each split), ``source``, ``licence``, ``actions``,
        and ``classes`` (names of the sprites), ``sprites``, ``speed``, ``motion``, ``stride``, ``held_out``.
        """
        names = self.bank.names
        return {
            "frames": self.frames,
            "size": self.size,
            "channels": 3,
            "fps": self.fps / self.stride,
            "clips": dict(self.counts),
            "source": f"{self.sprites} bouncing sprites ({self.pictures}), {self.motion}",
            "licence": self.licence if self.pictures == "drawn" else "MIT (Fashion-MNIST)",
            "actions": 0,
            "stride": self.stride,
            "classes": list(names),
            "held_out": list(names[len(names) - self.held_out :]),
            "sprites": self.sprites,
            "speed": list(self.speed_range),
            "motion": self.motion,
        }
