"""Random draws of the library: from a ``torch.Generator`` or keyed by (seed, step, row).

Sampling uses an ordinary ``torch.Generator``. Training uses :class:`Rows`: each draw is a hash of (seed, step, position
of the sample in the global batch, position inside the sample, number of the draw), so a sample sees the same noise
however the batch is padded, split over processes or accumulated, and on any device. The hash is SplitMix64's finaliser
(Steele, Lea and Flood 2014) applied twice; normals come from Box and Muller's transform.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

# Odd 64-bit constants as signed integers: torch has no arithmetic on unsigned ones.
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX2 = 0x94D049BB133111EB - (1 << 64)
_AXES = (0xD1342543DE82EF95 - (1 << 64), 0xAF251AF3B0F025B5 - (1 << 64), 0xC2B2AE3D27D4EB4F - (1 << 64))
_MASK64 = (1 << 64) - 1


def _shift(z: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _mix(z: Tensor) -> Tensor:
    z = (z ^ _shift(z, 30)) * _MIX1
    z = (z ^ _shift(z, 27)) * _MIX2
    return z ^ _shift(z, 31)


def mix_seed(*parts: int) -> int:
    """Fold integers into one non-negative 63-bit seed (the same finaliser in plain integers)."""
    state = 0
    for part in parts:
        state = (state + (part & _MASK64) + 0x9E3779B97F4A7C15) & _MASK64
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK64
        state ^= state >> 31
    return state >> 1


def _mix_tensor(seed: Tensor, *parts: int) -> Tensor:
    """:func:`mix_seed` of a 0-d int64 tensor and integers, on its device."""
    state = torch.zeros_like(seed)
    for part in (seed, *parts):
        state = _mix(state + part + _GOLDEN)
    return _shift(state, 1)


@dataclass
class Rows:
    """Keyed draws for the rows ``first .. first + n`` of a global batch of ``total`` rows.

    ``seed`` already holds (seed, step), see :func:`mix_seed`; as a 0-d int64 tensor it may change between the replays
    of a captured program, with the same draws as the integer. ``draws`` counts the calls, so two draws of one step
    differ.
    """

    seed: int | Tensor
    first: int = 0
    total: int = 0
    draws: int = field(default=0)

    def bits(self, shape: tuple[int, ...], device: torch.device) -> Tensor:
        """Random int64 of ``shape`` (rows first)."""
        key = _mix_tensor(self.seed, self.draws) if isinstance(self.seed, Tensor) else mix_seed(self.seed, self.draws)
        self.draws += 1
        row = torch.arange(self.first, self.first + shape[0], device=device) * _GOLDEN + key
        counter = _mix(row)
        if len(shape) > 1:
            counter = counter.reshape(-1, *[1] * (len(shape) - 1))
            for axis, size in enumerate(shape[1:]):
                position = torch.arange(size, device=device) * _AXES[axis % len(_AXES)]
                if axis >= len(_AXES):
                    position = position * _GOLDEN
                counter = counter + position.reshape(-1, *[1] * (len(shape) - 2 - axis))
        return _mix(counter)


RandomSource = torch.Generator | Rows


def _unit(bits: Tensor, dtype: torch.dtype) -> Tensor:
    """23 bits to (0, 1), both ends excluded: with 24 the largest would round to 1 in float32."""
    return (bits & 0x7FFFFF).to(dtype).add(0.5).mul(2.0**-23)


def _drawing_dtype(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype in (torch.float32, torch.float64) else torch.float32


def uniform(
    shape: tuple[int, ...],
    generator: RandomSource | None,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Uniform on (0, 1) of ``shape``, batch first."""
    if isinstance(generator, Rows):
        return _unit(_shift(generator.bits(shape, torch.device(device)), 40), _drawing_dtype(dtype)).to(dtype)
    return torch.rand(shape, generator=generator, device=device, dtype=dtype)


def normal(
    shape: tuple[int, ...],
    generator: RandomSource | None,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Standard normal of ``shape``, batch first."""
    if isinstance(generator, Rows):
        bits, work = generator.bits(shape, torch.device(device)), _drawing_dtype(dtype)
        radius = _unit(_shift(bits, 40), work).log_().mul_(-2.0).sqrt_()
        return radius.mul_(_unit(bits, work).mul_(2.0 * math.pi).cos_()).to(dtype)
    return torch.randn(shape, generator=generator, device=device, dtype=dtype)


def normal_like(x: Tensor, generator: RandomSource | None) -> Tensor:
    """Standard normal with the shape, device and dtype of ``x``."""
    if isinstance(generator, Rows):
        return normal(tuple(x.shape), generator, device=x.device, dtype=x.dtype)
    return torch.empty_like(x, memory_format=torch.contiguous_format).normal_(generator=generator)


def rademacher_like(x: Tensor, generator: RandomSource | None) -> Tensor:
    """Signs +1 and -1 with equal chance, with the shape, device and dtype of ``x``."""
    return (uniform(tuple(x.shape), generator, device=x.device) < 0.5).to(x.dtype) * 2 - 1


def stratified(n: int, generator: RandomSource | None, *, device: torch.device | str = "cpu") -> Tensor:
    """t_i = (u + i / B) mod 1 with one u, over the global batch of B rows when ``generator`` is :class:`Rows`."""
    first, total = 0, n
    if isinstance(generator, Rows):
        first, total = generator.first, generator.total or n
        # The common offset must be the same on every process: it is drawn for row 0 of the global batch.
        shared = Rows(generator.seed, 0, total, generator.draws)
        offset = uniform((1,), shared, device=device)
        generator.draws += 1
    else:
        offset = uniform((1,), generator, device=device)
    return (offset + (torch.arange(n, device=device) + first) / total) % 1.0
