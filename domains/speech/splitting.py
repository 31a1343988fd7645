"""Long texts in pieces that a voice can say in one breath: sentences, and clauses of very long sentences."""

from __future__ import annotations

import re

#: A dot behind these is no end of a sentence.
_ABBREVIATED = re.compile(
    r"(?:\b(?:mrs?|ms|dr|st|prof|sr|jr|vs|etc|no|e\.g|i\.e|rev|lt|gen|sgt|capt|hon)|\b[^\W\d_])\.$", re.IGNORECASE
)
_END = re.compile(r"(?<=[.!?…])[\"'”’»)\]]*\s+")
_PAUSE = re.compile(r"(?<=[,;:—–])\s+")


def split_text(text: str, longest: int = 240) -> list[str]:
    """Pieces of ``text`` in order: sentences (a blank line ends one too); a piece of more than ``longest`` characters
    is cut at a pause, else between words.

    >>> split_text("Dr. Brown left.  Who knows why? Not me!")
    ['Dr. Brown left.', 'Who knows why?', 'Not me!']
    """
    pieces: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text):
        start = 0
        for match in _END.finditer(paragraph):
            if not _ABBREVIATED.search(paragraph[start : match.start()]):
                pieces.append(paragraph[start : match.end()])
                start = match.end()
        pieces.append(paragraph[start:])
    pieces = [" ".join(piece.split()) for piece in pieces]
    return [part for piece in pieces if piece for part in _shorten(piece, longest)]


def _shorten(piece: str, longest: int) -> list[str]:
    """``piece`` in parts of at most ``longest`` characters, cut at pauses where there are any."""
    if len(piece) <= longest:
        return [piece]
    parts: list[str] = []
    for clause in _PAUSE.split(piece):
        words = [clause] if len(clause) <= longest else clause.split()
        for word in words:
            if parts and len(parts[-1]) + 1 + len(word) <= longest:
                parts[-1] += " " + word
            else:
                parts.append(word)
    return parts
