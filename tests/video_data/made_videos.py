"""Writes small videos of many kinds, from the command of an encoder alone."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


@dataclass
class Kind:
    """How a test video is encoded."""

    name: str
    codec: str
    pixels: str
    size: tuple[int, int] = (48, 64)
    options: dict[str, str] = field(default_factory=dict)
    stamps: Sequence[int] | None = None


def pictures(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Noise-like blocks that move, no two frames equal: uint8 (count, height, width, 3)."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (height // 8 + 2, width // 8 + 2, 3), dtype=np.uint8)
    still = np.kron(coarse, np.ones((8, 8, 1), dtype=np.uint8))
    frames = np.stack([np.roll(still, (i, 2 * i), (0, 1))[:height, :width] for i in range(count)])
    for i, frame in enumerate(frames):
        frame[:4, :4] = (7 * i) % 256
    return frames


def write_video(path: Path, kind: Kind, count: int = 60, *, seed: int = 0) -> Path:
    """Encode; variable frame rates by ``kind.stamps`` (one a frame, hundredths of a second)."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(kind.codec, rate=100 if kind.stamps else 10, options=kind.options)
        stream.height, stream.width = kind.size
        stream.pix_fmt = kind.pixels
        for i, picture in enumerate(pictures(count, *kind.size, seed)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = kind.stamps[i] if kind.stamps else i
            frame.time_base = Fraction(1, 100 if kind.stamps else 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


_RNG = np.random.default_rng(5)
H264 = Kind("h264.mp4", "libx264", "yuv420p", options={"g": "12", "bf": "3", "crf": "20", "x264-params": "scenecut=0"})
KINDS = (
    H264,
    Kind("open.mkv", "libx264", "yuv420p", options={"g": "10", "x264-params": "open-gop=1:bframes=3:scenecut=0"}),
    Kind("long.mp4", "libx264", "yuv420p", options={"g": "250", "bf": "2"}),
    Kind("intra.mp4", "libx264rgb", "rgb24", options={"g": "1", "qp": "0"}),
    Kind("mpeg4.avi", "mpeg4", "yuv420p", options={"g": "15"}),
    Kind("mpeg4b.mp4", "mpeg4", "yuv420p", options={"g": "15", "bf": "2"}),
    Kind("mpeg2.ts", "mpeg2video", "yuv420p", options={"g": "9", "bf": "2"}),
    Kind("lossless.mkv", "ffv1", "bgr0"),
    Kind("grey.mkv", "ffv1", "gray", size=(41, 53)),
    Kind("ten.mkv", "ffv1", "yuv420p10le"),
    Kind("odd.mkv", "libx264", "yuv444p", size=(37, 51), options={"g": "7"}),
    Kind("vp9.webm", "libvpx-vp9", "yuv420p", options={"g": "20", "lag-in-frames": "10", "auto-alt-ref": "1"}),
    Kind(
        "variable.mkv",
        "libx264",
        "yuv420p",
        options={"g": "12", "bf": "3"},
        stamps=np.cumsum(_RNG.integers(1, 40, 200)).tolist(),
    ),
    Kind(
        "variable.mp4",
        "libx264",
        "yuv420p",
        options={"g": "8", "bf": "2"},
        stamps=(37 + np.cumsum(_RNG.integers(1, 40, 200))).tolist(),
    ),
    Kind("mpeg4b.avi", "mpeg4", "yuv420p", options={"g": "15", "bf": "2"}),
)


def write_swapped(path: Path, count: int = 20) -> Path:
    """Frames whose stamps step back: 0, 2, 1, 3, 5, 4, ..., in the order in which they are decoded."""
    order = [i - i % 3 + (0, 2, 1)[i % 3] for i in range(count - count % 3)]
    plain = write_video(
        path.with_name(f"plain-{path.name}"), Kind("", "mpeg4", "yuv420p", options={"g": "1"}), len(order)
    )
    with av.open(str(plain)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for i, packet in enumerate(packet for packet in source.demux(video=0) if packet.size):
            unit = int(1 / (10 * packet.time_base))
            packet.pts, packet.dts, packet.stream = order[i] * unit, (i - 2) * unit, stream
            target.mux(packet)
    plain.unlink()
    return path


def turn(path: Path, target: Path, quarters: int) -> Path:
    """A copy of an mp4 that is to be shown turned against the clock, as telephones write it: other numbers in the
    matrix of its track's header."""
    cosine, sine = ((1, 0), (0, 1), (-1, 0), (0, -1))[quarters]

    def matrix(a: int, b: int) -> bytes:
        return struct.pack(">9i", a << 16, -b << 16, 0, b << 16, a << 16, 0, 0, 0, 1 << 30)

    content = path.read_bytes()
    place = content.index(matrix(1, 0), content.index(b"tkhd"))
    target.write_bytes(content[:place] + matrix(cosine, sine) + content[place + 36 :])
    return target


def write_sound(path: Path) -> Path:
    """A file with sound and no picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16_000, layout="mono")
        for i in range(8):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16_000, 1024 * i
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def damage(path: Path, target: Path, *, first: float = 0.4, last: float = 0.6, seed: int = 0) -> Path:
    """A copy in which some bytes of the given part are others."""
    content = np.frombuffer(path.read_bytes(), dtype=np.uint8).copy()
    begin, end = int(first * len(content)), int(last * len(content))
    places = np.random.default_rng(seed).integers(begin, end, 60)
    content[places] ^= 0x5A
    target.write_bytes(content.tobytes())
    return target


def cut(path: Path, target: Path, share: float = 0.5) -> Path:
    """A copy of the first part of a file."""
    content = path.read_bytes()
    target.write_bytes(content[: int(share * len(content))])
    return target
