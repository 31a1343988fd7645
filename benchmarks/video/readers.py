"""Readers of clips for ``benchmarks/video_loader.py``: FlowKit's, OpenCV, torchcodec and decord, behind one face."""

from __future__ import annotations

import importlib
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import torch

from domains.video.data.folder import VideoFolder
from domains.video.data.reader import Fit, decode

FRAMES, BATCH = 16, 8


def write_files(folder: Path, count: int = 4, frames: int = 400, side: int = 128) -> list[Path]:
    """H.264 with B-frames and a key frame each 12: blobs that drift over noise, no two frames alike."""
    import av

    paths = []
    y, x = np.mgrid[:side, :side]
    for number in range(count):
        rng = np.random.default_rng(number)
        still = np.kron(rng.integers(40, 120, (side // 8, side // 8, 3)), np.ones((8, 8, 1)))
        path = folder / f"{number}.mp4"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=25, options={"crf": "20", "g": "12", "bf": "2"})
            stream.width = stream.height = side
            stream.pix_fmt = "yuv420p"
            for t in range(frames):
                picture = still.copy()
                for k in range(4):
                    cy, cx = side / 2 + side / 3 * np.sin([0.05 * t + k, 0.07 * t * (1 + k / 3)])
                    picture[..., k % 3] += 120 * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 160)
                frame = av.VideoFrame.from_ndarray(picture.clip(0, 255).astype(np.uint8), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        paths.append(path)
    return paths


class Rival(ABC):
    """Reads frames of files; opens them at the first use, so that it can be sent to a worker before."""

    def __init__(self, paths: list[Path], size: int) -> None:
        self.paths, self.size = paths, size
        self._files: dict[int, Any] = {}

    @abstractmethod
    def open(self, path: Path) -> Any: ...

    @abstractmethod
    def frames(self, file: Any, numbers: list[int]) -> np.ndarray:
        """uint8 (n, 3, size, size)."""

    def file(self, number: int) -> Any:
        if number not in self._files:
            self._files[number] = self.open(self.paths[number])
        return self._files[number]

    def clips(self, wanted: list[tuple[int, int]]) -> np.ndarray:
        """Clips (file, first frame): uint8 (b, T, 3, size, size)."""
        return np.stack([self.frames(self.file(f), list(range(s, s + FRAMES))) for f, s in wanted])

    def whole(self, number: int, count: int) -> np.ndarray:
        """The file from its beginning."""
        return self.frames(self.open(self.paths[number]), list(range(count)))


class OpenCV(Rival):
    """``set(CAP_PROP_POS_FRAMES)`` and ``read``."""

    def open(self, path: Path) -> Any:
        cv2: Any = importlib.import_module("cv2")
        cv2.setNumThreads(1)
        return cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])

    def frames(self, file: Any, numbers: list[int]) -> np.ndarray:
        cv2: Any = importlib.import_module("cv2")
        if file.get(cv2.CAP_PROP_POS_FRAMES) != numbers[0]:
            file.set(cv2.CAP_PROP_POS_FRAMES, numbers[0])
        out = []
        for _ in numbers:
            _, picture = file.read()
            picture = picture[..., ::-1]
            if picture.shape[0] != self.size:
                picture = _square(cv2.resize(picture, _scaled(picture, self.size), interpolation=cv2.INTER_AREA))
            out.append(picture)
        return np.ascontiguousarray(np.stack(out).transpose(0, 3, 1, 2))


class TorchCodec(Rival):
    """``VideoDecoder.get_frames_at`` of all clips of a file at once, as its clip samplers do."""

    def open(self, path: Path) -> Any:
        return importlib.import_module("torchcodec.decoders").VideoDecoder(str(path), num_ffmpeg_threads=1)

    def frames(self, file: Any, numbers: list[int]) -> np.ndarray:
        shown = file.get_frames_at(numbers).data
        if shown.shape[2] != self.size:
            height, width = shown.shape[2:]
            wide, high = _scaled(np.empty((height, width)), self.size)
            shown = torch.nn.functional.interpolate(shown.float(), (high, wide), mode="area").round().to(torch.uint8)
            left = (wide - self.size) // 2
            shown = shown[..., left : left + self.size]
        return shown.numpy()

    def clips(self, wanted: list[tuple[int, int]]) -> np.ndarray:
        out = np.empty((len(wanted), FRAMES, 3, self.size, self.size), dtype=np.uint8)
        for number in {f for f, _ in wanted}:
            rows = [row for row, (f, _) in enumerate(wanted) if f == number]
            numbers = [n for row in rows for n in range(wanted[row][1], wanted[row][1] + FRAMES)]
            out[rows] = self.frames(self.file(number), numbers).reshape(len(rows), FRAMES, *out.shape[2:])
        return out


class Decord(Rival):
    """``VideoReader.get_batch``."""

    def open(self, path: Path) -> Any:
        decord: Any = importlib.import_module("decord")
        reader = decord.VideoReader(str(path), num_threads=1)
        height, width, _ = reader[0].shape
        if height == self.size:
            reader.seek(0)
            return reader
        wide, high = _scaled(np.empty((height, width)), self.size)
        return decord.VideoReader(str(path), num_threads=1, width=wide, height=high)

    def frames(self, file: Any, numbers: list[int]) -> np.ndarray:
        shown = file.get_batch(numbers).asnumpy()
        left = (shown.shape[2] - self.size) // 2
        return np.ascontiguousarray(shown[:, :, left : left + self.size].transpose(0, 3, 1, 2))


class Ours(Rival):
    """``VideoFolder``: from its memory map, or directly from the files."""

    direct = False

    def __init__(self, paths: list[Path], size: int) -> None:
        super().__init__(paths, size)
        options: dict[str, Any] = {"frames": FRAMES, "size": size, "validation": 0.0, "test": 0.0}
        place = paths[0].parent if len(paths) > 1 else paths[0]
        self.cache = paths[0].parent / "cache" if len(paths) > 1 else Path(tempfile.gettempdir()) / "flowkit-loader"
        data = VideoFolder(str(place), direct=self.direct, cache=str(self.cache), **options)
        self.samples = data.split("train")
        lengths = [row["frames"] for row in data.mapped.manifest["videos"]]
        self.firsts = np.cumsum([0, *(length - FRAMES + 1 for length in lengths)])

    def open(self, path: Path) -> Any:
        return path

    def frames(self, file: Any, numbers: list[int]) -> np.ndarray:
        raise NotImplementedError

    def clips(self, wanted: list[tuple[int, int]]) -> np.ndarray:
        return self.samples.batch([int(self.firsts[f]) + s for f, s in wanted])["frames"].numpy()

    def whole(self, number: int, count: int) -> np.ndarray:
        return np.stack(list(decode(self.paths[number], Fit(self.size))))


class OursDirect(Ours):
    direct = True


KINDS: dict[str, type[Rival]] = {
    "flowkit, memory map": Ours,
    "flowkit, files": OursDirect,
    "OpenCV": OpenCV,
    "torchcodec": TorchCodec,
    "decord": Decord,
}


def _scaled(picture: np.ndarray, size: int) -> tuple[int, int]:
    """Width and height with the shorter side at ``size``."""
    height, width = picture.shape[:2]
    return round(width * size / min(height, width)), round(height * size / min(height, width))


def _square(picture: np.ndarray) -> np.ndarray:
    left = (picture.shape[1] - picture.shape[0]) // 2
    return picture[:, left : left + picture.shape[0]]
