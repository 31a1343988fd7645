"""Packed mels and tokens in a prepared folder, read with numpy and torch alone, and the samples made of them.

A prepared folder holds ``mel.npy`` (frames of all utterances one after another, float16, un-normalised log-mel),
``tokens.npy`` (int32, without blanks) and ``manifest.json`` (columns with a value per utterance, the settings, the
statistics). Both arrays are memory-mapped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from flowkit.data import RawBatch, Samples, padded_length
from flowkit.errors import UserError, nearest

#: Raised when the layout of a prepared folder changes.
FORMAT = 1


class Utterance(NamedTuple):
    """One utterance as it is kept: ``mel`` (T, bins) float16, ``tokens`` (n,) int32, and its row of the manifest."""

    mel: np.ndarray
    tokens: np.ndarray
    row: Mapping[str, Any]


class Packed:
    """One prepared folder, memory-mapped.

    Args:
        folder: where ``manifest.json`` and the arrays are.

    Raises:
        UserError: something is missing or of another format.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
            if self.manifest["format"] != FORMAT:
                raise UserError(
                    f"prepared data in {str(folder)!r} has format {self.manifest['format']}, this version reads "
                    f"{FORMAT}: delete the folder and prepare it again"
                )
            self.mel = np.load(folder / "mel.npy", mmap_mode="r")
            self.tokens = np.load(folder / "tokens.npy", mmap_mode="r")
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise UserError(
                f"prepared data in {str(folder)!r} cannot be read ({error}): delete the folder and prepare it again"
            ) from error
        rows = self.manifest["rows"]
        self.frames = np.asarray(rows["frames"], dtype=np.int64)
        self.counts = np.asarray(rows["tokens"], dtype=np.int64)
        self.frame_starts = np.concatenate([[0], np.cumsum(self.frames)])
        self.token_starts = np.concatenate([[0], np.cumsum(self.counts)])
        if self.frame_starts[-1] != len(self.mel) or self.token_starts[-1] != len(self.tokens):
            raise UserError(
                f"prepared data in {str(folder)!r} does not fit its manifest: delete the folder and prepare it again"
            )

    @property
    def place(self) -> str:
        """Where the data are, for people."""
        return str(self.folder)

    @cached_property
    def splits(self) -> np.ndarray:
        """(n,) place of each utterance's split among train, validation and test; another number: in none."""
        return np.asarray(self.manifest["rows"]["split"])

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return list(self.manifest["rows"])

    def column(self, name: str, rows: np.ndarray) -> list[Any]:
        """One column of the manifest at ``rows``."""
        values = self.manifest["rows"][name]
        return [values[row] for row in rows]

    def read(self, rows: np.ndarray) -> list[Utterance]:
        """The utterances ``rows`` (n,)."""
        columns = self.manifest["rows"]
        return [
            Utterance(
                self.mel[self.frame_starts[row] : self.frame_starts[row + 1]],
                self.tokens[self.token_starts[row] : self.token_starts[row + 1]],
                {name: values[row] for name, values in columns.items()},
            )
            for row in rows.tolist()
        ]

    def utterances(self, rows: np.ndarray, *, blank: bool) -> Utterances:
        """Those of one split."""
        return Utterances(self, rows, blank=blank)


class Utterances(Samples):
    """The utterances of one split.

    Args:
        packed: the prepared folder, or what stands for it.
        rows: numbers of the utterances in it.
        blank: put token 0 between and around all tokens (n become 2 n + 1).
    """

    def __init__(self, packed: Any, rows: np.ndarray, *, blank: bool = True) -> None:
        self.packed, self.rows, self.blank = packed, rows, blank
        self._silence = float(np.log(packed.manifest["mel"]["floor"]))

    def __len__(self) -> int:
        return len(self.rows)

    def lengths(self) -> np.ndarray:
        """Frames of every utterance."""
        return self.packed.frames[self.rows]

    def token_lengths(self) -> np.ndarray:
        """Tokens of every utterance, blanks included where they are used."""
        counts = self.packed.counts[self.rows]
        return 2 * counts + 1 if self.blank else counts

    def column(self, name: str) -> list[Any]:
        """One column of the manifest (``key``, ``text``, ``phonemes``, ``seconds``, ...) for these utterances."""
        if name not in self.packed.columns:
            raise UserError(f"prepared data has no column {name!r}: {nearest(name, self.packed.columns)}")
        return self.packed.column(name, self.rows)

    def batch(self, indices: Sequence[int]) -> RawBatch:
        """Gather and pad.

        Returns:
            ``tokens`` (b, N) int64 padded with 0, ``token_lengths`` (b,), ``mel`` (b, bins, T) float32, un-normalised
            log-mel padded with silence, ``mel_lengths`` (b,), ``speaker`` (b,) and ``language`` (b,) as numbers,
            ``text`` and ``key`` lists. Where the set knows them, ``durations`` (b, N): true frames per token, 0 for
            blanks and padding, -1 for an unknown row.
        """
        packed, rows = self.packed, self.rows[np.asarray(indices, dtype=np.int64)]
        frames, counts = packed.frames[rows], packed.counts[rows]
        step, first = (2, 1) if self.blank else (1, 0)
        token_lengths = counts * step + first
        tokens = np.zeros((len(rows), padded_length(int(token_lengths.max()), self.pad_multiple)), dtype=np.int64)
        utterances: list[Utterance] = packed.read(rows)
        shape = (len(rows), padded_length(int(frames.max()), self.pad_multiple), utterances[0].mel.shape[1])
        mel = np.empty(shape, dtype=np.float32)
        for i, utterance in enumerate(utterances):
            tokens[i, first : first + step * counts[i] : step] = utterance.tokens
            mel[i, : frames[i]] = utterance.mel
            mel[i, frames[i] :] = self._silence
        columns = {name: [utterance.row[name] for utterance in utterances] for name in utterances[0].row}
        raw: RawBatch = {
            "tokens": torch.from_numpy(tokens),
            "token_lengths": torch.from_numpy(token_lengths),
            "mel": torch.from_numpy(mel).transpose(1, 2).contiguous(),
            "mel_lengths": torch.from_numpy(frames),
            "speaker": torch.tensor(columns["speaker"]),
            "language": torch.tensor(columns["language"]),
            "text": columns["text"],
            "key": columns["key"],
        }
        if "durations" in columns:
            durations = np.zeros_like(tokens)
            for i, known in enumerate(columns["durations"]):
                durations[i, first : first + step * counts[i] : step] = -1 if known is None else known
            raw["durations"] = torch.from_numpy(durations)
        return raw
