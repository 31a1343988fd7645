"""A rod that pushes pucks about on a table (MuJoCo): video with actions, without a download."""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from domains.video.data.arrays import ArrayClips, pack_arrays
from domains.video.data.camera import EXTRA, Camera
from domains.video.data.clips import MappedFrames
from domains.video.data.rendered import Rendered, RenderedSource, Scene
from flowkit.errors import UserError

#: Colours of pucks, by label.
COLOURS = (
    (0.85, 0.2, 0.2),
    (0.2, 0.65, 0.25),
    (0.2, 0.35, 0.85),
    (0.9, 0.7, 0.15),
    (0.65, 0.25, 0.75),
    (0.2, 0.7, 0.75),
)
SHAPES = ("cylinder", "box")
#: As far from the middle of the table the rod goes, in metres; the walls stand at 0.5.
_REACH = 0.42
#: Metres a second at full action; steps of physics in a frame; seconds of each.
_SPEED, _STEPS, _STEP = 0.9, 10, 0.01
#: A puck that went less far, in metres, did not move.
_STILL = 0.02


def _puck(number: int, shape: str) -> str:
    size = "0.075 0.035" if shape == "cylinder" else "0.065 0.065 0.035"
    # Friction with the table, as a force that holds and one that grows with speed.
    return f"""
    <body name="puck{number}" pos="0 0 0.036">
      <joint name="x{number}" type="slide" axis="1 0 0" damping="1.5" frictionloss="0.6"/>
      <joint name="y{number}" type="slide" axis="0 1 0" damping="1.5" frictionloss="0.6"/>
      <joint name="turn{number}" type="hinge" axis="0 0 1" damping="0.008" frictionloss="0.004"/>
      <geom name="puck{number}" type="{shape}" size="{size}" mass="0.3" friction="0.4"/>
    </body>"""


def scene_text(pucks: int) -> str:
    """The model as MJCF: pucks in turn round and square."""
    walls = "".join(
        f'<geom type="box" pos="{x} {y} 0.03" size="{0.53 if y else 0.03} {0.03 if y else 0.53} 0.03" '
        'rgba=".55 .45 .35 1"/>'
        for x, y in ((0.53, 0), (-0.53, 0), (0, 0.53), (0, -0.53))
    )
    seen = 'contype="0" conaffinity="0"'  # and touched by nothing
    bodies = "".join(_puck(number, SHAPES[number % 2]) for number in range(pucks))
    return f"""
<mujoco>
  <option timestep="{_STEP}" gravity="0 0 0" integrator="implicitfast"/>
  <visual><headlight ambient=".45 .45 .45" diffuse=".5 .5 .5" specular=".1 .1 .1"/></visual>
  <worldbody>
    <light pos="-.6 -.8 1.5" dir=".4 .5 -1" diffuse=".35 .35 .35" castshadow="false"/>
    <camera name="above" pos="0 -.62 1.22" xyaxes="1 0 0 0 .892 .452" fovy="50"/>
    <geom {seen} type="box" pos="0 0 -.02" size=".56 .56 .02" rgba=".82 .78 .7 1"/>
    {walls}
    {bodies}
    <body name="rod" pos="0 0 .01">
      <joint name="rodx" type="slide" axis="1 0 0" range="-{_REACH} {_REACH}" limited="true"/>
      <joint name="rody" type="slide" axis="0 1 0" range="-{_REACH} {_REACH}" limited="true"/>
      <geom type="capsule" fromto="0 0 .02 0 0 .22" size=".035" mass="1" rgba=".2 .2 .22 1"/>
      <geom {seen} type="cylinder" fromto="0 0 .22 0 0 .25" size=".055" mass=".1" rgba=".75 .75 .78 1"/>
    </body>
  </worldbody>
  <actuator>
    <velocity joint="rodx" kv="60"/>
    <velocity joint="rody" kv="60"/>
  </actuator>
</mujoco>"""


