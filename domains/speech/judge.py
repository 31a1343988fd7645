"""How text-to-speech is judged during training: cheap measures, and one utterance to look at and to hear."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor

from domains.speech import metrics
from domains.speech.alignment import path
from domains.speech.present import alignment_picture, mel_picture, sound
from flowkit.random import Rows, mix_seed
from flowkit.solvers.sampler import Sampler

if TYPE_CHECKING:
    from domains.speech.matcha import Matcha
    from flowkit.data import RawBatch, Samples
    from flowkit.tasks import Presentation

_BATCH = 16


P = ParamSpec("P")
R = TypeVar("R")


def _evaluating(function: Callable[Concatenate[Matcha, P], R]) -> Callable[Concatenate[Matcha, P], R]:
    """Run with the task in evaluation mode and without gradients, then put its mode back."""

    @wraps(function)
    def run(task: Matcha, *args: P.args, **kwargs: P.kwargs) -> R:
        was = task.training
        task.eval()
        try:
            with torch.no_grad():
                return function(task, *args, **kwargs)
        finally:
            task.train(was)

    return run


def _batches(task: Matcha, samples: Samples, count: int, batch: int = _BATCH) -> Iterator[RawBatch]:
    for first in range(0, count, batch):
        raw = samples.batch(range(first, min(first + batch, count)))
        yield {k: v.to(task.device) if isinstance(v, Tensor) else v for k, v in raw.items()}


@_evaluating
def frames_spoken(task: Matcha, samples: Samples, *, batch: int = _BATCH) -> Tensor:
    """(2,): true and predicted frames of all ``samples``, before any correction."""
    totals = torch.zeros(2, device=task.device)
    for raw in _batches(task, samples, len(samples), batch):
        totals += task.align(raw).total_frames()
    return totals


@_evaluating
def judge(
    task: Matcha, samples: Samples, *, sampler: Sampler, seed: int = 0, limit: int | None = None
) -> dict[str, float]:
    """Measures of generated mels on ``samples`` (at most ``limit`` utterances).

    Returns:
        ``mel_distance``: mean absolute log-mel error of mels generated with the true durations, and ``mu_distance`` of
        the encoder's means; ``mel_std_ratio`` and ``mu_std_ratio``: deviation over time, generated / real (blurred
        speech is below 1); ``duration_ratio``: frames that synthesis would give / real ones; ``duration_scale``: the
        correction in use; ``network_calls`` per utterance, the mean; ``finished``: share of the solves that arrived.
    """
    count = len(samples) if limit is None else min(limit, len(samples))
    if count == 0:
        return {}
    rows: dict[str, list[Tensor]] = {}
    predicted, true = [], []
    for number, raw in enumerate(_batches(task, samples, count)):
        aligned = task.align(raw)
        # Keyed by the utterance's place: the noise does not depend on how the split is cut into batches.
        noise = Rows(mix_seed(seed, 0x3E1), first=number * _BATCH, total=count)
        solution = task.generate(aligned.mu, aligned.real, aligned.speaker, sampler=sampler, generator=noise)
        real, keep = raw["mel"].float(), aligned.real
        for name, mel in (("mel", solution.x), ("mu", aligned.mu)):
            mel = task.denormalise(mel.float())
            rows.setdefault(f"{name}_distance", []).append(metrics.mel_distance(mel, real, keep))
            rows.setdefault(f"{name}_std_ratio", []).append(metrics.deviation_ratio(mel, real, keep))
        rows.setdefault("network_calls", []).append(solution.network_calls.float())
        rows.setdefault("finished", []).append((solution.status == 0).float())
        encoded = aligned.encoded
        frames = task.round_durations(encoded.log_durations, encoded.real, raw["tokens"])
        predicted.append(frames.sum())
        true.append(raw["mel_lengths"].sum())
    found = {name: float(torch.cat(parts).mean()) for name, parts in rows.items()}
    found["duration_ratio"] = float(metrics.duration_ratio(torch.stack(predicted), torch.stack(true)))
    found["duration_scale"] = float(task.duration_scale)
    return found


@_evaluating
def exhibit(task: Matcha, samples: Samples, *, sampler: Sampler, seed: int = 0) -> dict[str, Presentation]:
    """The first utterance: sound made from its text alone, mels (real, means, generated), the alignment found."""
    if len(samples) == 0:
        return {}
    (raw,) = _batches(task, samples, 1)
    voice = task.voice
    aligned = task.align(raw)
    frames, tokens = int(raw["mel_lengths"][0]), int(raw["token_lengths"][0])
    solution = task.generate(
        aligned.mu, aligned.real, aligned.speaker, sampler=sampler, generator=Rows(mix_seed(seed, 0x5A4), total=1)
    )
    spoken = task.synthesise(
        raw["tokens"], raw["token_lengths"], sampler=sampler, speaker=raw.get("speaker"), language=raw.get("language"),
        generator=Rows(mix_seed(seed, 0x5A5), total=1),
    )  # fmt: skip
    vocoder = task.make_vocoder(voice.mel).to(task.device)
    text = str(raw["text"][0]) if "text" in raw else "utterance"
    mels = {
        f"real: {text[:80]}": raw["mel"][0, :, :frames],
        "encoder's means": task.denormalise(aligned.mu)[0, :, :frames],
        "generated, real durations": task.denormalise(solution.x)[0, :, :frames],
    }
    symbols = "".join(voice.symbols[i] for i in raw["tokens"][0, :tokens].tolist())
    return {
        "speech": sound(vocoder(spoken.mel)[0], voice.mel.sample_rate),
        "real": sound(vocoder(raw["mel"][:, :, :frames])[0], voice.mel.sample_rate),
        "mel": mel_picture(mels, voice.mel),
        "alignment": alignment_picture(
            path(aligned.durations, frames)[0, :tokens], voice.mel, symbols, f"alignment: {text[:80]}"
        ),
    }
