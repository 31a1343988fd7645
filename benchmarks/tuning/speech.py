"""The English voice, fitted to recordings in another language."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.tuning.case import Case

_BATCH = 16
#: Coefficients of the cepstrum that are compared, the first (loudness) left out.
_CEPSTRA = 13


class SpeechCase(Case):
    """Judged on sentences of the test split, made from their text alone and with the durations of the recording.

    Args:
        folder: of prepared speech (``flowkit data`` tells where it lies).
    """

    def __init__(self, *, folder: Path, base: str = "speech/prompts-en", device: str, limit: int) -> None:
        self.base, self.device, self.limit = base, device, limit
        self.folder = folder.resolve()

    def data(self, *, light: bool = False) -> Mapping[str, Any]:
        return {"class_path": "domains.speech.data.prepared.Prepared", "init_args": {"path": str(self.folder)}}

    @cached_property
    def _source(self) -> Any:
        from domains.speech.data.prepared import Prepared

        return Prepared(str(self.folder))

    @torch.no_grad()
    def judge(self, model: str, keep: Path | None) -> dict[str, float]:
        from domains.speech.judge import judge
        from flowkit.artifacts import from_pretrained
        from flowkit.random import Rows, mix_seed

        loaded = from_pretrained(model, device=self.device)
        task: Any = loaded.task.eval()
        samples = self._source.split("test")
        found = judge(task, samples, sampler=loaded.sampler, seed=self.seed, limit=self.limit)
        distances, errors, kept = [], [], {}
        for first, raw in self._batches(samples):
            made = task.synthesise(
                raw["tokens"], raw["token_lengths"], sampler=loaded.sampler,
                generator=Rows(mix_seed(self.seed, 0x7E57), first=first, total=self.limit),
            )  # fmt: skip
            for row, key in enumerate(raw["key"]):
                said, real = int(made.lengths[row]), int(raw["mel_lengths"][row])
                mel = made.mel[row, :, :said].float().cpu()
                distances.append(cepstral_distance(mel, raw["mel"][row, :, :real].float().cpu()))
                errors.append(abs(said - real) / real)
                kept[str(key)] = mel.numpy().astype(np.float16)
        if keep is not None:
            keep.parent.mkdir(parents=True, exist_ok=True)
            np.savez_compressed(keep.with_suffix(".npz"), allow_pickle=False, **kept)
        wanted = ("mel_distance", "mu_distance", "mel_std_ratio", "duration_ratio")
        return {
            "cepstral_distance": float(np.mean(distances)), "duration_error": float(np.mean(errors)),
            **{name: found[name] for name in wanted},
        }  # fmt: skip

    def _batches(self, samples: Any) -> Iterator[tuple[int, dict[str, Any]]]:
        count = min(self.limit, len(samples))
        for first in range(0, count, _BATCH):
            raw = samples.batch(range(first, min(first + _BATCH, count)))
            yield first, {k: v.to(self.device) if isinstance(v, Tensor) else v for k, v in raw.items()}

    def reference(self) -> dict[str, Any]:
        statistics = self._source.statistics()
        return {name: statistics[name] for name in ("languages", "speakers", "utterances", "seconds", "licence")}


def cepstral_distance(made: Tensor, real: Tensor) -> float:
    """Mel cepstral distance of two log-mels (bins, frames) in decibels along the best alignment.

    Orthonormal cosine transform over the bins, coefficients 1 to 13, (10 / ln 10) sqrt 2 times their Euclidean
    distance, mean along the path of dynamic time warping (steps right, up and diagonal).
    """
    from scipy.fft import dct

    spectra: list[np.ndarray] = [np.asarray(dct(mel.double().numpy(), axis=0, norm="ortho")) for mel in (made, real)]
    a, b = (whole[1 : _CEPSTRA + 1].T for whole in spectra)
    cost = np.sqrt(np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T, 0.0))
    n, m = cost.shape
    # Sum of costs and length of the path, antidiagonal by antidiagonal.
    total, steps = np.full((n + 1, m + 1), np.inf), np.zeros((n + 1, m + 1))
    total[0, 0] = 0.0
    for diagonal in range(2, n + m + 1):
        i = np.arange(max(1, diagonal - m), min(n, diagonal - 1) + 1)
        j = diagonal - i
        ways = np.stack([total[i - 1, j - 1], total[i - 1, j], total[i, j - 1]])
        lengths = np.stack([steps[i - 1, j - 1], steps[i - 1, j], steps[i, j - 1]])
        best = ways.argmin(0)
        total[i, j] = ways[best, np.arange(len(i))] + cost[i - 1, j - 1]
        steps[i, j] = lengths[best, np.arange(len(i))] + 1
    return float(10 / np.log(10) * np.sqrt(2) * total[n, m] / steps[n, m])


def take_few(source: Path, target: Path, count: int) -> None:
    """Copy a prepared folder: the first ``count`` utterances of its training split, and its test split."""
    from domains.speech.data.packed import Packed
    from flowkit import atomic

    packed = Packed(source)
    rows = packed.manifest["rows"]
    training = [i for i, split in enumerate(rows["split"]) if split == 0][:count]
    chosen = sorted({*training, *(i for i, split in enumerate(rows["split"]) if split == 2)})

    def parts(array: np.ndarray, starts: np.ndarray) -> np.ndarray:
        return np.concatenate([array[starts[i] : starts[i + 1]] for i in chosen])

    def fill(folder: Path) -> None:
        np.save(folder / "mel.npy", parts(packed.mel, packed.frame_starts))
        np.save(folder / "tokens.npy", parts(packed.tokens, packed.token_starts))
        mel = np.concatenate([packed.mel[packed.frame_starts[i] : packed.frame_starts[i + 1]] for i in training])
        manifest = packed.manifest | {
            "rows": {name: [column[i] for i in chosen] for name, column in rows.items()},
            "mel_mean": round(float(mel.mean(dtype=np.float64)), 6),
            "mel_std": round(float(mel.std(dtype=np.float64)), 6),
        }
        (folder / "manifest.json").write_text(json.dumps(manifest, ensure_ascii=False), encoding="utf-8")

    atomic.write_folder(target, fill, replace=True)