class PushingTable(Scene):
    """The table, see :class:`PushScene`."""

    def __init__(self, *, size: int, length: int, pucks: int) -> None:
        try:
            mujoco: Any = import_module("mujoco")
        except ImportError as error:
            raise UserError(f"the pushing scene needs a package ({error}): {EXTRA}") from error
        self._mujoco: Any = mujoco
        self._length, self._pucks = length, pucks
        self._model: Any = mujoco.MjModel.from_xml_string(scene_text(pucks))
        self._data: Any = mujoco.MjData(self._model)
        self._camera = Camera(self._model, name="above", size=size)
        self.renderer = f"MuJoCo {mujoco.__version__}, {self._camera.kind}"

    def close(self) -> None:
        """See :class:`~domains.video.data.rendered.Scene`."""
        self._camera.close()

    def _reset(self, rng: np.random.Generator) -> list[int]:
        """Put all things somewhere apart; returns the colours of the pucks."""
        self._mujoco.mj_resetData(self._model, self._data)
        places: list[np.ndarray] = []
        while len(places) < self._pucks + 1:
            place = rng.uniform(-0.36, 0.36, 2)
            if all(math.dist(place, other) > 0.2 for other in places):
                places.append(place)
        for number in range(self._pucks):
            self._data.qpos[3 * number : 3 * number + 3] = [*places[number], rng.uniform(-math.pi, math.pi)]
        self._data.qpos[-2:] = places[-1]
        colours = rng.permutation(len(COLOURS))[: self._pucks].tolist()
        for number, colour in enumerate(colours):
            self._model.geom(f"puck{number}").rgba = [*COLOURS[colour], 1.0]
        self._mujoco.mj_forward(self._model, self._data)
        return colours

    def _places(self) -> np.ndarray:
        """(pucks + 1, 2) x and y of the pucks and the rod."""
        qpos = self._data.qpos
        return np.array([*(qpos[3 * number : 3 * number + 2] for number in range(self._pucks)), qpos[-2:]])

    def render(self, seed: int) -> Rendered:
        """See :class:`~domains.video.data.rendered.Scene`."""
        rng = np.random.Generator(np.random.PCG64(seed))
        colours = self._reset(rng)
        frames, actions, states = [self._camera(self._data)], [], [self._places().ravel()]
        action, goal, left = np.zeros(2), np.zeros(2), 0
        for _ in range(self._length - 1):
            places = self._places()
            if not left or math.dist(goal, places[-1]) < 0.05:
                # Somewhere, or through a puck and beyond.
                goal, left = rng.uniform(-_REACH, _REACH, 2), int(rng.integers(5, 13))
                if rng.random() < 0.65:
                    puck = places[rng.integers(self._pucks)]
                    towards = puck - places[-1]
                    goal = np.clip(puck + 0.25 * towards / max(float(np.hypot(*towards)), 1e-6), -_REACH, _REACH)
            left -= 1
            wanted = 4.0 * (goal - places[-1]) + rng.normal(0, 0.15, 2)
            wanted /= max(1.0, float(np.hypot(*wanted)))
            action = 0.5 * action + 0.5 * wanted
            # What is written down is what was done, in the precision in which it is kept.
            given = action.astype(np.float32)
            self._data.ctrl[:] = given * _SPEED
            for _ in range(_STEPS):
                self._mujoco.mj_step(self._model, self._data)
            actions.append(given)
            frames.append(self._camera(self._data))
            states.append(self._places().ravel())
        return Rendered(np.stack(frames), np.stack(actions), np.stack(states), {"colours": colours})


class PushScene(RenderedSource):
    """Set ``push64``: a rod pushes pucks about on a walled table, seen from above at a slant; 10 frames a second.

    Actions (2): wanted speed of the rod to the right and to the back, each in -1 to 1, smooth and at random, often
    towards a puck. Attributes of clips: ``colours`` (n, pucks) rows of :data:`COLOURS`; ``displacement`` (n, pucks)
    octant of the way from the first frame to the last (0 to 7, counted from the right towards the back; 8: it did not
    move); ``distance`` (n, pucks) of that way in metres; ``action`` (n,) octant of the sum of the actions;
    ``positions`` (n, frames, pucks + 1, 2) x and y of the pucks and of the rod in metres.

    Args:
        pucks: how many lie on the table, 1 to 4.
        frames: of a clip.
        length: frames drawn of each.
        options: ``clips``, ``workers`` and others, see :class:`~domains.video.data.rendered.RenderedSource`.
    """

    source = "pushing scene (MuJoCo)"

    def __init__(self, *, pucks: int = 2, frames: int = 30, length: int = 30, **options: Any) -> None:
        super().__init__(frames=frames, length=length, terms="no recording: simulated", **options)
        self.pucks = pucks

    def check(self) -> None:
        """See :class:`~domains.video.data.rendered.RenderedSource`."""
        super().check()
        if not 1 <= self.pucks <= 4:
            raise UserError(f"data.init_args.pucks is {self.pucks}: it is 1 to 4")
        if self.flips:
            raise UserError("data.init_args.flips is true: a mirror would need other actions, leave it out")

    def appearance(self) -> Mapping[str, Any]:
        """See :class:`~domains.video.data.rendered.RenderedSource`."""
        return {"pucks": self.pucks}

    def open_scene(self) -> Scene:
        """See :class:`~domains.video.data.rendered.RenderedSource`."""
        return PushingTable(size=self.size, length=self.length, pucks=self.pucks)

    def describe(self, starts: np.ndarray) -> Mapping[str, np.ndarray]:
        """See the class."""
        return pushes(self.mapped, starts, frames=self.frames, stride=self.stride)


