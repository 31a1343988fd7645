"""Checkpoints of a run: ``checkpoints/<step>/{model,state}/``, links ``last`` and ``best``.

A checkpoint is written under a temporary name, flushed, sealed by ``complete.json`` (size and SHA-256 of each file) and
renamed. One that was cut short, by a kill, a full disk or a bad copy, lacks the seal or does not match it: it is never
taken.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

from flowkit import atomic
from flowkit.errors import UserError
from flowkit.train.together import Together

SEAL = "complete.json"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seal(folder: Path, **notes: Any) -> None:
    """Write ``complete.json``: every file with its size and hash, and ``notes``."""
    files = {
        str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": _digest(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    atomic.write_json(folder / SEAL, {**notes, "files": files})


def read_seal(folder: Path, *, hashes: bool = False) -> dict[str, Any] | None:
    """The notes of a whole checkpoint; None where a file is missing or differs in size (or content: ``hashes``)."""
    try:
        notes = json.loads((folder / SEAL).read_text(encoding="utf-8"))
        for name, facts in notes["files"].items():
            path = folder / name
            if path.stat().st_size != facts["bytes"] or (hashes and _digest(path) != facts["sha256"]):
                return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return notes


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: of the run; they lie in ``folder/checkpoints``.
        keep: newest ones to keep, 0 for all; the best is kept besides.
        mode: whether a small or a large score is good.
    """

    def __init__(self, folder: Path, *, keep: int = 2, mode: Literal["min", "max"] = "min") -> None:
        self.folder = Path(folder) / "checkpoints"
        self.keep, self.mode = keep, mode

    def path(self, step: int) -> Path:
        """Where the checkpoint of ``step`` lies."""
        return self.folder / f"{step:08d}"

    def _notes(self) -> dict[int, dict[str, Any]]:
        found = {}
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            if path.name.isdigit() and not path.is_symlink() and (notes := read_seal(path)) is not None:
                found[int(path.name)] = notes
        return dict(sorted(found.items()))

    def steps(self) -> list[int]:
        """Steps of whole checkpoints, ascending."""
        return list(self._notes())

    def best(self) -> tuple[int, float] | None:
        """Step and score of the best checkpoint, or None where none has a score."""
        scores = {step: notes["score"] for step, notes in self._notes().items() if notes.get("score") is not None}
        if not scores:
            return None
        step = (min if self.mode == "min" else max)(scores, key=lambda s: (scores[s], s))
        return step, scores[step]

    def save(
        self, step: int, fill: Callable[[Path], None], *, score: float | None = None,
        together: Together | None = None, **notes: Any,
    ) -> Path:  # fmt: skip
        """Write one checkpoint: ``fill`` writes into the empty folder that it is given (through ``atomic``).

        Args:
            step: of the training.
            fill: writes the files.
            score: by which the best is chosen.
            together: processes that all call this and fill the folder, each its part; the first one seals it when all
                have written. None: this process alone.
            notes: plain data for the seal.

        Raises:
            UserError: the disk is full; the temporary folder is removed and the earlier checkpoints are as they were.
        """
        final = self.path(step)
        temporary = self.folder / f".{final.name}.{os.getpid()}.writing"
        agreed = nullcontext if together is None else together.agreed
        main = together is None or together.main
        if together is not None:
            temporary = Path(together.tell(str(temporary)))
        try:
            with agreed():
                if main:
                    temporary.mkdir(parents=True, exist_ok=True)
            with agreed():
                fill(temporary)
            with agreed():
                if main:
                    self._publish(temporary, final, step=step, score=score, **notes)
        except Exception as error:
            if not atomic.is_disk_full(error):
                raise
            steps = [s for s in self.steps() if s != step]
            kept = f"the checkpoint of step {steps[-1]} is whole" if steps else "there is no earlier one"
            raise UserError(
                f"cannot save the checkpoint of step {step} in {self.folder}: the disk is full "
                f"({kept}); free some space or lower trainer.keep, then go on with --resume last"
            ) from error
        finally:
            if main:
                shutil.rmtree(temporary, ignore_errors=True)
        if main:
            self._prune()
        return final

    def _publish(self, temporary: Path, final: Path, **notes: Any) -> None:
        """Seal what was written and give it its name."""
        seal(temporary, **notes)
        # The files are on the disk (atomic.write saw to it); now their names.
        for path in [*(path for path in temporary.rglob("*") if path.is_dir()), temporary]:
            atomic.sync(path)
        if final.exists():
            self._set_aside(final)
        os.replace(temporary, final)
        atomic.sync(self.folder)
        self._link()

    def _link(self) -> None:
        steps, best = self.steps(), self.best()
        for name, step in (("last", steps[-1] if steps else None), ("best", best[0] if best is not None else None)):
            if step is not None:
                atomic.link(self.folder / name, self.path(step).name)
            else:
                (self.folder / name).unlink(missing_ok=True)

    def _prune(self) -> None:
        steps = self.steps()
        best = self.best()
        for step in steps[: -self.keep] if self.keep > 0 else []:
            if best is None or step != best[0]:
                # The seal goes first: a removal cut short must not leave what looks whole.
                (self.path(step) / SEAL).unlink(missing_ok=True)
                shutil.rmtree(self.path(step), ignore_errors=True)

    def _set_aside(self, path: Path) -> None:
        target = self.folder / "abandoned" / path.name
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(exist_ok=True)
        os.replace(path, target)

    def clean(self) -> None:
        """Remove what killed runs left half-written."""
        for path in self.folder.glob(".*.writing"):
            path.unlink() if path.is_symlink() or path.is_file() else shutil.rmtree(path, ignore_errors=True)

    def abandon_after(self, step: int) -> list[int]:
        """Set aside checkpoints later than ``step``: the run goes on from there and will write its own."""
        later = [s for s in self.steps() if s > step]
        for other in later:
            self._set_aside(self.path(other))
        if later:
            self._link()
        return later

    def find(self, which: str | int) -> tuple[int, Path] | None:
        """Step and folder of ``"last"``, ``"best"`` or a step, its hashes checked; None where there is none.

        Raises:
            UserError: that step does not exist or is damaged.
        """
        steps = self.steps()
        listing = ", ".join(map(str, steps)) or "none"
        if which == "best" and (best := self.best()) is not None:
            which = best[0]
        if str(which).isdigit():
            step = int(which)
            if step not in steps:
                raise UserError(f"no whole checkpoint of step {step} in {self.folder} (there are: {listing})")
            if read_seal(self.path(step), hashes=True) is None:
                raise UserError(f"the checkpoint {self.path(step)} is damaged: resume another (there are: {listing})")
            return step, self.path(step)
        if which not in ("last", "best"):
            raise UserError(f"cannot resume {which!r}: say last, best or a step (there are: {listing})")
        for step in reversed(steps):
            if read_seal(self.path(step), hashes=True) is not None:
                return step, self.path(step)
            print(f"passing over the damaged checkpoint {self.path(step)}", file=sys.stderr)
        return None


def load_json(path: Path) -> Mapping[str, Any]:
    """The JSON object in ``path``."""
    return json.loads(path.read_text(encoding="utf-8"))
