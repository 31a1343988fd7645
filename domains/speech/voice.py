"""What lies between a text and its tokens, kept with the weights: symbols, phonemiser, mel settings, names."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from operator import attrgetter
from typing import Any

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from domains.speech.features import MelConfig
from domains.speech.phonemes import SYMBOLS, SymbolTable, intersperse, make_phonemizer
from flowkit.errors import UserError, nearest

#: Bytes of a stored voice. A fixed size, so that checkpoints of one recipe fit each other.
STORED = 16384


@dataclass(frozen=True)
class Voice:
    """The text side of a trained model.

    Args:
        mel: settings of the mels it makes.
        symbols: in the order of their numbers.
        phonemes: name of the phonemiser (``espeak``, ``characters``).
        blank: whether token 0 stands between and around all symbols.
        speakers, languages: names in the order of their numbers.
        name, licence, attribution: of the recordings.
    """

    mel: MelConfig
    symbols: tuple[str, ...] = SYMBOLS
    phonemes: str = "espeak"
    blank: bool = True
    speakers: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    name: str = ""
    licence: str = ""
    attribution: tuple[str, ...] = ()

    @classmethod
    def of_statistics(cls, statistics: Mapping[str, Any]) -> Voice:
        """From what a speech data source says about itself."""
        return cls(
            mel=MelConfig(**statistics["mel"]),
            symbols=tuple(statistics.get("symbols", SYMBOLS)),
            phonemes=statistics.get("phonemes", "espeak"),
            blank=bool(statistics.get("blank", True)),
            speakers=tuple(statistics.get("speakers", ())),
            languages=tuple(statistics.get("languages", ())),
            name=str(statistics.get("name", "")),
            licence=str(statistics.get("licence", "")),
            attribution=tuple(statistics.get("attribution", ())),
        )

    def check_room(self, *, symbols: int, features: int, speakers: int, languages: int) -> None:
        """Raise ``UserError`` where the data have more than a task of these sizes was built for."""
        for given, allowed, key in (
            (len(self.symbols), symbols, "symbols"),
            (len(self.speakers), speakers, "speakers"),
            (len(self.languages), languages, "languages"),
        ):
            if given > allowed:
                raise UserError(
                    f"the data has {given} {key}, the task was built for {allowed}: set task.init_args.{key}: {given}"
                )
        if self.mel.bins != features:
            raise UserError(
                f"the data has {self.mel.bins} mel bins, the task was built for {features}: "
                "set task.init_args.features (and the decoder's)"
            )

    def check_replaces(self, trained: Voice, *, speakers: int, languages: int) -> None:
        """Raise ``UserError`` where a model that was trained as the voice ``trained`` cannot be fitted to this one.

        Args:
            trained: what the model was trained with.
            speakers, languages: that it has room for.
        """
        if self.symbols != trained.symbols:
            strange = ", ".join(repr(symbol) for symbol in self.symbols if symbol not in trained.symbols)
            told = f"the symbols {strange}" if strange else "fewer symbols or another order of them"
            raise UserError(
                f"the data has {told}, which the model was not trained with: choose a language or texts that it can "
                "spell, or train a voice of its own"
            )
        for key in ("blank", *(f"mel.{field.name}" for field in fields(MelConfig))):
            given, own = attrgetter(key)(self), attrgetter(key)(trained)
            if given != own:
                raise UserError(f"data.{key} is {given}, the model was trained with {own}: add --data.{key} {own}")
        for given, allowed, what in (
            (len(self.speakers), speakers, "speakers"),
            (len(self.languages), languages, "languages"),
        ):
            if given > max(allowed, 1):
                raise UserError(
                    f"the data has {given} {what}, the model has room for {allowed}: fit it to one at a time"
                )

    def to_bytes(self) -> UInt8[Tensor, " bytes"]:
        """JSON in a row of :data:`STORED` bytes, filled up with spaces."""
        text = json.dumps(asdict(self), ensure_ascii=False, separators=(",", ":")).encode()
        if len(text) > STORED:
            raise UserError(
                f"the names of symbols, speakers and languages take {len(text)} bytes, {STORED} can be kept with the "
                "weights: use shorter names"
            )
        return torch.frombuffer(bytearray(text.ljust(STORED)), dtype=torch.uint8)

    @classmethod
    def from_bytes(cls, stored: UInt8[Tensor, " bytes"]) -> Voice:
        """The inverse of :meth:`to_bytes`.

        Raises:
            UserError: nothing was stored: the model was never trained.
        """
        text = bytes(stored.cpu().numpy()).rstrip(b"\0").strip()
        if not text:
            raise UserError(
                "this model has seen no data yet: it knows neither symbols nor mel settings; train it first"
            )
        return cls.from_plain(json.loads(text))

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> Voice:
        """From what ``dataclasses.asdict`` and JSON make of one."""
        lists = {key: tuple(values[key]) for key in ("symbols", "speakers", "languages", "attribution")}
        return cls(**{**values, **lists, "mel": MelConfig(**values["mel"])})

    def tokens(self, text: str, language: str | None = None) -> Int[Tensor, " n"]:
        """The token numbers of ``text``, blanks included.

        Raises:
            UserError: nothing in the text can be pronounced, or the language is not known.
        """
        return self.encode(self.read(text, language), text)

    def read(self, text: str, language: str | None = None) -> str:
        """The phonemes of ``text``."""
        name = language or (self.languages[0] if self.languages else "en")
        return make_phonemizer(self.phonemes, name)(text)

    def encode(self, phonemes: str, text: str | None = None) -> Int[Tensor, " n"]:
        """The token numbers of phonemes, blanks included; see :meth:`SymbolTable.encode`."""
        numbers = SymbolTable(self.symbols).encode(phonemes, text)
        return torch.tensor(intersperse(numbers) if self.blank else numbers, dtype=torch.long)

    def number(self, kind: str, name: str | int | None) -> int:
        """The number of a speaker or language given by name or number; None means the first.

        Raises:
            UserError: there is no such ``kind`` (``speaker`` or ``language``).
        """
        names: Sequence[str] = self.speakers if kind == "speaker" else self.languages
        if name is None:
            return 0
        if isinstance(name, int) or (str(name).isdigit() and str(name) not in names):
            if not 0 <= int(name) < max(len(names), 1):
                raise UserError(
                    f"there is no {kind} number {name}: this voice has {max(len(names), 1)}, counted from 0"
                )
            return int(name)
        if name not in names:
            raise UserError(f"this voice has no {kind} {name!r}: {nearest(name, names)}")
        return list(names).index(name)
