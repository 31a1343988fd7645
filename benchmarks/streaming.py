"""Samples per second and memory of the training loader: shards against the same samples in memory and in other folders.

    python benchmarks/streaming.py --out streaming.json [--seconds 5] [--folder /tmp/streaming] [--sizes 1500 6000]

Sets are made by rule: speech as long as LJSpeech's utterances (mels of 80 bins, float16), video of 64 x 64 pixels from
which clips of 16 frames are cut. Each is read by the trainer's own loader (batch 32, one thread, nothing trained):

- ``memory``: prepared arrays held by the process;
- ``mapped``: the prepared folder, memory-mapped (what training without shards does);
- ``files``: a file for each utterance or video, opened as it is needed;
- ``shards``: tar files with an index, ``window`` of them mixed; ``shards, fetched``: the same from an address (a pipe)
  through an empty cache that holds a part of them (where webdataset is installed).

``--train STEPS`` trains the full Matcha recipe on the mapped folder and on the shards, twice each, in turn and back.

A case is a process of its own, pinned to one thread, after the set's files were dropped from the page cache (``cold``)
or read once (``warm``). Memory is the most that the process held of its own (RssAnon, which leaves out mapped files)
above what it held before the set was opened. Each set is read at two sizes with equal shards: memory that grows with
the set shows as a difference.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flowkit import atomic

CASES = ("memory", "mapped", "files", "shards", "shards, fetched")
BATCH, SHARD, WINDOW = 32, 8 << 20, 6


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the sets, run the cases, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/flowkit-streaming"), help="for the sets")
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[1500, 6000], metavar="N", help="utterances, clips' starts"
    )
    parser.add_argument("--domains", nargs="*", choices=("speech", "video"), default=["speech", "video"])
    parser.add_argument("--seconds", type=float, default=5.0, help="of reading, each case")
    parser.add_argument("--train", type=int, default=0, metavar="STEPS", help="train the Matcha recipe on both as well")
    parser.add_argument("--batch", type=int, default=BATCH, help="of that training")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="of that training")
    parser.add_argument("--case", nargs=4, help=argparse.SUPPRESS)  # domain, size, case, cold or warm
    args = parser.parse_args(arguments)
    if args.case:
        domain, size, case, state = args.case
        print(json.dumps(measure(args.folder, domain, int(size), case, cold=state == "cold", seconds=args.seconds)))
        return 0
    rows: list[dict[str, Any]] = []
    for case in ("mapped", "shards", "shards", "mapped") if args.train else ():
        rows.append(train(args, case))
        atomic.write_json(args.out, {"machine": machine(), "rows": rows})
    for domain in args.domains:
        for size in args.sizes:
            make(args.folder, domain, size)
            cases = CASES if find_spec("webdataset") else CASES[:-1]
            for state in ("cold", "warm"):
                for case in cases:
                    rows.append(run(args, domain, size, case, state))
                    atomic.write_json(args.out, {"machine": machine(), "rows": rows})
    print(table(rows))
    return 0


def run(args: argparse.Namespace, domain: str, size: int, case: str, state: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--out", "-", "--folder", str(args.folder), "--seconds", str(args.seconds)]
    root = str(Path(__file__).resolve().parents[1])
    paths = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH", ""), root]))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "FLOWKIT_PIPES": "1", "PYTHONPATH": paths}
    done = subprocess.run(
        [*command, "--case", domain, str(size), case, state],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{domain} {size} {case}: {done.stderr.strip()[-2000:]}")
    row = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps(row), flush=True)
    return row


def train(args: argparse.Namespace, case: str) -> dict[str, Any]:
    """The full Matcha recipe on a source: samples per second of the second half of its steps."""
    size = max(args.sizes)
    make(args.folder, "speech", size)
    home = args.folder / f"speech-{size}"
    out = args.folder / "run"
    shutil.rmtree(out, ignore_errors=True)
    data = {
        "mapped": ["--data.class_path", "Prepared", "--data.path", str(home / "prepared")],
        "shards": ["--data.class_path", "SpeechShards", "--data.places", f"[{home / 'shards'}]"],
    }[case]
    trainer = {
        "steps": args.train, "batch": args.batch, "log_every": max(args.train // 10, 1), "evaluate_every": 0,
        "sample_every": 0, "checkpoint_every": 0, "tensorboard": "false", "progress": "false", "best": "train/loss",
    }  # fmt: skip
    if args.device != "cpu":
        trainer |= {"precision": "bf16", "graphs": "true"}
    else:
        trainer |= {"precision": "fp32"}
    overrides = [word for name, value in trainer.items() for word in (f"--trainer.{name}", str(value))]
    command = [sys.executable, "-m", "flowkit.cli.main", "train", "speech/matcha-ljspeech", "--out", str(out)]
    done = subprocess.run(
        [*command, "--device", args.device, *overrides, *data], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"training on {case}: {done.stderr.strip()[-2000:]}")
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    told = [line for line in lines if "time/samples_per_s" in line]
    late = told[len(told) // 2 :]
    row = {
        "domain": "training", "case": case, "steps": args.train, "batch": args.batch, "device": args.device,
        "samples_per_s": round(float(np.median([line["time/samples_per_s"] for line in late])), 1),
        "data_ms": round(1000 * float(np.median([line["time/data_s"] for line in late])), 3),
    }  # fmt: skip
    print(json.dumps(row), flush=True)
    return row


def machine() -> str:
    return f"{os.cpu_count()} cores, torch {torch.__version__}"


# --- sets -------------------------------------------------------------------------------------------------------------


def make(folder: Path, domain: str, size: int) -> None:
    """Make a set in all its forms; what is there stays."""
    home = folder / f"{domain}-{size}"
    if (home / "done").is_file():
        return
    shutil.rmtree(home, ignore_errors=True)
    (home / "prepared").mkdir(parents=True)
    (_make_speech if domain == "speech" else _make_video)(home, size)
    from flowkit.shards.writer import write_shards

    write_shards(_source(home, domain, "mapped").records(), [home / "shards"], size=SHARD, shown=False)
    (home / "done").touch()


def _make_speech(home: Path, size: int) -> None:
    from domains.speech.data.packed import FORMAT
    from domains.speech.features import MelConfig
    from domains.speech.phonemes import SYMBOLS

    draw = np.random.default_rng(0)
    frames = np.clip(draw.normal(565.0, 190.0, size), 100, 860).astype(np.int64)
    tokens = frames // 8
    mel = np.lib.format.open_memmap(
        home / "prepared" / "mel.npy", mode="w+", dtype=np.float16, shape=(int(frames.sum()), 80)
    )
    (home / "files").mkdir()
    first = 0
    for number, count in enumerate(frames.tolist()):
        mel[first : first + count] = draw.standard_normal((count, 80), dtype=np.float32) * 2 - 5
        np.save(home / "files" / f"{number:06d}.npy", mel[first : first + count])
        first += count
    mel.flush()
    np.save(home / "prepared" / "tokens.npy", draw.integers(1, 60, int(tokens.sum())).astype(np.int32))
    rows = {
        "key": [f"{number:06d}" for number in range(size)], "text": ["a sentence of some words"] * size,
        "phonemes": ["ə sˈɛntəns"] * size, "speaker": [0] * size, "language": [0] * size,
        "split": [0 if number % 50 else 1 for number in range(size)], "seconds": (frames / 86.13).round(3).tolist(),
        "frames": frames.tolist(), "tokens": tokens.tolist(),
    }  # fmt: skip
    manifest = {
        "format": FORMAT, "name": "made", "settings": {}, "mel": asdict(MelConfig()), "mel_mean": -5.0, "mel_std": 2.0,
        "symbols": list(SYMBOLS), "phonemes": "characters", "speakers": ["x"], "languages": ["en"], "dropped": {},
        "licence": "made", "attribution": [], "rows": rows,
    }  # fmt: skip
    (home / "prepared" / "manifest.json").write_text(json.dumps(manifest))


def _make_video(home: Path, size: int) -> None:
    draw = np.random.default_rng(0)
    videos, length = max(size // 20, 20), 115
    frames = np.lib.format.open_memmap(
        home / "prepared" / "videos.npy", mode="w+", dtype=np.uint8, shape=(videos, length, 64, 64, 3)
    )
    for number in range(videos):
        frames[number] = draw.integers(0, 256, frames.shape[1:], dtype=np.uint8)
    frames.flush()
    (home / "files").mkdir()
    for number in range(videos):
        np.save(home / "files" / f"{number:06d}.npy", np.ascontiguousarray(frames[number].transpose(0, 3, 1, 2)))


def _source(home: Path, domain: str, case: str) -> Any:
    """The set as ``case`` reads it."""
    if domain == "speech":
        from domains.speech.data.prepared import Prepared
        from domains.speech.data.shards import SpeechShards

        plain, shards = (lambda: Prepared(str(home / "prepared"))), SpeechShards
    else:
        from domains.video.data.arrays import ArrayClips
        from domains.video.data.shards import VideoShards

        def plain() -> Any:
            return ArrayClips(
                str(home / "prepared" / "videos.npy"), frames=16, size=64, validation=0.02, test=0.02, cache=str(home)
            )

        shards = VideoShards
    if case == "shards":
        return shards([str(home / "shards")], window=WINDOW, cache=str(home / "cache"))
    if case == "shards, fetched":
        shutil.rmtree(home / "cache", ignore_errors=True)
        place = f"pipe:cat {home}/shards/{{}}"
        return shards([place], window=WINDOW, cache=str(home / "cache"), cache_gib=(WINDOW + 8) * SHARD / 2**30)
    source = plain()
    if case == "memory":
        source.prepare()
        if domain == "speech":
            source.packed.mel, source.packed.tokens = np.array(source.packed.mel), np.array(source.packed.tokens)
        else:
            source.mapped.frames = np.array(source.mapped.frames)
    if case == "files":
        source.prepare()
        if domain == "speech":
            source.packed.mel = _SpeechFiles(home / "files", source.packed.frame_starts, source.packed.mel.shape)
        else:
            source.mapped.frames = _VideoFiles(home / "files", 115, source.mapped.frames.shape)
    return source


class _SpeechFiles:
    """Stands for the prepared mels: each utterance is read from a file of its own."""

    def __init__(self, folder: Path, starts: np.ndarray, shape: tuple[int, ...]) -> None:
        self.folder, self.starts, self.shape = folder, starts, shape

    def __getitem__(self, rows: slice) -> np.ndarray:
        number = int(np.searchsorted(self.starts, rows.start, side="right")) - 1
        return np.load(self.folder / f"{number:06d}.npy")


class _VideoFiles:
    """Stands for the prepared frames: of a video's file, opened for each clip, the frames are read."""

    def __init__(self, folder: Path, length: int, shape: tuple[int, ...]) -> None:
        self.folder, self.length, self.shape = folder, length, shape

    def __getitem__(self, index: Any) -> np.ndarray:
        rows, rest = index[0], index[1:]
        number = rows.start // self.length
        video = np.load(self.folder / f"{number:06d}.npy", mmap_mode="r")
        first = number * self.length
        return np.array(video[(slice(rows.start - first, rows.stop - first, rows.step), *rest)])


