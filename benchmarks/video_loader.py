"""Clips per second of FlowKit's loader beside OpenCV, torchcodec and decord, and whether they give the right frames.

    python benchmarks/video_loader.py [--out FILE.json] [--rounds N] [--seconds S] [--street vtest.avi]

Random clips of 16 frames in batches of 8 from four generated H.264 files of 128 x 128 pixels (B-frames, a key frame
each 12) and, where it is given, from vtest.avi at 64 x 64 (MS-MPEG4, four key frames; each rival scales in its own
way). Every reader keeps its files open, decodes with one thread, and is asked for the same clips; in each round they
take turns, and a ratio is the median over the rounds. With workers, each is the data set of torch's ``DataLoader``.

Right frames: each frame of 200 random clips is compared with the reader's own reading of the file from its beginning,
bit for bit, and with PyAV's: it must look more like the frame of its number than like the one before and after.

torchcodec needs the shared libraries of an FFmpeg on the loader's path. Those inside PyAV's wheel will do: copy its
folder ``av.libs`` and link ``libavcodec.so.62`` and the others to them.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import os
import platform
import statistics
import tempfile
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import torch

from domains.video.data.folder import VideoFolder
from domains.video.data.reader import Fit, decode
from flowkit import atomic

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


class Requests(torch.utils.data.Dataset):
    """Batches of clips, for torch's ``DataLoader``."""

    def __init__(self, rival: Rival, wanted: list[list[tuple[int, int]]]) -> None:
        self.rival, self.wanted = rival, wanted

    def __len__(self) -> int:
        return len(self.wanted)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.rival.clips(self.wanted[index])


def draws(lengths: list[int], seed: int, count: int) -> list[tuple[int, int]]:
    rng = np.random.default_rng(seed)
    files = rng.integers(0, len(lengths), count).tolist()
    return [(f, int(rng.integers(0, lengths[f] - FRAMES + 1))) for f in files]


def speed(rival: Rival, lengths: list[int], seed: int, seconds: float) -> float:
    """Clips per second in this process."""
    batches = (draws(lengths, 1000 * seed + k, BATCH) for k in itertools.count())
    done, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        done += len(rival.clips(next(batches)))
    return done / (time.perf_counter() - begin)


def worker_speed(
    kind: type[Rival], paths: list[Path], size: int, lengths: list[int], workers: int, rate: float
) -> float:
    """Clips per second of ``workers`` processes once all have begun; ``rate`` says how many to ask for."""
    count = max(4 * workers, round(rate * workers * 1.5 / BATCH)) + 2 * workers
    wanted = [draws(lengths, 77_000 + k, BATCH) for k in range(count)]
    loader = torch.utils.data.DataLoader(
        Requests(kind(paths, size), wanted), batch_size=None, num_workers=workers, multiprocessing_context="fork"
    )
    batches = iter(loader)
    for _ in range(2 * workers):
        next(batches)
    begin, done = time.perf_counter(), 0
    for batch in batches:
        done += len(batch)
    return done / (time.perf_counter() - begin)


def right_frames(rival: Rival, lengths: list[int], clips: int, truth: list[np.ndarray]) -> dict[str, float]:
    """Share of clips that equal the reader's own sequential reading, and of frames that are those of their number."""
    own = [rival.whole(number, length) for number, length in enumerate(lengths)]
    equal, right, frames = 0, 0, 0
    wanted = draws(lengths, 5, clips)
    for first in range(0, clips, BATCH):
        for (f, s), clip in zip(wanted[first : first + BATCH], rival.clips(wanted[first : first + BATCH]), strict=True):
            equal += np.array_equal(clip, own[f][s : s + FRAMES])
            for k in range(FRAMES):
                near = range(max(s + k - 1, 0), min(s + k + 2, lengths[f]))
                off = [np.abs(clip[k].astype(np.int16) - truth[f][n]).mean() for n in near]
                right += near[int(np.argmin(off))] == s + k
                frames += 1
    return {"clips_equal": equal / clips, "frames_right": right / frames}


def growth(rival: Rival, lengths: list[int], clips: int = 2000) -> float:
    """MiB by which this process's own memory grows from clip 400 to clip ``clips``."""
    import psutil

    def own() -> int:
        return psutil.Process().memory_full_info().uss

    before = 0
    for k in range(clips // BATCH):
        if k == 400 // BATCH:
            before = own()
        rival.clips(draws(lengths, k, BATCH))
    return (own() - before) / 2**20


def measure(paths: list[Path], size: int, options: argparse.Namespace) -> dict[str, Any]:
    truth = [np.stack(list(decode(path, Fit(size)))) for path in paths]
    lengths = [len(frames) for frames in truth]
    rivals: dict[str, Rival] = {}
    found: dict[str, Any] = {}
    for name, kind in KINDS.items():
        try:
            rivals[name] = kind(paths, size)
            rivals[name].clips(draws(lengths, 0, 1))
        except Exception as error:  # a rival that is not there, or does not load, is left out, and said
            rivals.pop(name, None)
            found[name] = {"left out": f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"}
            print(f"left out: {name} ({found[name]['left out']})", flush=True)
    rates: dict[str, list[float]] = {name: [] for name in rivals}
    for turn in range(options.rounds):
        for name, rival in rivals.items():
            rates[name].append(speed(rival, lengths, turn, options.seconds))
    base = rates["flowkit, files"]
    for name, rival in rivals.items():
        told: dict[str, Any] = {"clips_per_second": statistics.median(rates[name])}
        told["of_flowkit_files"] = statistics.median(rate / own for rate, own in zip(rates[name], base, strict=True))
        told.update(right_frames(rival, lengths, options.clips, truth))
        told["growth_mib"] = (
            growth(rival, lengths, options.growth) if options.growth and name.startswith("flowkit") else None
        )
        found[name] = told
        print(name, told, flush=True)
    for workers in options.workers:
        for name in rivals:
            rate = worker_speed(KINDS[name], paths, size, lengths, workers, min(found[name]["clips_per_second"], 200))
            found[name][f"clips_per_second_{workers}_workers"] = rate
            print(f"{name}, {workers} workers: {rate:.1f} clips/s", flush=True)
    return found


def table(title: str, found: dict[str, Any]) -> None:
    print(f"\n{title}\n\n| reader | clips/s | of flowkit's files | with workers | clips equal | frames right |")
    print("|---|---|---|---|---|---|")
    for name, told in found.items():
        if "left out" in told:
            print(f"| {name} | left out: {told['left out']} | | | | |")
            continue
        more = ", ".join(f"{told[key]:.1f}" for key in told if key.endswith("_workers"))
        print(
            f"| {name} | {told['clips_per_second']:.1f} | {told['of_flowkit_files']:.2f} | {more} | "
            f"{told['clips_equal']:.1%} | {told['frames_right']:.1%} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write JSON here")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each reader in each round")
    parser.add_argument("--clips", type=int, default=200, help="that are checked for right frames")
    parser.add_argument("--growth", type=int, default=2000, help="clips over which memory is watched; 0: not")
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--street", type=Path, help="vtest.avi")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, Any] = {
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
    }
    with tempfile.TemporaryDirectory() as folder:
        results["h264 128 x 128"] = measure(write_files(Path(folder)), 128, options)
        table("H.264, 128 x 128", results["h264 128 x 128"])
    if options.street:
        results["vtest.avi 64 x 64"] = measure([options.street], 64, options)
        table("vtest.avi at 64 x 64", results["vtest.avi 64 x 64"])
    if options.out:
        atomic.write_json(options.out, results)


if __name__ == "__main__":
    main()
