"""Bodies that slide into each other on a plane (pybullet): collisions that are known, without a download."""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import numpy as np

from domains.video.data.camera import EXTRA
from domains.video.data.rendered import Rendered, RenderedSource, Scene
from flowkit.errors import UserError

SHAPES = ("ball", "box", "cylinder")
#: Colours of bodies, by label.
COLOURS = (
    (0.8, 0.2, 0.2),
    (0.2, 0.65, 0.25),
    (0.2, 0.35, 0.85),
    (0.9, 0.75, 0.2),
    (0.6, 0.25, 0.7),
    (0.45, 0.45, 0.45),
)
#: Half the height of a body, in metres; steps of physics in a frame; seconds of each.
_SIZE, _STEPS, _STEP = 0.2, 20, 1 / 240
#: Two bodies collide anew where they did not touch in so many steps before.
_APART = 10


class Plane(Scene):
    """The plane, see :class:`Collisions`."""

    def __init__(self, *, size: int, length: int, bodies: tuple[int, int]) -> None:
        try:
            pybullet: Any = import_module("pybullet")
        except ImportError as error:
            raise UserError(f"the collision scene needs a package ({error}): {EXTRA}") from error
        self._bullet: Any = pybullet
        self._size, self._length, self._bodies = size, length, bodies
        self._client = pybullet.connect(pybullet.DIRECT)
        self.renderer = f"pybullet {pybullet.getAPIVersion()}, TinyRenderer"
        self._view = pybullet.computeViewMatrix([0, -3.6, 3.4], [0, 0, 0], [0, 0, 1])
        self._projection = pybullet.computeProjectionMatrixFOV(37, 1, 0.5, 20)

    def close(self) -> None:
        """See :class:`~domains.video.data.rendered.Scene`."""
        self._bullet.disconnect(self._client)

    def _body(self, shape: int, colour: int, place: np.ndarray, turn: float) -> int:
        bullet, client = self._bullet, self._client
        kinds = (bullet.GEOM_SPHERE, bullet.GEOM_BOX, bullet.GEOM_CYLINDER)
        if SHAPES[shape] == "box":
            hit, seen = {"halfExtents": [_SIZE] * 3}, {"halfExtents": [_SIZE] * 3}
        elif SHAPES[shape] == "ball":
            hit, seen = {"radius": _SIZE}, {"radius": _SIZE}
        else:
            hit, seen = {"radius": _SIZE, "height": 2 * _SIZE}, {"radius": _SIZE, "length": 2 * _SIZE}
        body = bullet.createMultiBody(
            1.0,
            bullet.createCollisionShape(kinds[shape], physicsClientId=client, **hit),
            bullet.createVisualShape(kinds[shape], rgbaColor=[*COLOURS[colour], 1.0], physicsClientId=client, **seen),
            [*place, _SIZE],
            bullet.getQuaternionFromEuler([0, 0, turn]),
            physicsClientId=client,
        )
        bullet.changeDynamics(
            body, -1, lateralFriction=0.09, rollingFriction=0.003, spinningFriction=0.003, restitution=0.95,
            physicsClientId=client,
        )  # fmt: skip
        return body

    def _start(self, rng: np.random.Generator) -> tuple[list[int], dict[str, int | list[int]]]:
        """Empty the plane and put bodies on it: one or two at rest near the middle, others on their way to it."""
        bullet, client = self._bullet, self._client
        bullet.resetSimulation(physicsClientId=client)
        bullet.setGravity(0, 0, -9.8, physicsClientId=client)
        bullet.setPhysicsEngineParameter(fixedTimeStep=_STEP, deterministicOverlappingPairs=1, physicsClientId=client)
        ground = bullet.createMultiBody(
            0.0,
            bullet.createCollisionShape(bullet.GEOM_BOX, halfExtents=[9, 9, 0.5], physicsClientId=client),
            bullet.createVisualShape(
                bullet.GEOM_BOX, halfExtents=[9, 9, 0.5], rgbaColor=[0.75, 0.73, 0.7, 1], physicsClientId=client
            ),
            [0, 0, -0.5],
            physicsClientId=client,
        )
        bullet.changeDynamics(ground, -1, lateralFriction=1.0, restitution=0.1, physicsClientId=client)
        count = int(rng.integers(self._bodies[0], self._bodies[1] + 1))
        resting = int(rng.integers(1, 3))
        shapes = rng.integers(0, len(SHAPES), count).tolist()
        colours = rng.permutation(len(COLOURS))[:count].tolist()
        places: list[np.ndarray] = []
        while len(places) < count:
            far = 0.7 if len(places) < resting else rng.uniform(1.3, 1.7)
            angle = rng.uniform(-math.pi, math.pi)
            place = far * np.array([math.cos(angle), 0.8 * math.sin(angle)])
            if all(math.dist(place, other) > 3 * _SIZE for other in places):
                places.append(place)
        bodies = []
        for number, place in enumerate(places):
            body = self._body(shapes[number], colours[number], place, rng.uniform(-math.pi, math.pi))
            if number >= resting:
                aim = rng.uniform(-0.4, 0.4, 2) - place
                speed = rng.uniform(1.4, 3.0) * aim / float(np.hypot(*aim))
                bullet.resetBaseVelocity(body, [*speed, 0], [0, 0, rng.uniform(-2, 2)], physicsClientId=client)
            bodies.append(body)
        spare = [-1] * (self._bodies[1] - count)
        return bodies, {"bodies": count, "shapes": shapes + spare, "colours": colours + spare}

    def _drawn(self) -> np.ndarray:
        bullet = self._bullet
        *_, rgba, _, _ = bullet.getCameraImage(
            self._size, self._size, self._view, self._projection, lightDirection=[2, -3, 6], shadow=0,
            renderer=bullet.ER_TINY_RENDERER, flags=bullet.ER_NO_SEGMENTATION_MASK, physicsClientId=self._client,
        )  # fmt: skip
        pixels = np.asarray(rgba, dtype=np.uint8).reshape(self._size, self._size, 4)
        return np.ascontiguousarray(pixels[..., :3].transpose(2, 0, 1))

    def render(self, seed: int) -> Rendered:
        """See :class:`~domains.video.data.rendered.Scene`."""
        bullet = self._bullet
        bodies, labels = self._start(np.random.Generator(np.random.PCG64(seed)))
        touched: dict[tuple[int, int], int] = {}
        frames, states, step = [self._drawn()], [0], 0
        for _ in range(self._length - 1):
            met = 0
            for _ in range(_STEPS):
                bullet.stepSimulation(physicsClientId=self._client)
                step += 1
                pairs = {
                    tuple(sorted(contact[1:3])) for contact in bullet.getContactPoints(physicsClientId=self._client)
                }
                for pair in pairs:
                    if pair[0] in bodies and pair[1] in bodies:
                        met += step - touched.get(pair, -_APART - 1) > _APART
                        touched[pair] = step
            frames.append(self._drawn())
            states.append(met)
        return Rendered(np.stack(frames), None, np.asarray(states, dtype=np.float32)[:, None], labels)


