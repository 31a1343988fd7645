"""How few steps of a student compare with the accurate solve of its voice, on mels and, where asked, on their sound."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from domains.speech import audio, metrics
from domains.speech.matcha import Matcha
from flowkit.artifacts import Artifact
from flowkit.random import Rows, mix_seed
from flowkit.solvers.rk4 import RK4
from flowkit.solvers.sampler import Sampler
from flowkit.train.engine import to_device

_BATCH, _ACCURATE = 16, 25
RATE = 16_000


class Judge:
    """Measures mels of students that decode the voice's own means.

    Args:
        voice: the teacher.
        data: prepared speech data; its test split is judged, or the validation split where that is empty.
        temperature: of the noise, None for the voice's own.
        seed: of the noise.
        listen: also recognise the sound and rate it (needs the extra ``bench``).
        keep: folder for the sound, as ``METHOD/CALLS/KEY.wav`` with a table ``texts.txt`` beside.
        limit: at most so many utterances.

    Attributes:
        references: measures of the recordings' own mels through the vocoder, and of the voice's accurate solve.
    """

    def __init__(
        self, voice: Artifact, data: Any, *, temperature: float | None, seed: int, listen: bool, keep: Path | None,
        limit: int,
    ) -> None:  # fmt: skip
        assert isinstance(voice.task, Matcha)
        self.task, self.data, self.seed = voice.task.eval(), data, seed
        self.temperature = voice.sampler.temperature if temperature is None else temperature
        self.listen, self.keep, self.references = listen, keep, {}
        self.samples = data.split("test") if len(data.split("test")) else data.split("validation")
        self.count = min(limit, len(self.samples))
        self.sampler = Sampler(RK4(), _ACCURATE, temperature=self.temperature)
        accurate = self._mels(self.task, self.sampler)
        self.batches = [(raw, aligned, mel) for (raw, aligned), mel in zip(self._real(), accurate, strict=True)]
        self.references = {
            "recordings": self._heard("recordings", [raw["mel"].float() for raw, _, _ in self.batches]),
            "accurate solve": self._measure("accurate", [mel for _, _, mel in self.batches]),
        }
        if keep is not None:
            texts = [f"{key}|{text}" for raw, _, _ in self.batches for key, text in self._names(raw)]
            keep.mkdir(parents=True, exist_ok=True)
            (keep / "texts.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")

    def __call__(self, name: str, student: Artifact, calls: Mapping[int, int]) -> dict[str, dict[str, float]]:
        """Measures by number of network calls; ``calls`` tells the steps of each."""
        assert isinstance(student.task, Matcha)
        task, found = student.task.eval(), {}
        for number, steps in calls.items():
            sampler = replace(student.sampler, steps=steps, controller=None, temperature=self.temperature)
            mels = list(self._mels(task, sampler, expected=number))
            found[str(number)] = self._measure(f"{name.replace(' ', '-').replace(',', '')}/{number}", mels)
        return found

    # --- mels -------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _real(self) -> Iterator[tuple[dict[str, Any], Any]]:
        """Raw batches and their alignment by the voice."""
        for first in range(0, self.count, _BATCH):
            raw = to_device(self.samples.batch(range(first, min(first + _BATCH, self.count))), self.task.device)
            yield dict(raw), self.task.align(raw)

    @torch.no_grad()
    def _mels(self, task: Matcha, sampler: Sampler, expected: int | None = None) -> Iterator[Tensor]:
        """Log-mels that ``task`` decodes from the voice's means, the same noise for every task and sampler."""
        for number, (_, aligned) in enumerate(self._real()):
            noise = Rows(mix_seed(self.seed, 0xFE3), first=number * _BATCH, total=self.count)
            solution = task.generate(aligned.mu, aligned.real, aligned.speaker, sampler=sampler, generator=noise)
            made = int(solution.network_calls.max())
            if expected is not None and made != expected:
                raise AssertionError(f"{type(task.objective).__name__} made {made} network calls, not {expected}")
            yield task.denormalise(solution.x.float())

    def _measure(self, place: str, mels: list[Tensor]) -> dict[str, float]:
        rows: dict[str, list[Tensor]] = {"to_voice": [], "to_real": [], "deviation": []}
        for (raw, aligned, accurate), mel in zip(self.batches, mels, strict=True):
            real, keep = raw["mel"].float(), aligned.real
            rows["to_voice"].append(metrics.mel_distance(mel, accurate, keep))
            rows["to_real"].append(metrics.mel_distance(mel, real, keep))
            rows["deviation"].append(metrics.deviation_ratio(mel, real, keep))
        return {name: float(torch.cat(parts).mean()) for name, parts in rows.items()} | self._heard(place, mels)

    # --- sound ------------------------------------------------------------------------------------------------------

    def _names(self, raw: Mapping[str, Any]) -> list[tuple[str, str]]:
        return [(str(key).replace("/", "_"), str(text)) for key, text in zip(raw["key"], raw["text"], strict=True)]

    @torch.no_grad()
    def _heard(self, place: str, mels: list[Tensor]) -> dict[str, float]:
        """Word errors and DNSMOS of the mels' sound, where asked; keeps the sound."""
        if not self.listen and self.keep is None:
            return {}
        waves: list[tuple[str, str, np.ndarray]] = []
        for (raw, _, _), mel in zip(self.batches, mels, strict=True):
            for row, (key, text) in enumerate(self._names(raw)):
                wave = self._vocoder(mel[row : row + 1, :, : int(raw["mel_lengths"][row])])[0].float().cpu()
                waves.append((key, text, audio.resample(wave, self._vocoder.config.sample_rate, RATE).numpy()))
        if self.keep is not None:
            for key, _, wave in waves:
                loudest = max(float(np.abs(wave).max()), 1e-9)
                audio.write(self.keep / place / f"{key}.wav", torch.from_numpy(wave * np.float32(0.95 / loudest)), RATE)
        return self._recognised(waves) if self.listen else {}

    @cached_property
    def _vocoder(self) -> Any:
        return self.task.make_vocoder(self.task.voice.mel).to(self.task.device).eval()

    def _recognised(self, waves: list[tuple[str, str, np.ndarray]]) -> dict[str, float]:
        from benchmarks.speech import measures
        from benchmarks.speech.sentences import words

        clips = [measures.Clip(key, words(text), wave) for key, text, wave in waves if len(words(text)) >= 3]
        scores = self._ears.score("", clips)
        return {"wer": scores.wer, "cer": scores.cer, "dnsmos": scores.dnsmos, "clips": len(clips)}

    @cached_property
    def _ears(self) -> Any:
        from benchmarks.speech import measures
        from benchmarks.speech.sentences import words

        known = [words(text) for raw, _, _ in self.batches for _, text in self._names(raw)]
        return measures.Judge([sentence for sentence in known if len(sentence) >= 3], None, listens=1)
