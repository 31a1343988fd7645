"""English sentences by rule: a small vocabulary of our own in a few patterns, equal for equal seeds."""

from __future__ import annotations

import re

from flowkit.random import mix_seed

_WORDS = {
    "adjective": "old quiet young clever yellow heavy gentle broken narrow golden frozen distant cheerful enormous "
    "curious hungry silver patient muddy foreign friendly purple famous sleepy wooden",
    "person": "sailor teacher painter doctor farmer child neighbour driver singer baker captain judge gardener tailor "
    "writer engineer visitor cousin student pilot",
    "thing": "boat ladder kettle violin window basket lantern carpet engine hammer bottle garden picture village "
    "bridge mirror pencil suitcase telescope umbrella orange treasure machine feather journal",
    "animal": "horse fox dragonfly whale sparrow turtle goose donkey tiger rabbit beetle shepherd",
    "did": "carried painted noticed repaired followed measured borrowed polished discovered forgot watched "
    "described sold finished admired opened pushed chose buried photographed",
    "does": "carries needs likes hears follows remembers finds draws changes avoids",
    "place": "near the river|behind the church|in the kitchen|under the bridge|across the valley|beside the road|"
    "at the station|on the roof|by the harbour|through the forest|above the clouds|outside the theatre",
    "when": "yesterday|before breakfast|after the storm|every winter|at noon|last Thursday|in the evening|"
    "once again|without a word|during the journey|this morning|as usual",
    "how": "quickly quietly carefully proudly slowly gladly badly eagerly softly thoughtfully",
    "number": "two three four five six seven eight nine ten eleven twelve thirteen twenty thirty fifty",
    "name": "Martha Oliver Judith George Vivian Shawn Theodore Zoe Hugh Penelope Charles Beth",
}
_CHOICES = {slot: words.split("|") if "|" in words else words.split() for slot, words in _WORDS.items()}
_PATTERNS = (
    "The {adjective} {person} {did} the {thing} {place}.",
    "{name} {did} a {adjective} {thing} {when}.",
    "{when}, the {person} {how} {did} {number} {thing}s.",
    "Why does the {animal} sleep {place}?",
    "{name} and the {person} walked {place}, and nobody {did} the {thing}.",
    "Every {adjective} {animal} {does} the {person}, but {name} {does} the {thing}.",
    "Please bring {number} {thing}s and a {adjective} {thing}.",
    "Was it the {person} who {how} {did} my {thing}?",
    "There are {number} {animal}s {place}!",
    "{name} {does} the {thing}; the {person} {does} the {animal}.",
    "We waited {place} for {number} hours.",
    "The {thing} is {adjective}, {adjective} and {adjective}.",
    "{adjective} {thing}s.",
    "Good morning, {name}.",
    "The {animal} {how} {did} the {animal}.",
)
_SLOT = re.compile(r"\{(\w+)\}")


def sentence(seed: int, number: int) -> str:
    """Sentence ``number`` of the sequence with this seed."""
    draws = 0

    def draw(size: int) -> int:
        nonlocal draws
        draws += 1
        return mix_seed(seed, number, draws) % size

    pattern = _PATTERNS[draw(len(_PATTERNS))]
    text = _SLOT.sub(lambda match: _CHOICES[match[1]][draw(len(_CHOICES[match[1]]))], pattern)
    text = re.sub(r"\b([Aa]) (?=[aeio])", r"\1n ", text)
    return text[0].upper() + text[1:]


def sentences(count: int, seed: int = 0) -> list[str]:
    """The first ``count`` different sentences of a seed; a longer list begins with the shorter one."""
    found: dict[str, None] = {}
    number = 0
    while len(found) < count:
        found.setdefault(sentence(seed, number))
        number += 1
    return list(found)
