"""The synthesiser inside espeak-ng, through ctypes: speech made by rule, with the start of every phoneme.

The shared library comes with the package espeakng-loader (GPL-3, optional); no system package and no download.
"""

from __future__ import annotations

import _ctypes
import ctypes
import shutil
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from flowkit.errors import UserError, nearest

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


class _Voice(ctypes.Structure):
    # The first fields; the rest is never read.
    _fields_ = (("name", ctypes.c_char_p), ("languages", ctypes.c_void_p), ("identifier", ctypes.c_char_p))


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


class _Library:
    """The library, freshly loaded: its state (wave phases, noise) then depends on nothing that was said before."""

    def __init__(self) -> None:
        try:
            import espeakng_loader
        except ImportError as error:
            raise UserError(
                "speech made by rule needs the optional package espeakng-loader: pip install espeakng-loader"
            ) from error
        self.data = Path(espeakng_loader.get_data_path())
        library = Path(espeakng_loader.get_library_path())
        try:
            # A copy: a phonemiser of the same process may hold the original, which then would never be unloaded.
            with tempfile.TemporaryDirectory(prefix="flowkit-espeak-", ignore_cleanup_errors=True) as folder:
                self.calls: Any = ctypes.CDLL(shutil.copy(library, folder))
        except OSError as error:
            raise UserError(f"the espeak-ng library of espeakng-loader does not load: {error}") from error
        self.calls.espeak_Synth.argtypes = [
            ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int, ctypes.c_uint, ctypes.c_uint,
            ctypes.c_void_p, ctypes.c_void_p,
        ]  # fmt: skip
        self.calls.espeak_ListVoices.restype = ctypes.POINTER(ctypes.POINTER(_Voice))
        self.calls.espeak_ng_SetRandSeed.argtypes = [ctypes.c_long]
        self.sample_rate: int = self.calls.espeak_Initialize(_SYNCHRONOUS, 0, str(self.data.parent).encode(), _OPTIONS)
        if self.sample_rate <= 0:
            raise UserError(f"espeak-ng does not start (code {self.sample_rate}): is espeakng-loader complete?")
        # ctypes keeps no reference of its own: the callback must live as long as the library may call it.
        self._callback = _Callback(self._receive)
        self.calls.espeak_SetSynthCallback(self._callback)
        self.calls.espeak_ng_SetRandSeed(1)
        self.sound: list[bytes] = []
        self.phonemes: list[tuple[str, int]] = []

    def close(self) -> None:
        """Stop and unload."""
        self.calls.espeak_Terminate()
        unload = getattr(_ctypes, "dlclose", None) or _ctypes.FreeLibrary  # pyright: ignore[reportAttributeAccessIssue]
        unload(self.calls._handle)

    def _receive(self, wave: Any, count: int, events: Any) -> int:
        i = 0
        while events[i].type != _LAST:
            if events[i].type == _PHONEME:
                # Eight bytes at most, so a long name may end inside a character.
                self.phonemes.append((events[i].id.string.decode(errors="ignore"), events[i].sample))
            i += 1
        if wave and count > 0:
            self.sound.append(ctypes.string_at(wave, 2 * count))
        return 0

    def languages(self) -> dict[str, str]:
        """The file of every language's voice."""
        voices = self.calls.espeak_ListVoices(None)
        found: dict[str, str] = {}
        i = 0
        while voices[i]:
            voice = voices[i].contents
            # The first byte is a priority.
            found[ctypes.string_at(voice.languages + 1).decode()] = voice.identifier.decode()
            i += 1
        return found

    def set_voice(self, voice: str) -> None:
        """Choose a voice; raises ``UserError`` with the nearest name."""
        base, plus, variant = voice.partition("+")
        # Listing opens some hundred files: once per process.
        languages = _languages or self.languages()
        _languages.update(languages)
        if base not in languages:
            raise UserError(f"espeak has no voice {voice!r}: {nearest(base, languages)}")
        variants = sorted(file.name for file in (self.data / "voices" / "!v").iterdir())
        # The library silently ignores a variant that it does not have.
        if plus and variant not in variants:
            raise UserError(f"espeak has no variant {variant!r} of the voice {base!r}: {nearest(variant, variants)}")
        if self.calls.espeak_SetVoiceByName(f"{languages[base]}{plus}{variant}".encode()) != 0:
            raise UserError(f"espeak cannot load its voice {voice!r}")


_lock = threading.Lock()
_languages: dict[str, str] = {}


def speak(text: str, voice: str = "en-us", *, rate: int = 175, pitch: int = 50) -> Spoken:
    """Synthesise ``text``; the same arguments give the same samples.

    Args:
        text: any text of the voice's language.
        voice: a language of espeak and perhaps a variant: ``en-us+f3``.
        rate: words per minute, 80 to 450.
        pitch: 0 to 100.

    Raises:
        UserError: espeakng-loader is not installed, there is no such voice, or nothing can be said.
    """
    with _lock:
        library = _Library()
        try:
            library.set_voice(voice)
            library.calls.espeak_SetParameter(_RATE, rate, 0)
            library.calls.espeak_SetParameter(_PITCH, pitch, 0)
            data = text.encode()
            code = library.calls.espeak_Synth(data, len(data) + 1, 0, 0, 0, _UTF8, None, None)
        finally:
            library.close()
    sound, phonemes = b"".join(library.sound), library.phonemes
    if code != 0 or not sound or not any(name for name, _ in phonemes):
        raise UserError(f"text {text!r} holds nothing that can be pronounced")
    wave = torch.from_numpy(np.frombuffer(sound, dtype="<i2").astype(np.float32) / 32768.0)
    return Spoken(wave, library.sample_rate, tuple(name for name, _ in phonemes), tuple(start for _, start in phonemes))
