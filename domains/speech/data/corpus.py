"""Preparing speech: from recordings with texts to the packed folder that :mod:`domains.speech.data.packed` reads.

An adapter derives from :class:`SpeechData` and says only where recordings come from.
"""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from domains.speech import audio
from domains.speech.data.packed import FORMAT
from domains.speech.data.prepared import SPLITS, PreparedReader
from domains.speech.data.spool import Spool
from domains.speech.features import MelConfig, MelSpectrogram
from domains.speech.phonemes import SYMBOLS, PhonemeKind, SymbolTable, make_phonemizer
from domains.speech.text import split_of
from flowkit import atomic
from flowkit.caching import cache_root
from flowkit.data import Split
from flowkit.errors import UserError, writing


@dataclass(frozen=True)
class Recording:
    """One recording of an adapter, not yet read.

    Args:
        key: its name, unique in the set.
        text: what is said.
        load: reads mono samples at the set's sample rate.
        speaker: who speaks.
        language: short name of the language.
        split: fixed split; None leaves it to the words of the text.
    """

    key: str
    text: str
    load: Callable[[], Float[Tensor, " samples"]]
    speaker: str = "speaker"
    language: str = "en"
    split: Split | None = None


class SpeechData(PreparedReader):
    """Base of the adapters.

    Args:
        mel: settings of the mels; audio is resampled to its sample rate.
        minimum: shorter recordings (seconds, after trimming) are dropped.
        maximum: longer recordings (seconds, after trimming) are dropped.
        trim: cut silence at both ends (40 dB under the loudest frame, 50 ms margin).
        peak: scale every recording to this largest sample; 0 keeps the level of the recording.
        phonemes: ``espeak`` or ``characters``.
        on_error: ``raise`` for a recording that cannot be read, or ``skip`` it and count it.
        blank: see :class:`PreparedReader`.
        cache: where prepared folders go; empty means ``$FLOWKIT_CACHE`` or the user's cache folder.
    """

    licence: str = "unknown"
    attribution: tuple[str, ...] = ()
    fitting = ("mel", "phonemes", "blank")

    def __init__(
        self,
        *,
        mel: MelConfig,
        minimum: float = 0.3,
        maximum: float = 30.0,
        trim: bool = True,
        peak: float = 0.0,
        phonemes: PhonemeKind = "espeak",
        on_error: Literal["raise", "skip"] = "raise",
        blank: bool = True,
        cache: str = "",
    ) -> None:
        super().__init__(blank=blank)
        self.config, self.minimum, self.maximum = mel, minimum, maximum
        self.trim, self.peak, self.phonemes, self.on_error, self.cache = trim, peak, phonemes, on_error, cache

    @abstractmethod
    def recordings(self) -> Sequence[Recording]:
        """All recordings with a text, in a fixed order. May fetch archives; reads no audio yet."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What, besides the base's arguments, decides the prepared arrays: JSON values. Needs no source at hand."""

    def columns(
        self,
        recording: Recording,
        phonemes: str,
        table: SymbolTable,
        frames: int,
    ) -> Mapping[str, Any]:
        """Further columns of the manifest for one recording that was loaded before; anything that JSON holds."""
        return {}

    @property
    def mel(self) -> MelConfig:
        """Settings of the mels."""
        return self.config

    @property
    def sample_rate(self) -> int:
        """Samples per second of the audio behind the mels."""
        return self.config.sample_rate

    def _all_settings(self) -> dict[str, Any]:
        shared = {
            "format": FORMAT,
            "class": type(self).__name__,
            "mel": asdict(self.config),
            "seconds": [self.minimum, self.maximum],
            "trim": self.trim,
            "peak": self.peak,
            "phonemes": self.phonemes,
            "on_error": self.on_error,
        }
        return {**shared, **self.settings()}

    @property
    def folder(self) -> Path:
        """Cache folder of these settings: class and a hash of everything that decides the arrays."""
        text = json.dumps(self._all_settings(), sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        return cache_root(self.cache) / "speech" / f"{type(self).__name__.lower()}-{digest}"

    def waveform(self, key: str) -> Float[Tensor, " samples"]:
        """The trimmed recording ``key`` at the set's sample rate, from its source (the cache holds mels only)."""
        for recording in self.recordings():
            if recording.key == key:
                return self._shape(recording.load())
        raise UserError(f"data {type(self).__name__} has no recording {key!r}")

    def _shape(self, wave: Tensor) -> Tensor:
        wave = audio.trim(wave, self.sample_rate) if self.trim else wave
        return audio.normalise_peak(wave, self.peak) if self.peak else wave

    def prepare(self) -> None:
        """Build the prepared folder under a temporary name and rename it; returns at once when it is there."""
        folder = self.folder
        if (folder / "manifest.json").is_file():
            return
        self.config.check()
        with writing(folder, "prepared data to "):
            atomic.write_folder_once(folder, self._build)

    def _build(self, folder: Path) -> None:
        from tqdm import tqdm

        recordings = self.recordings()
        dropped: Counter[str] = Counter()
        kept: list[Recording] = []
        # A large set has more mels than the memory holds.
        spool = Spool(folder / "mels.part")
        seconds: list[float] = []
        transform = MelSpectrogram(self.config)
        for recording in tqdm(recordings, desc=f"preparing {type(self).__name__}", unit="clip", mininterval=1.0):
            try:
                wave = self._shape(recording.load())
            except UserError as error:
                if self.on_error == "raise":
                    raise UserError(f"{error} (data.init_args.on_error: skip leaves such recordings out)") from error
                dropped["unreadable"] += 1
                continue
            length = wave.numel() / self.sample_rate
            # A reflection needs more samples than it adds, whatever ``minimum`` says.
            if length < self.minimum or wave.numel() <= self.config.padding:
                dropped["too short"] += 1
            elif length > self.maximum:
                dropped["too long"] += 1
            else:
                with torch.no_grad():
                    spool.add(transform(wave.unsqueeze(0))[0].T.numpy().astype(np.float16))
                seconds.append(length)
                kept.append(recording)
        spoken = self._phonemes(kept)
        symbols = (*SYMBOLS, *sorted(set().union(*map(set, spoken)) - set(SYMBOLS)))
        table = SymbolTable(symbols)
        tokens: list[list[int]] = []
        chosen: list[int] = []
        for i, (recording, phonemes) in enumerate(zip(kept, spoken, strict=True)):
            try:
                tokens.append(table.encode(phonemes, recording.text))
                chosen.append(i)
            except UserError as error:
                if self.on_error == "raise":
                    raise UserError(
                        f"recording {recording.key!r}: {error} (data.init_args.on_error: skip leaves such ones out)"
                    ) from error
                dropped["no phonemes"] += 1
        if not chosen:
            raise UserError(
                f"no recording of {type(self).__name__} is left: {len(recordings)} found, dropped {dict(dropped)}; "
                f"minimum={self.minimum} and maximum={self.maximum} are seconds"
            )
        every = spool.arrays()
        mels, seconds, kept = [every[i] for i in chosen], [seconds[i] for i in chosen], [kept[i] for i in chosen]
        spoken = [spoken[i] for i in chosen]
        self._write(folder, kept, mels, tokens, spoken, seconds, symbols, dropped)
        spool.path.unlink()

    def _phonemes(self, recordings: Sequence[Recording]) -> list[str]:
        """Phonemes of all texts, one call per language."""
        result = [""] * len(recordings)
        for language in sorted({recording.language for recording in recordings}):
            places = [i for i, recording in enumerate(recordings) if recording.language == language]
            phonemizer = make_phonemizer(self.phonemes, language)
            for i, phonemes in zip(places, phonemizer.phonemes([recordings[i].text for i in places]), strict=True):
                result[i] = phonemes
        return result

    def _write(
        self,
        folder: Path,
        kept: list[Recording],
        mels: list[np.ndarray],
        tokens: list[list[int]],
        spoken: list[str],
        seconds: list[float],
        symbols: tuple[str, ...],
        dropped: Counter[str],
    ) -> None:
        speakers = sorted({recording.speaker for recording in kept})
        languages = sorted({recording.language for recording in kept})
        splits = [recording.split or split_of(recording.text) for recording in kept]
        mean, std = _moments([mel for mel, split in zip(mels, splits, strict=True) if split == "train"] or mels)
        rows: dict[str, list[Any]] = {
            "key": [r.key for r in kept],
            "text": [r.text for r in kept],
            "phonemes": spoken,
            "speaker": [speakers.index(r.speaker) for r in kept],
            "language": [languages.index(r.language) for r in kept],
            "split": [SPLITS.index(split) for split in splits],
            "seconds": [round(s, 4) for s in seconds],
            "frames": [len(mel) for mel in mels],
            "tokens": [len(numbers) for numbers in tokens],
        }
        table = SymbolTable(symbols)
        for recording, phonemes, mel in zip(kept, spoken, mels, strict=True):
            for name, value in self.columns(recording, phonemes, table, len(mel)).items():
                rows.setdefault(name, []).append(value)
        manifest = {
            "format": FORMAT,
            "name": type(self).__name__,
            "settings": self._all_settings(),
            "mel": asdict(self.config),
            "mel_mean": mean,
            "mel_std": std,
            "symbols": list(symbols),
            "phonemes": self.phonemes,
            "speakers": speakers,
            "languages": languages,
            "dropped": dict(dropped),
            "licence": self.licence,
            "attribution": list(self.attribution),
            "rows": rows,
        }
        shape = (sum(map(len, mels)), mels[0].shape[1])
        packed = np.lib.format.open_memmap(folder / "mel.npy", mode="w+", dtype=np.float16, shape=shape)
        first = 0
        for mel in mels:
            packed[first : first + len(mel)] = mel
            first += len(mel)
        packed.flush()
        np.save(folder / "tokens.npy", np.concatenate([np.asarray(numbers, dtype=np.int32) for numbers in tokens]))
        (folder / "manifest.json").write_text(json.dumps(manifest, ensure_ascii=False), encoding="utf-8")


def _moments(mels: Sequence[np.ndarray]) -> tuple[float, float]:
    """Mean and standard deviation over all values, in float64."""
    count = sum(mel.size for mel in mels)
    mean = sum(float(mel.sum(dtype=np.float64)) for mel in mels) / count
    square = sum(float(np.square(mel.astype(np.float64) - mean).sum()) for mel in mels) / count
    return round(mean, 6), round(square**0.5, 6)
