"""What is measured on clips: intelligibility (closed set, open vocabulary), DNSMOS, durations, deviation of the mels.

Every clip is scaled to a peak of 0.95 first, so that no measure sees the loudness that a vocoder happens to give.
"""

# The recognisers are an extra ([bench]): the checker may not find them.
# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.speech.recognise import RATE, AnswerCache, ClosedSet, OpenVocabulary

PEAK = 0.95


@dataclass(frozen=True)
class Clip:
    """One spoken sentence: its words, its sound (float, 16 kHz), and what is known of its mels and length.

    ``mel`` and ``true_mel`` are log-mels (bins, frames); ``seconds`` was said, ``true_seconds`` recorded.
    """

    name: str
    words: list[str]
    audio: np.ndarray
    mel: np.ndarray | None = None
    true_mel: np.ndarray | None = None
    seconds: float | None = None
    true_seconds: float | None = None


@dataclass(frozen=True)
class Scores:
    """One row of the table. Shares in [0, 1]; None where a figure does not apply."""

    name: str
    clips: int
    closed_set: int
    wer: float
    cer: float
    dnsmos: float
    duration_ratio: float | None
    deviation_ratio: float | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class Judge:
    """Scores rows of clips.

    Args:
        sentences: the candidates of the closed-set test.
        cache: folder for recognised answers, or None.
        listens: how often the open recogniser hears each clip, with other noise, all errors pooled: one draw alone
            moves the WER by 0.01.
    """

    def __init__(self, sentences: Sequence[Sequence[str]], cache: Path | None, listens: int = 3) -> None:
        answers = AnswerCache(cache)
        self.answers, self.listens = answers, listens
        self.closed, self.open = ClosedSet(sentences, answers), OpenVocabulary(answers)

    def hits(self, clips: Sequence[Clip]) -> int:
        """How many clips the closed-set recogniser takes for the right sentence."""
        return sum(self.closed(level(clip.audio)) == " ".join(clip.words) for clip in clips)

    def score(self, name: str, clips: Sequence[Clip]) -> Scores:
        """All measures of one row."""
        import jiwer

        truth = [" ".join(clip.words) for clip in clips for _ in range(self.listens)]
        heard = [self.open(level(clip.audio), draw) for clip in clips for draw in range(self.listens)]
        return Scores(
            name=name,
            clips=len(clips),
            closed_set=self.hits(clips),
            wer=float(jiwer.wer(truth, heard)),
            cer=float(jiwer.cer(truth, heard)),
            dnsmos=float(np.mean([self.dnsmos(level(clip.audio)) for clip in clips])),
            duration_ratio=duration_ratio(clips),
            deviation_ratio=deviation_ratio(clips),
        )

    def dnsmos(self, audio: np.ndarray) -> float:
        """DNSMOS, overall quality (P.835, 1 to 5), by the network inside the speechmos package."""
        key, answer = self.answers.get("dnsmos", np.ascontiguousarray(audio, dtype=np.float32).tobytes())
        if answer is None:
            answer = float(self._dnsmos(audio, RATE, False)["ovrl_mos"])
            self.answers.put(key, answer)
        return answer

    @cached_property
    def _dnsmos(self) -> Any:
        import onnxruntime
        from speechmos import dnsmos

        folder = Path(dnsmos.__file__).parent / "dnsmos_models"
        scorer = dnsmos.DNSMOS(str(folder / "sig_bak_ovr.onnx"), str(folder / "model_v8.onnx"))
        # The package takes every core; a benchmark beside others takes one.
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        scorer.onnx_sess = onnxruntime.InferenceSession(str(folder / "sig_bak_ovr.onnx"), options)
        scorer.p808_onnx_sess = onnxruntime.InferenceSession(str(folder / "model_v8.onnx"), options)
        return scorer


def level(audio: np.ndarray) -> np.ndarray:
    """Scaled to the peak that all measures expect; silence stays."""
    audio = np.asarray(audio, dtype=np.float32)
    largest = float(np.abs(audio).max()) if audio.size else 0.0
    return audio * np.float32(PEAK / largest) if largest > 0 else audio


def duration_ratio(clips: Sequence[Clip]) -> float | None:
    """Seconds said over seconds of the recordings, of all clips together."""
    said, true = [clip.seconds for clip in clips], [clip.true_seconds for clip in clips]
    if any(value is None for value in (*said, *true)):
        return None
    return float(np.sum(said) / np.sum(true))  # pyright: ignore[reportArgumentType, reportCallIssue]


def deviation_ratio(clips: Sequence[Clip]) -> float | None:
    """Standard deviation over time of each mel bin, said over recorded; mean over bins, then over clips."""
    if any(clip.mel is None or clip.true_mel is None for clip in clips):
        return None
    ratios = [np.std(clip.mel, axis=1) / np.std(clip.true_mel, axis=1) for clip in clips]  # pyright: ignore[reportCallIssue, reportArgumentType]
    return float(np.mean([ratio.mean() for ratio in ratios]))


def table(rows: Sequence[Scores]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| | closed set | WER | CER | DNSMOS | duration ratio | mel deviation ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        ratios = ["" if value is None else f"{value:.2f}" for value in (row.duration_ratio, row.deviation_ratio)]
        cells = [
            row.name,
            f"{row.closed_set}/{row.clips}",
            f"{row.wer:.3f}",
            f"{row.cer:.3f}",
            f"{row.dnsmos:.2f}",
            *ratios,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
