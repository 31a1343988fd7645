"""A language of twelve symbols made by rule.

Each symbol is a fixed spectrum, held for 2 to 6 frames at one of two loudnesses that is chosen at random.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from domains.speech.features import MelConfig
from domains.speech.matcha import Matcha
from domains.speech.models.decoder import MatchaDecoder
from domains.speech.models.text_encoder import EncoderSizes
from flowkit.data import DataSource, RawBatch, Samples, Split
from flowkit.objectives.flow_matching import FlowMatching
from flowkit.objectives.objective import Objective
from flowkit.paths.linear import LinearPath

SYMBOLS = "_abcdefghijkl"
BINS = 8
LOUDNESSES = (1.0, 2.0)


def patterns() -> Tensor:
    """(13, 8): the spectrum of each symbol; symbol 0 is the blank and never sounds."""
    return torch.randn(len(SYMBOLS), BINS, generator=torch.Generator().manual_seed(7)) * 2.0


class ToySamples(Samples):
    """Utterances of 5 to 12 symbols, no symbol twice in a row (its durations could not be told apart)."""

    def __init__(self, count: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.rows = []
        for _ in range(count):
            length = int(torch.randint(5, 13, (1,), generator=generator))
            steps = torch.randint(1, 12, (length,), generator=generator)
            tokens = (torch.randint(0, 12, (1,), generator=generator) + steps.cumsum(0)) % 12 + 1
            durations = torch.randint(2, 7, (length,), generator=generator)
            loud = torch.tensor(LOUDNESSES)[torch.randint(0, 2, (length,), generator=generator)]
            mel = (patterns()[tokens] * loud[:, None]).repeat_interleave(durations, 0).T
            noise = torch.randn(mel.shape, generator=generator) * 0.05
            self.rows.append((tokens, durations, loud, mel + noise))

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: Sequence[int]) -> RawBatch:
        rows = [self.rows[i] for i in indices]
        pad = torch.nn.utils.rnn.pad_sequence
        zeros = torch.zeros(len(rows), dtype=torch.long)
        return {
            "tokens": pad([r[0] for r in rows], batch_first=True),
            "token_lengths": torch.tensor([len(r[0]) for r in rows]),
            "mel": pad([r[3].T for r in rows], batch_first=True).transpose(1, 2).contiguous(),
            "mel_lengths": torch.tensor([r[3].shape[1] for r in rows]),
            "durations": pad([r[1] for r in rows], batch_first=True),
            "loudness": pad([r[2] for r in rows], batch_first=True),
            "speaker": zeros,
            "language": zeros,
            "text": ["".join(SYMBOLS[i] for i in r[0].tolist()) for r in rows],
            "key": [str(i) for i in indices],
        }


MEL = MelConfig(sample_rate=8000, n_fft=256, win=256, hop=64, bins=BINS, f_max=4000.0)


class ToyData(DataSource):
    def __init__(self, count: int = 256) -> None:
        self.count = count

    def prepare(self) -> None:
        pass

    def split(self, name: Split) -> ToySamples:
        return ToySamples(self.count if name == "train" else 64, {"train": 1, "validation": 2, "test": 3}[name])

    def statistics(self) -> Mapping[str, Any]:
        return {
            "mel": asdict(MEL), "mel_mean": 0.0, "mel_std": 3.0, "symbols": list(SYMBOLS), "phonemes": "characters",
            "blank": False, "speakers": ["rule"], "languages": ["en"],
            "frames": {"train": 34 * self.count}, "utterances": {"train": self.count},
        }  # fmt: skip


def decoder(spec: Any, **changes: Any) -> MatchaDecoder:
    sizes = {
        "features": BINS,
        "channels": [32, 32],
        "head_width": 16,
        "middle": 1,
        "groups": 4,
        "dropout": 0.0,
    } | changes
    return MatchaDecoder(spec, **sizes)


def toy_task(objective: Objective | None = None, **changes: Any) -> Matcha:
    sizes = EncoderSizes(width=32, filter_width=64, layers=2, prenet_layers=1, duration_width=32, prenet_dropout=0.1)
    arguments: dict[str, Any] = {"encoder": sizes, "symbols": len(SYMBOLS), "features": BINS} | changes
    return Matcha(decoder, objective or FlowMatching(path=LinearPath(floor=1e-4)), **arguments)
