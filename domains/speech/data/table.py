"""Recordings of one's own: a folder of audio and a table of texts."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

from torch import Tensor

from domains.speech import audio
from domains.speech.data.corpus import Recording, SpeechData
from domains.speech.data.prepared import SPLITS
from domains.speech.features import MelConfig
from domains.speech.phonemes import PhonemeKind
from flowkit.data import Split
from flowkit.errors import UserError, nearest

_DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": "|", ".psv": "|"}


class Table(SpeechData):
    """Any folder of audio plus a table with a header line.

    ``.csv`` (comma), ``.tsv`` (tab), ``.txt`` (vertical bar), or ``.jsonl`` (an object a line).

    Args:
        folder: where the table is; the names of files count from here.
        table: name of the table, or a path of its own.
        file: column with the audio file; its suffix may be left out.
        text: column with what is said.
        speaker: column with the speaker; where the table has none, one speaker.
        language: column with the language; where the table has none, ``default_language``.
        split: column with train, validation or test; where the table has none, the words of the text decide.
        default_language: short name (en, es, fr, it, ru) or voice of espeak.
        on_error: ``raise`` for a recording that is missing or broken, or ``skip`` it and count it.
        resampling: whether another sample rate is converted; False makes it an error.
        mel: settings of the mels.
        minimum: shorter recordings (seconds, after trimming) are dropped.
        maximum: longer recordings (seconds, after trimming) are dropped.
        trim: cut silence at both ends.
        peak: scale every recording to this largest sample; 0 keeps the level.
        phonemes: ``espeak`` or ``characters``.
        blank: put token 0 between and around all tokens.
        cache: where prepared folders go; empty means ``$FLOWKIT_CACHE`` or the user's cache folder. A changed table is
            prepared anew; after changing audio alone, delete the prepared folder.
    """

    def __init__(
        self,
        folder: str,
        table: str = "metadata.csv",
        *,
        file: str = "file",
        text: str = "text",
        speaker: str = "speaker",
        language: str = "language",
        split: str = "split",
        default_language: str = "en",
        on_error: Literal["raise", "skip"] = "raise",
        resampling: bool = True,
        mel: MelConfig = MelConfig(),  # noqa: B008 (frozen)
        minimum: float = 0.3,
        maximum: float = 30.0,
        trim: bool = True,
        peak: float = 0.0,
        phonemes: PhonemeKind = "espeak",
        blank: bool = True,
        cache: str = "",
    ) -> None:
        super().__init__(
            mel=mel,
            minimum=minimum,
            maximum=maximum,
            trim=trim,
            peak=peak,
            phonemes=phonemes,
            on_error=on_error,
            blank=blank,
            cache=cache,
        )
        self.root, self.table = folder, table
        self.file, self.text, self.speaker, self.language, self.split_column = file, text, speaker, language, split
        self.default_language, self.resampling = default_language, resampling

    def settings(self) -> dict[str, Any]:
        """See :class:`SpeechData`."""
        columns = [self.file, self.text, self.speaker, self.language, self.split_column]
        return {
            "folder": str(Path(self.root).expanduser().absolute()),
            "table": digest(self.table_path),
            "columns": columns,
            "language": self.default_language,
            "resampling": self.resampling,
        }

    @property
    def table_path(self) -> Path:
        """Where the table is."""
        return Path(self.root).expanduser() / self.table

    def recordings(self) -> Sequence[Recording]:
        """See :class:`SpeechData`.

        Raises:
            UserError: the table cannot be read, lacks a column, or names a file that is not there
                (unless ``on_error`` is ``skip``).
        """
        path = self.table_path
        rows = read_rows(path)
        result = []
        keys: dict[str, int] = {}
        for number, row in rows:
            for column in (self.file, self.text):
                if column in row and row[column] in (None, ""):
                    raise UserError(f"{str(path)!r} line {number} has nothing in the column {column!r}: fill it in")
                if column not in row:
                    raise UserError(
                        f"{path.name!r} line {number} has no {column!r}: "
                        f"{nearest(column, [name for name in row if isinstance(name, str)])}"
                    )
            name = str(row[self.file])
            found = find(Path(self.root).expanduser(), name)
            if found is None and self.on_error == "raise":
                raise UserError(
                    f"{str(path)!r} line {number} names the file {name!r}, which is not in {self.root!r} "
                    "(on_error: skip leaves such rows out)"
                )
            split = row.get(self.split_column) or None
            if split is not None and split not in SPLITS:
                raise UserError(f"{path.name!r} line {number} has the split {split!r}: {nearest(str(split), SPLITS)}")
            if name in keys:
                raise UserError(
                    f"{path.name!r} line {number} names the file {name!r} again; line {keys[name]} has it too"
                )
            keys[name] = number
            result.append(
                Recording(
                    name,
                    str(row[self.text]),
                    partial(_load, found or Path(self.root) / name, self.sample_rate, self.resampling),
                    str(row.get(self.speaker) or "speaker"),
                    str(row.get(self.language) or self.default_language),
                    cast("Split | None", split),
                )
            )
        return result


def _load(path: Path, sample_rate: int, resampling: bool) -> Tensor:
    return audio.read(path, sample_rate, resampling=resampling)[0]


def digest(path: Path) -> str:
    """Hash of a table's bytes; empty where it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError:
        return ""


def find(folder: Path, name: str) -> Path | None:
    """The audio file ``name`` below ``folder``, with one of the usual suffixes where it has none."""
    path = folder / name
    candidates = (path, *(path.with_name(path.name + suffix) for suffix in audio.SUFFIXES))
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def read_text(path: Path) -> str:
    """A table's text; a missing file, a folder and another encoding are errors for people."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"table {str(path)!r} is not UTF-8 text (byte {error.start})") from error
    except OSError as error:
        raise UserError(f"cannot read the table {str(path)!r}: {error.strerror or error}") from error


def read_rows(path: Path) -> list[tuple[int, Mapping[str, Any]]]:
    """Rows with the number of the line on which each begins.

    Raises:
        UserError: the file is missing, of an unknown kind, or empty.
    """
    text = read_text(path)
    rows: list[tuple[int, Mapping[str, Any]]] = []
    suffix = path.suffix.lower()
    if suffix in (".jsonl", ".ndjson"):
        for number, line in enumerate(text.splitlines(), start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"table {str(path)!r} line {number} is not JSON: {error.msg}") from error
            if not isinstance(row, dict):
                raise UserError(f"table {str(path)!r} line {number} is no JSON object")
            rows.append((number, row))
    elif suffix in _DELIMITERS:
        # Only comma-separated tables quote: a quotation mark in the others is part of the text.
        quoting = csv.QUOTE_MINIMAL if suffix == ".csv" else csv.QUOTE_NONE
        reader = csv.DictReader(text.splitlines(keepends=True), delimiter=_DELIMITERS[suffix], quoting=quoting)
        before = 1
        for row in reader:
            rows.append((before + 1, row))
            before = reader.line_num
    else:
        raise UserError(f"table {path.name!r} is of an unknown kind: {nearest(suffix, [*_DELIMITERS, '.jsonl'])}")
    if not rows:
        raise UserError(f"table {str(path)!r} has no rows")
    return rows
