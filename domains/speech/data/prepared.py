"""Prepared speech: packed mels and tokens in a cache folder, read with numpy and torch alone.

A prepared folder holds ``mel.npy`` (frames of all utterances one after another, float16, un-normalised log-mel),
``tokens.npy`` (int32, without blanks) and ``manifest.json`` (columns with a value per utterance, the settings, the
statistics). Both arrays are memory-mapped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from domains.speech.features import MelConfig
from flowkit.data import DataSource, RawBatch, Samples, Split, padded_length
from flowkit.errors import UserError, nearest

#: Raised when the layout of a prepared folder changes.
FORMAT = 1
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


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


class Utterances(Samples):
    """The utterances of one split.

    Args:
        packed: the prepared folder.
        rows: numbers of the utterances in it.
        blank: put token 0 between and around all tokens (n become 2 n + 1).
    """

    def __init__(self, packed: Packed, rows: np.ndarray, *, blank: bool = True) -> None:
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
        columns = self.packed.manifest["rows"]
        if name not in columns:
            raise UserError(f"prepared data has no column {name!r}: {nearest(name, columns)}")
        return [columns[name][row] for row in self.rows]

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
        shape = (len(rows), padded_length(int(frames.max()), self.pad_multiple), packed.mel.shape[1])
        mel = np.empty(shape, dtype=np.float32)
        for i, row in enumerate(rows):
            tokens[i, first : first + step * counts[i] : step] = packed.tokens[
                packed.token_starts[row] : packed.token_starts[row + 1]
            ]
            mel[i, : frames[i]] = packed.mel[packed.frame_starts[row] : packed.frame_starts[row + 1]]
            mel[i, frames[i] :] = self._silence
        columns = packed.manifest["rows"]
        raw: RawBatch = {
            "tokens": torch.from_numpy(tokens),
            "token_lengths": torch.from_numpy(token_lengths),
            "mel": torch.from_numpy(mel).transpose(1, 2).contiguous(),
            "mel_lengths": torch.from_numpy(frames),
            "speaker": torch.tensor([columns["speaker"][row] for row in rows]),
            "language": torch.tensor([columns["language"][row] for row in rows]),
            "text": [columns["text"][row] for row in rows],
            "key": [columns["key"][row] for row in rows],
        }
        if "durations" in columns:
            durations = np.zeros_like(tokens)
            for i, row in enumerate(rows):
                known = columns["durations"][row]
                durations[i, first : first + step * counts[i] : step] = -1 if known is None else known
            raw["durations"] = torch.from_numpy(durations)
        return raw


class PreparedReader(DataSource):
    """What all speech data share once they are prepared: splits and statistics.

    Args:
        blank: put token 0 between and around all tokens (n become 2 n + 1), as Matcha-TTS does.
    """

    def __init__(self, *, blank: bool = True) -> None:
        self.blank = blank

    @property
    def folder(self) -> Path:
        """Where the prepared arrays are (or will be)."""
        raise NotImplementedError

    @cached_property
    def packed(self) -> Packed:
        """The prepared arrays; prepares them when that was not done."""
        self.prepare()
        return Packed(self.folder)

    def split(self, name: str) -> Utterances:
        """The utterances of one split that have at least one frame per token (shorter ones have no alignment)."""
        if name not in SPLITS:
            raise UserError(f"data has no split {name!r}: {nearest(name, SPLITS)}")
        number = SPLITS.index(name)  # pyright: ignore[reportArgumentType]
        rows = np.flatnonzero(np.asarray(self.packed.manifest["rows"]["split"]) == number)
        utterances = Utterances(self.packed, rows, blank=self.blank)
        utterances.rows = rows[utterances.lengths() >= utterances.token_lengths()]
        return utterances

    def statistics(self) -> Mapping[str, Any]:
        """Plain numbers and names.

        ``mel_mean`` and ``mel_std`` (one number each, over the train split), ``mel`` (the settings), ``symbols`` (in
        order of their numbers), ``blank``, ``phonemes``, ``speakers``, ``languages``, counts and seconds per split,
        ``frames_per_token`` (median), ``too_short`` (fewer frames than tokens, left out of the splits), ``dropped``,
        ``licence`` and ``attribution``.
        """
        manifest = self.packed.manifest
        splits = {name: self.split(name) for name in SPLITS}
        tokens = np.concatenate([s.token_lengths() for s in splits.values()])
        frames = np.concatenate([s.lengths() for s in splits.values()])
        used = sum(map(len, splits.values()))
        names = ("name", "mel", "mel_mean", "mel_std", "symbols", "phonemes", "speakers", "languages", "dropped")
        return {
            **{name: manifest[name] for name in names},
            "blank": self.blank,
            "utterances": {name: len(s) for name, s in splits.items()},
            "seconds": {name: round(sum(s.column("seconds")), 1) for name, s in splits.items()},
            "frames": {name: int(s.lengths().sum()) for name, s in splits.items()},
            "frames_per_token": round(float(np.median(frames / tokens)), 2) if used else 0.0,
            "longest_frames": int(frames.max(initial=0)),
            "longest_tokens": int(tokens.max(initial=0)),
            "too_short": len(self.packed.frames) - used,
            "licence": manifest["licence"],
            "attribution": manifest["attribution"],
            "folder": str(self.folder),
        }

    @property
    def mel(self) -> MelConfig:
        """Settings of the mels."""
        return MelConfig(**self.packed.manifest["mel"])


class Prepared(PreparedReader):
    """Speech that was prepared before, perhaps on another machine: a folder with ``manifest.json`` and its arrays.

    Args:
        path: the folder.
        blank: see :class:`PreparedReader`.
    """

    def __init__(self, path: str, *, blank: bool = True) -> None:
        super().__init__(blank=blank)
        self.path = path

    @property
    def folder(self) -> Path:
        """The given folder."""
        return Path(self.path).expanduser()

    def prepare(self) -> None:
        """Check that the folder is there."""
        if not (self.folder / "manifest.json").is_file():
            raise UserError(f"{self.path!r} is no prepared speech data: it holds no manifest.json")
