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
import itertools
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

if not __package__:  # started as a script: the root of the repository holds the modules
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from benchmarks.video.readers import BATCH, FRAMES, KINDS, Rival, write_files
from domains.video.data.reader import Fit, decode
from flowkit import atomic


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


def speed(rival: Rival, lengths: list[int], seed: int, seconds: float) -> tuple[float, float]:
    """Clips per second in this process, and per second of its processor time, which a busy machine disturbs less."""
    batches = (draws(lengths, 1000 * seed + k, BATCH) for k in itertools.count())
    done, begin, busy = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - begin < seconds:
        done += len(rival.clips(next(batches)))
    return done / (time.perf_counter() - begin), done / (time.process_time() - busy)


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
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in rivals}
    for turn in range(options.rounds):
        for name, rival in rivals.items():
            rates[name].append(speed(rival, lengths, turn, options.seconds))
    base = rates["flowkit, files"]
    for name, rival in rivals.items():
        told: dict[str, Any] = {}
        for place, key in enumerate(("clips_per_second", "clips_per_cpu_second")):
            told[key] = statistics.median(rate[place] for rate in rates[name])
            ratios = [rate[place] / own[place] for rate, own in zip(rates[name], base, strict=True)]
            told[f"{key}_of_flowkit_files"] = statistics.median(ratios)
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
    print(f"\n{title}\n")
    print("| reader | clips/s | a CPU second | of flowkit's files | with workers | clips equal | frames right |")
    print("|---|---|---|---|---|---|---|")
    for name, told in found.items():
        if "left out" in told:
            print(f"| {name} | left out: {told['left out']} | | | | | |")
            continue
        more = ", ".join(f"{told[key]:.1f}" for key in told if key.endswith("_workers"))
        print(
            f"| {name} | {told['clips_per_second']:.1f} | {told['clips_per_cpu_second']:.1f} | "
            f"{told['clips_per_cpu_second_of_flowkit_files']:.2f} | {more} | "
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
        # A clip of it takes a good part of a second: key frames are 250 frames apart.
        options.workers, options.growth, options.clips = [], 0, min(options.clips, 40)
        results["vtest.avi 64 x 64"] = measure([options.street], 64, options)
        table("vtest.avi at 64 x 64", results["vtest.avi 64 x 64"])
    if options.out:
        atomic.write_json(options.out, results)


if __name__ == "__main__":
    main()
