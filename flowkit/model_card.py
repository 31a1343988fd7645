"""The model card: what people should know about trained weights, and its text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Card:
    """What people should know about a model; becomes README.md.

    Args:
        title: one line.
        summary: what it does, for whom.
        data: where the data is from, who made it, under which licence.
        licence: of the weights (follows the data).
        metrics: name -> value, on what ``split`` names: a split of the data, or words.
        nfe: network calls per sample for those metrics, or None.
        limits: what it cannot do.
    """

    title: str = "A FlowKit model"
    summary: str = ""
    data: str = ""
    licence: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    split: str = "validation"
    nfe: float | None = None
    limits: str = ""


#: Licences that the hub knows by these names.
_LICENCES = (
    *("apache-2.0", "mit", "bsd-3-clause", "gpl-3.0", "cc0-1.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0"),
    *("cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0"),
)


def _metadata(card: Card, task: str) -> list[str]:
    """The block of YAML that the hub reads on top of a card, by which models are found."""
    lines = ["---", "library_name: flowkit", f"tags: [flow-matching, {task}]"]
    if card.licence.lower() in _LICENCES:
        lines.append(f"license: {card.licence.lower()}")
    elif card.licence:
        lines += ["license: other", f"license_name: {json.dumps(' '.join(card.licence.split()), ensure_ascii=False)}"]
    return [*lines, "---"]


def model_card(card: Card, recipe: str, info: Mapping[str, Any]) -> str:
    """The README.md of a model folder: what the Hugging Face hub reads, the card, the recipe's name and what
    ``flowkit.json`` holds."""
    lines = [*_metadata(card, str(info["task"])), "", f"# {card.title}", ""]
    if card.summary:
        lines += [card.summary, ""]
    lines += ["| | |", "|---|---|", f"| task | {info['task']} |", f"| parameters | {info['parameters']:,} |"]
    lines += [f"| made with | FlowKit {info['flowkit']}, recipe {recipe} (config.yaml) |"]
    lines += [f"| licence of the weights | {card.licence or 'not stated'} |", ""]
    lines += ["## Data", "", card.data or "not stated", ""]
    if card.metrics:
        calls = f", {card.nfe:g} network calls a sample" if card.nfe is not None else ""
        where = f"{card.split} split" if card.split in ("train", "validation", "test") else card.split
        lines += [f"## Metrics ({where}{calls})", "", "| metric | value |", "|---|---|"]
        lines += [f"| {name} | {value:.4g} |" for name, value in card.metrics.items()] + [""]
    if card.limits:
        lines += ["## Limits", "", card.limits, ""]
    lines += ["## Use", "", "```python", "import flowkit", "", 'pipeline = flowkit.load("THIS FOLDER")', "```", ""]
    return "\n".join(lines)
