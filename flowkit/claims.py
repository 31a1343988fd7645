"""What a method claims, what we measured of it, and how to repeat that: the record that ``flowkit list methods`` shows.

A plug-in's class carries its record itself, as ``claim = Claim(...)``. Those of the kit stand together in
``claims.yaml``, a key for each class: figures are updated there, and nowhere else in the code.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from importlib import resources
from typing import Any

from flowkit.errors import UserError

#: A number of arXiv, new style.
PAPER = re.compile(r"\d{4}\.\d{4,5}")


@dataclass(frozen=True)
class Claim:
    """One method's record; each text is a sentence or a few.

    Args:
        claim: what the paper promises.
        measured: what we found, with the machine-independent figures; "" where nothing was measured yet.
        recipe: the recipe that trains it.
        command: what repeats it, where the recipe alone does not (a teacher, pairs).
        benchmark: the script that measures the claim.
        paper: number of arXiv, "" where there is none.
        page: in docs/methods, without its ending.
    """

    claim: str
    measured: str = ""
    recipe: str = ""
    command: str = ""
    benchmark: str = ""
    paper: str = ""
    page: str = ""

    def __post_init__(self) -> None:
        if not self.claim:
            raise UserError("a Claim says what is promised: claim must not be empty")
        if self.paper and not PAPER.fullmatch(self.paper):
            raise UserError(f"paper {self.paper!r} is no number of arXiv, such as 2210.02747")

    def record(self) -> dict[str, Any]:
        """As plain data, without what is empty."""
        return {name: value for name, value in asdict(self).items() if value}


@functools.cache
def claims() -> Mapping[str, Claim]:
    """The kit's records by class name."""
    from flowkit.config.yamlfile import parse_yaml

    text = (resources.files("flowkit") / "claims.yaml").read_text(encoding="utf-8")
    known = {field.name for field in fields(Claim)}
    found = {}
    for name, record in parse_yaml(text, "flowkit/claims.yaml").items():
        strange = set(record) - known
        if strange:
            raise UserError(f"flowkit/claims.yaml: {name} has no {sorted(strange)[0]!r}")
        found[name] = Claim(**{key: " ".join(str(value).split()) for key, value in record.items()})
    return found


def claim_of(cls: type) -> Claim | None:
    """The record of a class: its own attribute ``claim``, else the kit's, or None."""
    own = vars(cls).get("claim")
    if isinstance(own, Claim):
        return own
    return claims().get(cls.__name__) if cls.__module__.startswith(("flowkit.", "domains.")) else None
