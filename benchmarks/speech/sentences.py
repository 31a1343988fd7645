"""The sentences of the speech benchmark: 22 recordings that no model trains on, 100 candidates for the closed set."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence

from flowkit.errors import UserError

#: The test clips of the English prompts with three words or more, all known to the recogniser, under nine seconds.
UNSEEN = (
    "auth-incorrect", "conf-kicked", "conf-muted", "conf-onlyone", "conf-userswilljoin", "confbridge-inc-list-vol-in",
    "confbridge-inc-list-vol-out", "confbridge-menu-exit-in", "confbridge-menu-exit-out", "confbridge-muted",
    "confbridge-only-one", "confbridge-removed", "demo-nomatch", "dir-nomatch", "entr-num-rmv-blklist",
    "info-about-last-call", "pm-invalid-option", "ss-noservice", "vm-dialout", "vm-star-cancel", "vm-tempremoved",
    "vm-whichbox",
)  # fmt: skip
CANDIDATES = 100
LONGEST = 9.0


def words(text: str) -> list[str]:
    """Lower-case words, digits spelled out, punctuation gone; apostrophes inside words stay.

    >>> words("I'm sorry: press 12, 'now'...")
    ["i'm", 'sorry', 'press', 'twelve', 'now']
    """
    if re.search(r"\d", text):
        from domains.speech.text import spell_numbers

        text = spell_numbers(text)
    return [word for part in re.sub(r"[^a-z']+", " ", text.lower()).split() if (word := part.strip("'"))]


def judged(texts: Mapping[str, str], seconds: Mapping[str, float], known: Collection[str]) -> list[str]:
    """The keys of the sentences that can be judged: three words or more, all known to the recogniser, no digits, under
    nine seconds."""

    def fits(key: str, text: str) -> bool:
        said = words(text)
        in_reach = len(said) >= 3 and seconds[key] < LONGEST and not re.search(r"\d", text)
        return in_reach and all(word in known for word in said)

    return [key for key, text in sorted(texts.items()) if fits(key, text)]


def candidates(
    spoken: Iterable[Sequence[str]], corpus: Mapping[str, float], known: Collection[str], number: int = CANDIDATES
) -> list[list[str]]:
    """``number`` different sentences for the closed-set test: those spoken first, then others of the corpus.

    Args:
        spoken: sentences (words) that will be said; each must be in the grammar.
        corpus: text -> seconds of the recordings to fill up from: sentences of three known words or more, under nine
            seconds, without digits.
        known: the recogniser's dictionary.
        number: how many in all.
    """
    chosen = dict.fromkeys(" ".join(sentence) for sentence in spoken)
    for sentence in chosen:
        if strange := [word for word in sentence.split() if word not in known]:
            raise UserError(
                f"the closed-set test cannot hold {sentence!r}: the recogniser does not know {strange[0]!r}"
            )
    # The order of a hash: a fixed, arbitrary choice that does not favour any letter or topic.
    texts = {
        " ".join(words(text)) for text, seconds in corpus.items() if seconds < LONGEST and not re.search(r"\d", text)
    }
    others = sorted(texts, key=lambda text: hashlib.md5(text.encode(), usedforsecurity=False).hexdigest())
    for text in others:
        if len(chosen) >= number:
            break
        if len(text.split()) >= 3 and all(word in known for word in text.split()):
            chosen.setdefault(text)
    if len(chosen) < number:
        raise UserError(
            f"only {len(chosen)} of {number} candidate sentences: the corpus is too small for the closed-set test"
        )
    return [text.split() for text in chosen]