class PackedPushes(ArrayClips):
    """Clips of :class:`PushScene` out of a file that :func:`pack_pushes` wrote, with the same attributes: for machines
    without MuJoCo.

    Args:
        file: the ``.npz``.
        options: see :class:`~domains.video.data.arrays.ArrayClips`.
    """

    def __init__(self, file: str, *, frames: int = 16, **options: Any) -> None:
        super().__init__(file, frames=frames, **{"terms": "no recording: simulated", **options})

    def describe(self, starts: np.ndarray) -> Mapping[str, np.ndarray]:
        """See :class:`PushScene`.

        Raises:
            UserError: the file does not say where things were.
        """
        mapped = self.mapped
        if mapped.states is None or mapped.actions is None or mapped.states.shape[1] < 4 or mapped.states.shape[1] % 2:
            raise UserError(
                f"{self.file!r} holds no pushing scene with its states and actions: pack_pushes writes them"
            )
        return pushes(mapped, starts, frames=self.frames, stride=self.stride)


def pack_pushes(source: PushScene, path: Path, *, length: int) -> None:
    """Write the first ``length`` frames of all clips drawn by a source, whatever their split, into an ``.npz``.

    Raises:
        UserError: fewer frames were drawn, or they cannot be.
    """
    if not 2 <= length <= source.length:
        raise UserError(f"length is {length}: it is 2 to {source.length}, the frames that are drawn of each clip")
    mapped, rows = source.mapped, source.mapped.manifest["videos"]
    frames = mapped.frames.reshape(len(rows), source.length, *mapped.frames.shape[1:])[:, :length]
    frames = np.ascontiguousarray(frames.transpose(0, 1, 3, 4, 2))
    states = mapped.states.reshape(len(rows), source.length, -1)[:, :length]
    actions = mapped.actions.reshape(len(rows), source.length, -1)[:, : length - 1]
    # The table: what most clips show at their start.
    ground = np.median(frames[:201, 0], axis=0).astype(np.uint8)
    labels = {"colours": np.asarray([row["labels"]["colours"] for row in rows])}
    pack_arrays(path, frames, fps=source.fps, actions=actions, states=states, labels=labels, ground=ground)


def pushes(mapped: MappedFrames, starts: np.ndarray, *, frames: int, stride: int) -> Mapping[str, np.ndarray]:
    """Attributes of the clips that begin at the frames ``starts`` (n,); see :class:`PushScene`."""
    steps = np.arange(frames) * stride
    states, actions = mapped.states, mapped.actions
    assert states is not None
    assert actions is not None
    positions = states[starts[:, None] + steps].reshape(len(starts), frames, -1, 2)
    way = positions[:, -1, :-1] - positions[:, 0, :-1]
    distance = np.hypot(way[..., 0], way[..., 1])
    done = actions[starts[:, None] + np.arange(steps[-1])].sum(axis=1)
    return {
        "displacement": np.where(distance < _STILL, 8, octant(way)),
        "distance": distance,
        "action": octant(done),
        "positions": positions,
    }


def octant(way: np.ndarray) -> np.ndarray:
    """(...) int64, 0 to 7: the eighth of a turn in which (..., 2) x and y point, counted from the x axis to the y."""
    angle = np.arctan2(way[..., 1], way[..., 0])
    return np.floor(angle / (math.pi / 4)).astype(np.int64) % 8
