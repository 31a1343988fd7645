"""The synthesiser inside espeak-ng, through ctypes: speech made by rule, with the start of every phoneme.

The shared library comes with the package espeakng-loader (GPL-3, optional); no system package and no download.
"""

from __future__ import annotations

import ctypes
import threading
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from flowkit.errors import UserError

_SYNCHRONOUS = 2
#: Phoneme events, their names in IPA, and no exit() of the process on errors.
_OPTIONS = 0x0001 | 0x0002 | 0x8000
_UTF8 = 1
_RATE, _PITCH = 1, 3
_LAST, _PHONEME = 0, 7


class _Name(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Name),
    )


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


@dataclass(frozen=True)
class Spoken:
    """One synthesised text.

    Args:
        wave: samples in [-1, 1].
        sample_rate: samples per second.
        phonemes: the phonemes in order (IPA with stress marks); an empty one is a pause.
        starts: first sample of every phoneme.
    """

    wave: Float[Tensor, " samples"]
    sample_rate: int
    phonemes: tuple[str, ...]
    starts: tuple[int, ...]

    def durations(self) -> list[float]:
        """Seconds of every phoneme: up to the start of the next one, or the end."""
        ends = (*self.starts[1:], self.wave.numel())
        return [(end - start) / self.sample_rate for start, end in zip(self.starts, ends, strict=True)]


class Synthesiser:
    """The library, initialised once for the process; calls are made one at a time."""

    def __init__(self) -> None:
        try:
            import espeakng_loader
        except ImportError as error:
            raise UserError(
                "speech made by rule needs the optional package espeakng-loader: pip install espeakng-loader"
            ) from error
        self._lock = threading.Lock()
        try:
            self._library: Any = ctypes.CDLL(espeakng_loader.get_library_path())
        except OSError as error:
            raise UserError(f"the espeak-ng library of espeakng-loader does not load: {error}") from error
        self._library.espeak_Synth.argtypes = [
            ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int, ctypes.c_uint, ctypes.c_uint,
            ctypes.c_void_p, ctypes.c_void_p,
        ]  # fmt: skip
        home = str(Path(espeakng_loader.get_data_path()).parent).encode()
        self.sample_rate: int = self._library.espeak_Initialize(_SYNCHRONOUS, 0, home, _OPTIONS)
        if self.sample_rate <= 0:
            raise UserError(f"espeak-ng does not start (code {self.sample_rate}): is espeakng-loader complete?")
        self._data = Path(espeakng_loader.get_data_path())
        # ctypes keeps no reference of its own: the callback must live as long as the library may call it.
        self._callback = _Callback(self._receive)
        self._library.espeak_SetSynthCallback(self._callback)
        self._sound: list[bytes] = []
        self._phonemes: list[tuple[str, int]] = []

    def _receive(self, wave: Any, count: int, events: Any) -> int:
        i = 0
        while events[i].type != _LAST:
            if events[i].type == _PHONEME:
                # Eight bytes at most, so a long name may end inside a character.
                self._phonemes.append((events[i].id.string.decode(errors="ignore"), events[i].sample))
            i += 1
        if wave and count > 0:
            self._sound.append(ctypes.string_at(wave, 2 * count))
        return 0

    def _set_voice(self, voice: str) -> None:
        base, _, variant = voice.partition("+")
        # A missing variant is silently ignored by the library.
        known = not variant or (self._data / "voices" / "!v" / variant).is_file()
        if not known or self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise UserError(
                f"espeak has no voice {voice!r}: give a language such as en-us, perhaps with a "
                f"variant f1 to f5 or m1 to m8 after a plus sign ({base}+f3)"
            )

    def speak(self, text: str, voice: str = "en-us", *, rate: int = 175, pitch: int = 50) -> Spoken:
        """Synthesise ``text``; the same arguments give the same samples.

        Args:
            text: any text of the voice's language.
            voice: a language of espeak and perhaps a variant: ``en-us+f3``.
            rate: words per minute, 80 to 450.
            pitch: 0 to 100.

        Raises:
            UserError: there is no such voice, or nothing can be said.
        """
        with self._lock:
            # Some voices carry state from one text to the next unless they are loaded anew.
            self._set_voice(voice)
            self._library.espeak_SetParameter(_RATE, rate, 0)
            self._library.espeak_SetParameter(_PITCH, pitch, 0)
            self._sound, self._phonemes = [], []
            data = text.encode()
            code = self._library.espeak_Synth(data, len(data) + 1, 0, 0, 0, _UTF8, None, None)
            sound, phonemes = b"".join(self._sound), self._phonemes
        if code != 0 or not sound or not any(name for name, _ in phonemes):
            raise UserError(f"text {text!r} holds nothing that can be pronounced")
        wave = torch.from_numpy(np.frombuffer(sound, dtype="<i2").astype(np.float32) / 32768.0)
        return Spoken(wave, self.sample_rate, tuple(n for n, _ in phonemes), tuple(start for _, start in phonemes))


@lru_cache(maxsize=1)
def synthesiser() -> Synthesiser:
    """The process's synthesiser."""
    return Synthesiser()
