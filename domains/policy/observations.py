"""How a gymnasium observation becomes arrays: one rule for recorded data and for rollouts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from flowkit.errors import UserError, nearest

if TYPE_CHECKING:
    import gymnasium

#: A uint8 box with both sides at least this long is an image; a smaller one (a symbolic grid) belongs to the state.
SMALLEST_IMAGE = 32


@dataclass(frozen=True)
class ObservationLayout:
    """How an observation becomes parts: one float vector ``state`` and the images by key.

    The state joins all boxes that are no images (flattened), and discrete values as one-hot vectors, in the sorted
    order of their keys. Keys of nested dictionaries and tuples are joined by ``/`` (``robot/joints``, ``pair/0``).

    Args:
        state: key and number of entries of every part of the state, in order. The key of an observation that is one
            plain box is ``""``.
        images: key, height and width of every image. A plain image has the key ``image``. Images come as uint8, height
            x width x 3 (RGB); channels first and grey images are converted.
        discrete: key, numbers of values and first values of those parts of the state that are one-hot.
    """

    state: tuple[tuple[str, int], ...]
    images: tuple[tuple[str, int, int], ...] = ()
    discrete: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...] = ()

    @classmethod
    def of_space(cls, space: gymnasium.Space, *, keys: Sequence[str] = ()) -> ObservationLayout:
        """The layout of a gymnasium observation space.

        Args:
            space: boxes, discrete, multi-discrete and multi-binary spaces, and dictionaries and tuples of them.
            keys: keep only these keys, or groups of keys (``robot`` keeps ``robot/joints``); empty keeps all.

        Raises:
            UserError: a key is not there, or a kept part of the space is of another kind.
        """
        leaves = dict(_leaves_of_space(space))
        chosen = sorted(leaves)
        if keys:
            for key in keys:
                if not any(_covers(key, leaf) for leaf in leaves):
                    if list(leaves) == [""]:
                        raise UserError(
                            f"the observation has no key {key!r}: it is one {type(space).__name__}, without keys"
                        )
                    if not key:
                        raise UserError(
                            f"the observation has keys ({', '.join(sorted(leaves))}), one plain box is expected"
                        )
                    raise UserError(f"the observation has no key {key!r}: {nearest(key, leaves)}")
            chosen = [leaf for leaf in chosen if any(_covers(key, leaf) for key in keys)]
        state: list[tuple[str, int]] = []
        images: list[tuple[str, int, int]] = []
        discrete: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = []
        for key in chosen:
            leaf = leaves[key]
            sides = _image_sides(leaf)
            if sides is not None:
                images.append((key or "image", *sides))
                continue
            values = _discrete_values(leaf)
            if values is not None:
                discrete.append((key, *values))
                state.append((key, sum(values[0])))
            else:
                state.append((key, _vector_size(leaf, key)))
        return cls(tuple(state), tuple(images), tuple(discrete))

    @property
    def state_size(self) -> int:
        """Entries of the state vector."""
        return sum(size for _, size in self.state)

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of all parts: those of the state, then those of the images."""
        return (*(key for key, _ in self.state), *(key for key, _, _ in self.images))

    @cached_property
    def _values(self) -> Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]:
        return {key: (sizes, firsts) for key, sizes, firsts in self.discrete}

    def parts(self, observation: Any) -> dict[str, np.ndarray]:
        """One observation: ``state`` (S,) float32, and ``image/<key>`` (H, W, 3) uint8 for every image."""
        leaves = {key: np.asarray(leaf)[None] for key, leaf in _leaves_of_observation(observation)}
        return {name: value[0] for name, value in self._gather(leaves, 1).items()}

    def parts_batch(self, observations: Any) -> dict[str, np.ndarray]:
        """The same for a batch: every leaf has n rows first, as a vector environment or a recorded episode gives them.

        Returns:
            ``state`` (n, S) float32, ``image/<key>`` (n, H, W, 3) uint8. Where nothing is converted, images are views.

        Raises:
            UserError: a part is missing or of another size.
        """
        leaves = {key: np.asarray(leaf) for key, leaf in _leaves_of_observation(observations)}
        lengths = {len(leaf) for leaf in leaves.values() if leaf.ndim}
        if len(lengths) != 1:
            raise UserError(f"the parts of a batch of observations differ in their number of rows: {sorted(lengths)}")
        return self._gather(leaves, lengths.pop())

    def _gather(self, leaves: Mapping[str, np.ndarray], rows: int) -> dict[str, np.ndarray]:
        state = np.empty((rows, self.state_size), dtype=np.float32)
        first = 0
        for key, size in self.state:
            leaf = _find(leaves, key)
            if key in self._values:
                _one_hot(leaf, *self._values[key], key, out=state[:, first : first + size])
            else:
                if leaf.size != rows * size:
                    raise UserError(
                        f"observation {key or 'vector'!r} has {leaf.size // max(rows, 1)} entries, {size} are expected"
                    )
                state[:, first : first + size] = leaf.reshape(rows, size)
            first += size
        result = {"state": state}
        for key, height, width in self.images:
            result[f"image/{key}"] = _rgb(_find(leaves, key, plain="image"), height, width, key)
        return result

    def check(self, space: gymnasium.Space) -> None:
        """Raise ``UserError`` naming the first part in which ``space`` differs; further keys in it do no harm."""
        plain = self.keys in (("",), ("image",)) and len(dict(_leaves_of_space(space))) == 1
        other = ObservationLayout.of_space(space, keys=() if plain else self.keys)
        if other.keys != self.keys:
            raise UserError(
                f"the observation has the parts {', '.join(map(repr, other.keys))}, "
                f"{', '.join(map(repr, self.keys))} are expected"
            )
        for (key, size), (_, found) in zip(self.state, other.state, strict=True):
            if size != found:
                raise UserError(f"observation {key or 'vector'!r} has {found} entries, {size} are expected")
        for mine, theirs in zip(self.images, other.images, strict=True):
            if mine != theirs:
                raise UserError(
                    f"image {mine[0]!r} is {theirs[1]} x {theirs[2]} pixels, {mine[1]} x {mine[2]} are expected"
                )
        if self.discrete != other.discrete:
            raise UserError(f"the discrete parts are {other.discrete}, {self.discrete} are expected")

    def to_json(self) -> dict[str, Any]:
        """Lists and names only."""
        return {
            "state": [list(part) for part in self.state],
            "images": [list(part) for part in self.images],
            "discrete": [[key, list(sizes), list(firsts)] for key, sizes, firsts in self.discrete],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> ObservationLayout:
        """The inverse of :meth:`to_json`."""
        return cls(
            tuple((str(key), int(size)) for key, size in content["state"]),
            tuple((str(key), int(height), int(width)) for key, height, width in content.get("images", ())),
            tuple((str(key), tuple(sizes), tuple(firsts)) for key, sizes, firsts in content.get("discrete", ())),
        )


def _covers(key: str, leaf: str) -> bool:
    """Whether the key is the leaf's, or a group that holds it; a plain image is named ``image``."""
    return leaf == key or leaf.startswith(f"{key}/") or (leaf == "" and key == "image")


def _join(before: str, key: object) -> str:
    return f"{before}/{key}" if before else str(key)


def _leaves_of_space(space: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    from gymnasium import spaces

    if isinstance(space, spaces.Dict):
        for key, inner in space.spaces.items():
            yield from _leaves_of_space(inner, _join(before, key))
    elif isinstance(space, spaces.Tuple):
        for key, inner in enumerate(space.spaces):
            yield from _leaves_of_space(inner, _join(before, key))
    else:
        yield before, space


def _leaves_of_observation(observation: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(observation, Mapping):
        for key, inner in observation.items():
            yield from _leaves_of_observation(inner, _join(before, key))
    elif isinstance(observation, tuple):
        for key, inner in enumerate(observation):
            yield from _leaves_of_observation(inner, _join(before, key))
    else:
        yield before, observation


def _find(leaves: Mapping[str, np.ndarray], key: str, *, plain: str = "") -> np.ndarray:
    if key in leaves:
        return leaves[key]
    if key == plain and "" in leaves:
        return leaves[""]
    raise UserError(f"the observation has no part {key or 'vector'!r}: {nearest(key, leaves)}")


def _image_sides(space: Any) -> tuple[int, int] | None:
    """Height and width where the box holds images (grey, RGB, channels first or last), else None."""
    from gymnasium import spaces

    if not isinstance(space, spaces.Box) or space.dtype != np.uint8:
        return None
    shape = space.shape
    if len(shape) == 3 and shape[-1] in (1, 3):
        sides = shape[:2]
    elif len(shape) == 3 and shape[0] in (1, 3):
        sides = shape[1:]
    elif len(shape) == 2:
        sides = shape
    else:
        return None
    return (int(sides[0]), int(sides[1])) if min(sides) >= SMALLEST_IMAGE else None


def _discrete_values(space: Any) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Numbers of values and first values of a (multi-)discrete space, else None."""
    from gymnasium import spaces

    if isinstance(space, spaces.Discrete):
        return (int(space.n),), (int(space.start),)
    if isinstance(space, spaces.MultiDiscrete):
        return tuple(map(int, space.nvec.ravel())), tuple(map(int, np.ravel(space.start)))
    return None


def _vector_size(space: Any, key: str) -> int:
    from gymnasium import spaces

    if isinstance(space, spaces.Box | spaces.MultiBinary):
        return int(np.prod(space.shape, dtype=np.int64))
    raise UserError(
        f"observation {key or 'space'!r} is a {type(space).__name__} space; boxes, discrete and binary ones, and "
        "dictionaries and tuples of them can be read: name the keys to keep"
    )


def _one_hot(leaf: np.ndarray, sizes: Sequence[int], firsts: Sequence[int], key: str, *, out: np.ndarray) -> None:
    values = leaf.reshape(len(out), -1).astype(np.int64) - np.asarray(firsts, dtype=np.int64)
    if values.shape[1] != len(sizes) or ((values < 0) | (values >= np.asarray(sizes))).any():
        raise UserError(f"observation {key or 'value'!r} has values outside its {list(sizes)} choices from {firsts}")
    columns = values + np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
    out[:] = 0.0
    np.put_along_axis(out, columns, 1.0, axis=1)


def _rgb(leaf: np.ndarray, height: int, width: int, key: str) -> np.ndarray:
    """(n, H, W, 3) uint8 of images that may be grey or have their channels first."""
    shape = leaf.shape[1:]
    if leaf.dtype == np.uint8:
        if shape == (height, width, 3):
            return leaf
        if shape == (3, height, width):
            return np.ascontiguousarray(leaf.transpose(0, 2, 3, 1))
        if shape in ((height, width), (height, width, 1), (1, height, width)):
            return np.repeat(leaf.reshape(len(leaf), height, width, 1), 3, axis=3)
    raise UserError(
        f"image {key!r} is {leaf.dtype} of shape {tuple(shape)}, uint8 of {height} x {width} x 3 is expected"
    )