class Collisions(RenderedSource):
    """Set ``collide64``: balls, boxes and cylinders slide over a plane into each other; 12 frames a second.

    Attributes of clips: ``collisions`` (n,), how often two bodies began to touch after the clip's first frame;
    ``bodies`` (n,) their number; ``shapes``, ``colours`` (n, most) rows of :data:`SHAPES` and :data:`COLOURS`, -1 where
    there are fewer bodies.

    Args:
        bodies: fewest and most; at most 6.
        frames: of a clip.
        length: frames drawn of each.
        clips: drawn for the training split.
        options: ``validation``, ``test``, ``workers`` and others, see
            :class:`~domains.video.data.rendered.RenderedSource`.
    """

    source = "collision scene (pybullet)"
    fps = 12.0

    def __init__(
        self,
        *,
        bodies: list[int] | None = None,
        frames: int = 32,
        length: int = 32,
        clips: int = 1000,
        **options: Any,
    ) -> None:
        super().__init__(frames=frames, length=length, clips=clips, terms="no recording: simulated", **options)
        self.bodies = list(bodies or (3, 5))

    def check(self) -> None:
        """See :class:`~domains.video.data.rendered.RenderedSource`."""
        super().check()
        if len(self.bodies) != 2 or not 2 <= self.bodies[0] <= self.bodies[1] <= len(COLOURS):
            raise UserError(
                f"data.init_args.bodies is {self.bodies}: give the fewest and the most, from 2 to {len(COLOURS)}"
            )

    def appearance(self) -> Mapping[str, Any]:
        """See :class:`~domains.video.data.rendered.RenderedSource`."""
        return {"bodies": self.bodies}

    def open_scene(self) -> Scene:
        """See :class:`~domains.video.data.rendered.RenderedSource`."""
        return Plane(size=self.size, length=self.length, bodies=(self.bodies[0], self.bodies[1]))

    def describe(self, starts: np.ndarray) -> Mapping[str, np.ndarray]:
        """See the class."""
        states = self.mapped.states
        assert states is not None
        # What is written at a frame happened since the frame before it.
        steps = 1 + np.arange((self.frames - 1) * self.stride)
        return {"collisions": states[starts[:, None] + steps, 0].sum(axis=1).astype(np.int64)}
