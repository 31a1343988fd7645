"""What a rollout leaves behind: one record an episode, streamed to ``episodes.jsonl`` so that nothing done is lost."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from flowkit import atomic
from flowkit.errors import UserError, writing

EPISODES, SETTINGS = "episodes.jsonl", "rollout.json"


@dataclass(frozen=True)
class Decision:
    """One plan of a policy.

    Args:
        step: of the episode at which the plan was made.
        nfe: evaluations of the flow's field.
        network_calls: calls of networks (guidance and separate networks count each).
        seconds: that the planning call took, for all its rows together.
        batch: rows planned in that call.
        sigma: predicted spread at t = 0 (root mean square an element), or None where the policy predicts none.
        mode: the environment's mode (``info["mode"]``) when the plan was made, or None.
    """

    step: int
    nfe: float
    network_calls: float
    seconds: float
    batch: int
    sigma: float | None = None
    mode: int | None = None


_COLUMNS = tuple(f.name for f in fields(Decision))


@dataclass(frozen=True)
class EpisodeRecord:
    """One episode.

    Args:
        start: seed of the environment's reset.
        success: the environment said so before the episode ended.
        reward: sum of the rewards.
        max_reward: largest reward of a step (0 for an episode without steps).
        length: steps taken, the one that ended the episode included.
        jerk: mean norm of the second difference of the actions taken, or None under three actions.
        mode: which of the environment's ways was taken (a lane, a route), or None.
        decisions: the plans in order.
        failed: why the environment broke down, in one line, or "".
    """

    start: int
    success: bool
    reward: float
    max_reward: float
    length: int
    jerk: float | None = None
    mode: int | None = None
    decisions: tuple[Decision, ...] = field(default=())
    failed: str = ""

    @property
    def switches(self) -> int:
        """How often the mode changed from one plan to the next (the end of the episode counts as a plan)."""
        modes = [d.mode for d in self.decisions if d.mode is not None]
        modes += [] if self.mode is None else [self.mode]
        return sum(a != b for a, b in itertools.pairwise(modes))

    def to_json(self) -> dict[str, Any]:
        """A plain dict; decisions as columns."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "decisions"}
        return {**plain, "decisions": {name: [getattr(d, name) for d in self.decisions] for name in _COLUMNS}}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> EpisodeRecord:
        """The inverse of :meth:`to_json`."""
        columns = plain["decisions"]
        rows = zip(*(columns[name] for name in _COLUMNS), strict=True)
        decisions = tuple(Decision(**dict(zip(_COLUMNS, row, strict=True))) for row in rows)
        return cls(**{**plain, "decisions": decisions})

    def outcome(self) -> tuple[Any, ...]:
        """Everything that the same policy, start and seed give again: all but times and batch sizes."""
        plans = tuple((d.step, d.nfe, d.network_calls, d.mode) for d in self.decisions)
        numbers = (self.start, self.success, self.reward, self.max_reward, self.length, self.mode)
        return (*numbers, plans, self.failed)


class RolloutLog:
    """A folder with ``rollout.json`` (what is rolled out) and ``episodes.jsonl`` (a line an episode, as it ends).

    Args:
        folder: is made if missing.
        settings: what decides the episodes (policy, environment, seeds, sampler); to go on they must be the same.
        resume: go on with the episodes that the folder holds; episodes in which the environment broke down run again.

    Raises:
        UserError: the folder holds episodes and ``resume`` is False, or they are of other settings, or damaged.
    """

    def __init__(self, folder: str | Path, settings: Mapping[str, Any], *, resume: bool = False) -> None:
        self.folder = Path(folder)
        self.settings = json.loads(json.dumps(dict(settings), default=str))
        self._records: dict[int, EpisodeRecord] = {}
        with writing(self.folder, "episodes to "):
            self.folder.mkdir(parents=True, exist_ok=True)
        found = self.path.is_file() and self.path.stat().st_size > 0
        if found and not resume:
            raise UserError(f"{self.folder} holds the episodes of a rollout: --resume goes on, or choose another --out")
        if resume and (self.folder / SETTINGS).is_file():
            self._check(self._read_settings())
            self._records = {r.start: r for r in read_episodes(self.path) if not r.failed} if found else {}
        elif found:
            raise UserError(f"{self.folder} holds episodes without {SETTINGS}: they cannot be gone on with")
        with writing(self.folder, "episodes to "):
            atomic.write_json(self.folder / SETTINGS, self.settings)
            self._rewrite(self._records.values())
        self._file: Any = None

    @property
    def path(self) -> Path:
        """``episodes.jsonl``."""
        return self.folder / EPISODES

    @property
    def records(self) -> dict[int, EpisodeRecord]:
        """The episodes so far, by start."""
        return dict(self._records)

    def add(self, record: EpisodeRecord) -> None:
        """Append a line and wait until it is on the disk."""
        self._records[record.start] = record
        with writing(self.path):
            if self._file is None:
                self._file = self.path.open("a", encoding="utf-8")
            self._file.write(json.dumps(record.to_json()) + "\n")
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Put the lines into the order of their starts: the file does not tell how many environments ran at once."""
        if self._file is not None:
            self._file.close()
            self._file = None
        with writing(self.path):
            self._rewrite(self._records[start] for start in sorted(self._records))

    def _rewrite(self, records: Iterable[EpisodeRecord]) -> None:
        atomic.write_text(self.path, "".join(json.dumps(r.to_json()) + "\n" for r in records))

    def _read_settings(self) -> dict[str, Any]:
        try:
            return dict(json.loads((self.folder / SETTINGS).read_text(encoding="utf-8")))
        except (ValueError, TypeError):
            raise UserError(f"{self.folder / SETTINGS} is damaged: it is no JSON object") from None

    def _check(self, earlier: Mapping[str, Any]) -> None:
        for key in sorted({*earlier, *self.settings}):
            if earlier.get(key) != self.settings.get(key):
                raise UserError(
                    f"{self.folder}: its episodes have {key} {earlier.get(key)!r}, not {self.settings.get(key)!r}: "
                    "give the same options to go on, or another --out"
                )


def read_episodes(path: str | Path) -> list[EpisodeRecord]:
    """The records of an ``episodes.jsonl``; a last line that a killed process left unfinished is passed over.

    Raises:
        UserError: there is no such file, or a line before the last one is damaged.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    records = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            records.append(EpisodeRecord.from_json(json.loads(line)))
        except (ValueError, KeyError, TypeError):
            if number == len(lines):  # no newline after it: its writing was cut off
                break
            raise UserError(f"{path}: line {number} is no episode") from None
    return records
