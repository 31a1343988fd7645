"""``flowkit list methods [NAME | all]``: what each method claims, what we measured, and how to repeat it."""

from __future__ import annotations

import textwrap
from typing import Any

from flowkit.cli import options
from flowkit.errors import UserError, nearest

_WIDTH = 110


def methods() -> list[dict[str, Any]]:
    """Objectives, couplings and commands, each with its record: ``name``, ``kind``, ``summary``, ``class`` and the
    fields of :class:`flowkit.claims.Claim`."""
    from flowkit.claims import claim_of, claims
    from flowkit.cli.list import classes, first_line

    found: list[dict[str, Any]] = []
    for kind, what in (("methods", "objective"), ("couplings", "coupling")):
        for name, cls in sorted(classes(kind).items()):
            record = claim_of(cls)
            path = f"{cls.__module__}.{cls.__qualname__}"
            own = {"name": name, "kind": what, "summary": first_line(cls), "class": path}
            found.append(own | (record.record() if record else {}))
    named = {entry["name"] for entry in found}
    found += [
        {"name": name, "kind": "command", "summary": record.claim, **record.record()}
        for name, record in claims().items() if name not in named
    ]  # fmt: skip
    return found


def show_methods(name: str | None, *, json: bool) -> None:
    """Print a line for each method, or all that is known of one, or of ``all``.

    Raises:
        UserError: there is no such method.
    """
    found = methods()
    if name == "all":
        options.print_json(found) if json else print("\n\n".join(map(described, found)))
        return
    if name:
        known = {entry["name"]: entry for entry in found}
        if name not in known:
            raise UserError(f"no method {name!r}; {nearest(name, known)}")
        found = [known[name]]
    if json:
        options.print_json(found[0] if name else found)
    elif name:
        print(described(found[0]))
    else:
        options.print_table(
            (entry["name"], entry["kind"], entry.get("paper", "-"), entry.get("claim") or entry["summary"])
            for entry in found
        )
        print("flowkit list methods NAME (or all): what was measured, and how to repeat it")


def described(entry: dict[str, Any]) -> str:
    """One method as text."""
    repeat = [f"flowkit train {entry['recipe']}"] if entry.get("recipe") else []
    repeat += [entry["command"]] if entry.get("command") else []
    repeat += [f"python benchmarks/{entry['benchmark']}"] if entry.get("benchmark") else []
    parts = {
        "claim": entry.get("claim", "none on record"),
        "measured": entry.get("measured", "not yet"),
        "repeat": "\n".join(repeat) or "nothing on record",
        "paper": f"https://arxiv.org/abs/{entry['paper']}" if entry.get("paper") else "-",
        "page": f"docs/methods/{entry['page']}.md" if entry.get("page") else "-",
    }
    lines = [f"{entry['name']} ({entry['kind']})", textwrap.fill(entry["summary"], _WIDTH)]
    for label, text in parts.items():
        wrapped = [part for line in text.splitlines() for part in textwrap.wrap(line, _WIDTH - 10) or [""]]
        lines += [f"{label if i == 0 else '':<10}{part}" for i, part in enumerate(wrapped)]
    return "\n".join(lines)
