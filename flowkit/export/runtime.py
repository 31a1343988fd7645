"""Export folders, opened and run: arrays in, arrays out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flowkit.errors import UserError, nearest
from flowkit.export.backends import BACKENDS, Arrays, Runner
from flowkit.export.write import FORMAT, INFO, file_hash
from flowkit.version import __version__


class Exported:
    """The programs of an export folder::

        exported = open_export("exports/my-policy")
        exported("policy", state=state, noise=noise)["actions"]

    Args:
        folder: of the export.
        runtime: ``onnx`` or ``torch``; None takes the first format that the folder has.
        threads: of the runtime; 0 leaves it to the runtime.

    Attributes:
        info: what ``export.json`` says.
        facts: its part that tells scales, symbols, layouts.
        runtime: the one that is used.

    Raises:
        UserError: no export lies there, its files are damaged, or it has no such format.
    """

    def __init__(self, folder: str | Path, *, runtime: str | None = None, threads: int = 0) -> None:
        self.folder = Path(folder)
        self.info = read_info(self.folder)
        self.facts: Mapping[str, Any] = self.info["facts"]
        formats = self.info["formats"]
        self.runtime: str = formats[0] if runtime is None else runtime
        if self.runtime not in formats:
            raise UserError(f"{self.folder} holds no {self.runtime} programs, but {' and '.join(formats)}")
        self.threads = threads
        self._runners: dict[str, Runner] = {}

    def __contains__(self, program: str) -> bool:
        return program in self.info["programs"]

    def axis(self, program: str, name: str) -> tuple[int, int]:
        """The least size of a free dimension, and what its sizes are multiples of."""
        axis = self.info["programs"][program]["axes"][name]
        return int(axis["least"]), int(axis["multiple"])

    def __call__(self, program: str, **inputs: Any) -> Arrays:
        """Run a program; arrays are turned into its types.

        Raises:
            UserError: there is no such program, or inputs are missing, unknown or of another shape.
        """
        if program not in self:
            raise UserError(f"{self.folder} holds no program {program!r}: {nearest(program, self.info['programs'])}")
        wanted = self.info["programs"][program]
        names = [port["name"] for port in wanted["inputs"]]
        if set(names) != set(inputs):
            raise UserError(f"{program} takes {', '.join(names)}; it was given {', '.join(inputs) or 'nothing'}")
        arrays: Arrays = {}
        for port in wanted["inputs"]:
            value = np.asarray(inputs[port["name"]], dtype=port["dtype"])
            shape = port["shape"]
            if value.ndim != len(shape) or any(
                isinstance(size, int) and size != given for size, given in zip(shape, value.shape, strict=True)
            ):
                raise UserError(f"{program}: {port['name']} has shape {value.shape}, not {tuple(shape)}")
            arrays[port["name"]] = value
        return self._runner(program)(arrays, [port["name"] for port in wanted["outputs"]])

    def _runner(self, program: str) -> Runner:
        """Opened when it is first run; its file must be the one that was verified."""
        if program not in self._runners:
            file = self.info["programs"][program]["files"][self.runtime]
            path = self.folder / file["file"]
            if not path.is_file():
                raise UserError(f"{path} is missing: the folder is incomplete")
            if file_hash(path) != file["sha256"]:
                raise UserError(f"{path} is damaged: it is not the file that was verified; export again")
            self._runners[program] = BACKENDS[self.runtime].open(path, threads=self.threads)
        return self._runners[program]


def open_export(folder: str | Path, *, runtime: str | None = None, threads: int = 0) -> Exported:
    """See :class:`Exported`."""
    return Exported(folder, runtime=runtime, threads=threads)


def is_export(folder: str | Path) -> bool:
    """Does an export lie there?"""
    return (Path(folder) / INFO).is_file()


def read_info(folder: Path) -> dict[str, Any]:
    """What ``export.json`` says.

    Raises:
        UserError: it is missing, damaged or of a newer format.
    """
    path = folder / INFO
    if not path.is_file():
        raise UserError(f"{folder} is no export: it holds no {INFO}; flowkit export writes one")
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
        version = int(info["format"])
        for key in ("programs", "formats", "facts", "sampler"):
            info[key]
        if not info["formats"]:
            raise ValueError
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is damaged: it is not the JSON that flowkit export writes") from None
    if version > FORMAT:
        raise UserError(
            f"{path}: format {version} is newer than FlowKit {__version__} reads (up to {FORMAT}): upgrade flowkit-fm"
        )
    return info
