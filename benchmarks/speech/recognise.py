"""Speech recognition with what ships inside the pocketsphinx package: closed set (a grammar) and open vocabulary.

It is a floor, not the truth: it mishears recordings too, so a figure means something only beside that of the recordings
in the same table. Every clip gets 0.2 s of silence on both sides and noise of deviation 1e-4 (digital silence upsets
the front end), from a seed that the samples themselves set, so a clip always gets the same answer. Answers are cached
on disk under a hash of the audio and of the grammar.
"""

# The recognisers are an extra ([bench]): the checker may not find them.
# pyright: reportMissingImports=false
from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from flowkit import atomic

RATE = 16_000
SILENCE = 0.2
NOISE = 1e-4


def recogniser_input(audio: np.ndarray, draw: int = 0) -> np.ndarray:
    """int16 samples: ``audio`` (float, 16 kHz, in [-1, 1]) with silence on both sides and one draw of the noise."""
    pad = np.zeros(int(SILENCE * RATE), dtype=np.float32)
    padded = np.concatenate([pad, np.asarray(audio, dtype=np.float32), pad])
    seed = int.from_bytes(hashlib.sha256(np.ascontiguousarray(padded).tobytes()).digest()[:8], "little")
    noisy = padded + NOISE * np.random.default_rng([seed, draw]).standard_normal(len(padded)).astype(np.float32)
    return (np.clip(noisy, -1.0, 1.0) * 32767).astype(np.int16)


class AnswerCache:
    """A folder of small JSON files, one an answer, named by the hash of all that decides it."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def get(self, *parts: bytes | str) -> tuple[str, Any | None]:
        """The key for ``parts`` and the stored answer, or None."""
        digest = hashlib.sha256()
        for part in parts:
            digest.update(part.encode() if isinstance(part, str) else part)
            digest.update(b"\0")
        key = digest.hexdigest()
        if self.folder is not None and (self.folder / f"{key}.json").exists():
            return key, json.loads((self.folder / f"{key}.json").read_text(encoding="utf-8"))
        return key, None

    def put(self, key: str, answer: Any) -> None:
        """Store ``answer`` atomically."""
        if self.folder is None:
            return
        atomic.write_json(self.folder / f"{key}.json", answer)


class OpenVocabulary:
    """pocketsphinx with its own US English models and language model: what was said, any words."""

    def __init__(self, cache: AnswerCache) -> None:
        self.cache = cache

    @cached_property
    def _decoder(self) -> Any:
        from pocketsphinx import Decoder

        return Decoder(samprate=RATE, loglevel="FATAL")

    def __call__(self, audio: np.ndarray, draw: int = 0) -> str:
        """The words heard in ``audio`` (float, 16 kHz), lower case, digits of alternative pronunciations stripped."""
        samples = recogniser_input(audio, draw).tobytes()
        key, answer = self.cache.get("open", samples)
        if answer is None:
            answer = _heard(self._decoder, samples)
            self.cache.put(key, answer)
        return answer


class ClosedSet:
    """pocketsphinx with a grammar of whole sentences: which of ``sentences`` was said.

    ``sentences`` are lists of words; every word must be in the dictionary of :func:`dictionary`.
    """

    def __init__(self, sentences: Sequence[Sequence[str]], cache: AnswerCache) -> None:
        self.sentences = [" ".join(words) for words in sentences]
        self.cache = cache
        rules = " | ".join(self.sentences)
        self.grammar = f"#JSGF V1.0;\ngrammar prompts;\npublic <prompt> = {rules} ;\n"

    @cached_property
    def _decoder(self) -> Any:
        from pocketsphinx import Decoder

        decoder = Decoder(samprate=RATE, loglevel="FATAL", lm=None)
        decoder.add_jsgf_string("prompts", self.grammar)
        decoder.activate_search("prompts")
        return decoder

    def __call__(self, audio: np.ndarray) -> str:
        """The sentence heard in ``audio`` (float, 16 kHz), one of ``sentences``, or "" where none fits."""
        samples = recogniser_input(audio).tobytes()
        key, answer = self.cache.get("closed", self.grammar, samples)
        if answer is None:
            answer = _heard(self._decoder, samples)
            self.cache.put(key, answer)
        return answer


def _heard(decoder: Any, samples: bytes) -> str:
    # A fresh front end: means carried over from the last clip would make the answers depend on the order.
    decoder.reinit_feat()
    decoder.start_utt()
    decoder.process_raw(samples, no_search=False, full_utt=True)
    decoder.end_utt()
    hypothesis = decoder.hyp()
    return "" if hypothesis is None else re.sub(r"\(\d+\)", "", hypothesis.hypstr).strip()


def dictionary() -> frozenset[str]:
    """The words that the recogniser knows."""
    from pocketsphinx import get_model_path

    path = Path(get_model_path()) / "en-us" / "cmudict-en-us.dict"
    with path.open(encoding="utf-8") as lines:
        return frozenset(re.sub(r"\(\d+\)$", "", line.split(maxsplit=1)[0]) for line in lines if line.strip())
