"""Inputs of the recipes' own shapes and lengths where their data cannot be had: times do not depend on the values.

LJSpeech (13,100 clips): 1.1 to 10.1 s, 6.57 s in the mean, most of them long; about 14.6 phonemes a second, blanks
between them. PushT: 90 episodes of 125 steps. All drawn from one seed.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from domains.speech.data.packed import FORMAT
from domains.speech.features import MelConfig
from domains.speech.phonemes import SYMBOLS

FRAME_RATE = 22050 / 256


def utterances(folder: Path, count: int, *, seed: int = 0) -> Path:
    """A prepared speech folder of ``count`` generated utterances as long as those of LJSpeech; one per 16 is held
    out."""
    rng = np.random.default_rng(seed)
    config = MelConfig()
    # Mean 6.57 s, deviation 2.2 s, skewed to the long side, as the real lengths are.
    seconds = 1.1 + 9.0 * rng.beta(2.0, 1.29, count)
    frames = np.round(seconds * FRAME_RATE).astype(np.int64)
    tokens = np.maximum(np.round(seconds * rng.normal(14.6, 1.2, count)), 4).astype(np.int64)
    folder.mkdir(parents=True, exist_ok=True)
    mels = np.lib.format.open_memmap(folder / "mel.npy", "w+", dtype=np.float16, shape=(int(frames.sum()), config.bins))
    for start in range(0, len(mels), 65536):
        rows = min(65536, len(mels) - start)
        mels[start : start + rows] = rng.standard_normal((rows, config.bins), dtype=np.float32) * 2.0 - 5.5
    mels.flush()
    np.save(folder / "tokens.npy", rng.integers(1, len(SYMBOLS), int(tokens.sum()), dtype=np.int32))
    split = (np.arange(count) % 16 == 15).astype(int)
    rows = {
        "key": [f"{i:05d}" for i in range(count)], "text": ["generated"] * count, "phonemes": [""] * count,
        "speaker": [0] * count, "language": [0] * count, "split": split.tolist(),
        "seconds": [round(float(s), 4) for s in seconds], "frames": frames.tolist(), "tokens": tokens.tolist(),
    }  # fmt: skip
    manifest = {
        "format": FORMAT, "name": "Generated", "settings": {}, "mel": asdict(config), "mel_mean": -5.5, "mel_std": 2.0,
        "symbols": list(SYMBOLS), "phonemes": "espeak", "speakers": ["generated"], "languages": ["en"], "dropped": {},
        "licence": "none: generated numbers", "attribution": [], "rows": rows,
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def pushes(file: Path, *, episodes: int = 92, steps: int = 125, seed: int = 0) -> Path:
    """An ``.npz`` with the arrays of the PushT recordings: nine points of the T and the disc, places to go to."""
    rng = np.random.default_rng(seed)
    rows = episodes * steps
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        file,
        keypoint=rng.uniform(0, 512, (rows, 9, 2)).astype(np.float32),
        state=rng.uniform(0, 512, (rows, 5)).astype(np.float32),
        action=rng.uniform(0, 512, (rows, 2)).astype(np.float32),
        episode_ends=np.arange(1, episodes + 1) * steps,
    )
    return file
