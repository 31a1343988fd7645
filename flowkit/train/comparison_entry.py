"""An entry of a comparison: an objective with its settings, as a command line names it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flowkit.config.overrides import Override
from flowkit.config.yamlfile import read_yaml
from flowkit.errors import UserError

#: Settings of an entry that are a key of the recipe, not of the objective.
SECTIONS = ("data", "task", "trainer", "sampler")
_SHARE = re.compile(r"^(\d+(?:\.\d+)?)%$")


@dataclass(frozen=True)
class Entry:
    """One objective of a comparison.

    Args:
        name: as it was written, and as tables name it.
        changes: overrides of the recipe, in order; a value such as ``50%`` is a share of the training's steps.
        pairs: trained on so many pairs of the plain entry, 0 for data.
    """

    name: str
    changes: tuple[Override, ...]
    pairs: int = 0

    @classmethod
    def parse(cls, text: str) -> Entry:
        """``ConsistencyFM:segments=2:anchored_steps=50%``, ``FlowMatching:coupling=MinibatchOT``,
        ``FlowMatching:pairs=30000``, ``DDIM``-like settings of the recipe with their section
        (``RectifiedDiffusion:pairs=30000:sampler.solver=DDIM``), or a YAML file that holds an objective as a recipe
        writes it.

        Raises:
            UserError: it is written otherwise.
        """
        name, *settings = re.split(r":(?=[A-Za-z_][\w.]*=)", text)
        if name.endswith((".yaml", ".yml")):
            objective = read_yaml(Path(name))
            if not isinstance(objective, Mapping) or "class_path" not in objective:
                raise UserError(f"--objectives {name}: the file must hold an objective: class_path, and init_args")
            changes: list[Override] = [("task.objective", json.dumps(objective))]
        elif not re.fullmatch(r"[A-Za-z_][\w.]*", name):
            raise UserError(
                f"--objectives {text!r}: write a class and its settings, as ConsistencyFM:segments=2, or a YAML file"
            )
        else:
            changes = [("task.objective", name)]
        pairs = 0
        for setting in settings:
            key, _, value = setting.partition("=")
            if key == "pairs":
                if not value.isdigit() or int(value) < 1:
                    raise UserError(f"--objectives {text!r}: pairs={value}: a number of pairs, 1 or more")
                pairs = int(value)
            else:
                changes.append((key if key.split(".")[0] in SECTIONS else f"task.objective.{key}", value))
        return cls(text, tuple(changes), pairs)

    def overrides(self, steps: int) -> list[Override]:
        """The changes for a training of ``steps`` steps, 0 where time ends it.

        Raises:
            UserError: a share of steps that nobody knows.
        """
        made = []
        for path, value in self.changes:
            if found := _SHARE.match(value):
                if not steps:
                    raise UserError(f"--objectives {self.name}: {value} is a share of the steps: train for --steps N")
                value = str(round(float(found[1]) / 100.0 * steps))
            made.append((path, value))
        return made

    @property
    def folder(self) -> str:
        """A name for files."""
        return re.sub(r"[^\w.=-]+", "_", Path(self.name).name if "/" in self.name else self.name)
