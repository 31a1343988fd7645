"""Speech that is prepared: what its sources share, whoever prepared it, and the source that reads a given folder."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from domains.speech.data.packed import Packed, Utterances
from domains.speech.features import MelConfig
from flowkit.data import DataSource, Split
from flowkit.errors import UserError, nearest
from flowkit.shards.records import Record, Records, Sharding

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
#: Columns of plain numbers.
NUMBERS = ("split", "speaker", "language", "seconds", "frames", "tokens")
#: What shards hold: the ``kind`` of their index.
KIND = "speech"


class PreparedReader(Sharding):
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
    def packed(self) -> Any:
        """The prepared arrays; prepares them when that was not done."""
        self.prepare()
        return Packed(self.folder)

    def split(self, name: str) -> Utterances:
        """The utterances of one split that have at least one frame per token (shorter ones have no alignment)."""
        if name not in SPLITS:
            raise UserError(f"data has no split {name!r}: {nearest(name, SPLITS)}")
        number = SPLITS.index(name)  # pyright: ignore[reportArgumentType]
        rows = np.flatnonzero(self.packed.splits == number)
        utterances: Utterances = self.packed.utterances(rows, blank=self.blank)
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
            "too_short": int((self.packed.splits >= 0).sum()) - used,
            "licence": manifest["licence"],
            "attribution": manifest["attribution"],
            "folder": self.packed.place,
        }

    def records(self) -> Records:
        """One utterance each, split after split: members ``json`` (its row of the manifest), ``mel.npy`` (T, bins)
        float16 and ``tokens.npy`` int32.
        """
        packed = self.packed
        order = np.argsort(packed.splits, kind="stable")
        order = order[packed.splits[order] >= 0]
        return Records(
            kind=KIND,
            count=len(order),
            read=partial(_record, packed, order),
            items=len(order),
            tables={name: np.asarray(packed.column(name, order)) for name in NUMBERS},
            manifest={
                **{name: value for name, value in packed.manifest.items() if name != "rows"},
                "columns": packed.columns,
            },
        )

    def shards_source(self, places: list[str], **options: Any) -> DataSource:
        """See :class:`~flowkit.shards.records.Sharding`."""
        from domains.speech.data.shards import SpeechShards

        return SpeechShards(places, blank=self.blank, **options)

    @property
    def mel(self) -> MelConfig:
        """Settings of the mels."""
        return MelConfig(**self.packed.manifest["mel"])


def _record(packed: Any, order: np.ndarray, number: int) -> Record:
    """One utterance."""
    (utterance,) = packed.read(order[number : number + 1])
    members = {"json": json.dumps(utterance.row, ensure_ascii=False).encode()}
    for name, array in (("mel.npy", utterance.mel), ("tokens.npy", utterance.tokens)):
        stream = io.BytesIO()
        np.save(stream, np.ascontiguousarray(array), allow_pickle=False)
        members[name] = stream.getvalue()
    return Record(members)


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