# --- a case -----------------------------------------------------------------------------------------------------------


def own_memory() -> float:
    """MiB that the process holds of its own."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    return 0.0


class _Peak:
    """The most that :func:`own_memory` showed, asked 50 times a second."""

    def __init__(self) -> None:
        self.most, self._stop = own_memory(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            self.most = max(self.most, own_memory())

    def stop(self) -> float:
        self._stop.set()
        self._thread.join()
        return self.most


def _drop_pages(home: Path) -> None:
    for path in home.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _touch_pages(home: Path) -> None:
    for path in home.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                while file.read(1 << 20):
                    pass


def measure(folder: Path, domain: str, size: int, case: str, *, cold: bool, seconds: float) -> dict[str, Any]:
    from flowkit.train.loader import Loader

    torch.set_num_threads(1)
    home = folder / f"{domain}-{size}"
    # What reading imports, and its first buffers, belong to no set.
    _source(home, domain, "mapped").split("train").batch([0])
    _source(home, domain, "shards").split("train").batch([0])
    (_drop_pages if cold else _touch_pages)(home)
    before = own_memory()
    began = time.perf_counter()
    source = _source(home, domain, case)
    samples = source.split("train")
    loader = Loader(samples, batch=BATCH, seed=0, bucket=32 if domain == "speech" else 0, threads=1)
    opened = time.perf_counter() - began
    peak = _Peak()
    read, began, waits = 0, time.perf_counter(), [0.0]
    last = began
    for _ in islice(loader, 1_000_000):
        read += BATCH
        now = time.perf_counter()
        waits.append(now - last)
        last = now
        if now - began > seconds:
            break
    taken = time.perf_counter() - began
    most = peak.stop() - before
    shards = len(list((home / "shards").glob("*.tar")))
    return {
        "domain": domain, "samples": len(samples), "shards": shards, "case": case, "pages": "cold" if cold else "warm",
        "samples_per_s": round(read / taken, 1), "longest_wait_s": round(max(waits), 3), "open_s": round(opened, 3),
        "own_memory_mib": round(most, 1), "read": read,
        "set_mib": round(sum(path.stat().st_size for path in (home / "shards").rglob("*")) / 2**20, 1),
    }  # fmt: skip


def table(rows: Sequence[dict[str, Any]]) -> str:
    """All cases as a Markdown table."""
    text = ["| set | MiB | shards | read from | samples/s cold | warm | longest wait s, cold | own memory MiB |"]
    text.append("|---|---|---|---|---|---|---|---|")
    for warm in (row for row in rows if row.get("pages") == "warm"):
        same = ("domain", "samples", "case")
        cold = next(r for r in rows if r.get("pages") == "cold" and all(r[key] == warm[key] for key in same))
        text.append(
            f"| {warm['domain']}, {warm['samples']:,} samples | {warm['set_mib']:,.0f} | {warm['shards']} "
            f"| {warm['case']} "
            f"| {cold['samples_per_s']:,.0f} | {warm['samples_per_s']:,.0f} | {cold['longest_wait_s']:.2f} "
            f"| {max(cold['own_memory_mib'], warm['own_memory_mib']):.0f} |"
        )
    return "\n".join(text)


if __name__ == "__main__":
    sys.exit(main())
