"""Trace, write, verify, and only then put in place: a folder of programs with ``export.json``."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flowkit import atomic
from flowkit.config import plugins
from flowkit.errors import UserError
from flowkit.export.backends import BACKENDS, Runner
from flowkit.export.trace import draw, trace
from flowkit.programs import Exportable, Port, Program, planned, solutions
from flowkit.solvers.sampler import Sampler
from flowkit.tasks import Task
from flowkit.version import __version__

#: Version of the folder's format.
FORMAT = 1
INFO, CARD = "export.json", "README.md"
#: Largest difference from eager, as a share of the largest output where that is above 1.
TOLERANCE = 1e-4


def write_export(
    folder: str | Path, task: Task, sampler: Sampler, *, formats: Sequence[str] = ("onnx",), seed: int = 0,
    about: Mapping[str, Any] | None = None, tell: Callable[[str], object] = len,
) -> Path:  # fmt: skip
    """Export a trained task, whole or not at all.

    Every program is traced once, written in each format, opened as its users open it, and compared with the task on
    random inputs of the traced sizes and of others.

    Args:
        folder: must not exist or be empty.
        task: trained, on the CPU; put into evaluation mode.
        sampler: whose steps become part of the program.
        formats: of :data:`flowkit.export.backends.BACKENDS`.
        seed: of the random inputs.
        about: further plain data for ``export.json``: which run it was.
        tell: called with a line for each file.

    Raises:
        UserError: adaptive steps, an untrained task, a missing package, a folder that holds something, a network that
            cannot be traced, or a program that gives other numbers than the task.
    """
    folder = Path(folder)
    for name in formats:
        if name not in BACKENDS:
            raise UserError(f"no format {name!r}: there are {', '.join(BACKENDS)}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists: choose another name or remove it")
    planned(sampler)
    for name in formats:
        BACKENDS[name].check()
    task.eval()
    exportable = task.exports(sampler)

    def fill(temporary: Path) -> None:
        programs = {}
        for name, program in exportable.programs.items():
            programs[name] = _write_program(temporary, name, program, formats, seed, tell)
        info = {
            "format": FORMAT,
            "flowkit": __version__,
            "torch": torch.__version__,
            "plugin": type(task).__module__,
            "task": type(task).__name__,
            "formats": list(formats),
            "sampler": describe(sampler),
            **dict(about or {}),
            "programs": programs,
            "facts": dict(exportable.facts),
        }
        text = json.dumps(info, indent=1, ensure_ascii=False) + "\n"
        (temporary / INFO).write_text(text, encoding="utf-8")
        (temporary / CARD).write_text(_card(exportable, info), encoding="utf-8")

    try:
        atomic.write_folder(folder, fill)
    except OSError as error:
        raise UserError(f"{folder}: the export cannot be written: {plugins.one_line(error)}") from error
    return folder


def describe(sampler: Sampler) -> dict[str, Any]:
    """A sampler as plain data."""
    plan = sampler.stepping().plan((0.0, 1.0)) or ()
    return {
        "solver": type(sampler.solver).__name__,
        "steps": len(plan) - 1,
        "times": [float(t) for t in plan],
        "guidance": None if sampler.guidance is None else repr(sampler.guidance),
        "temperature": sampler.temperature,
    }


def _write_program(
    folder: Path, name: str, program: Program, formats: Sequence[str], seed: int, tell: Callable[[str], object]
) -> dict[str, Any]:
    """Write and verify one program; what ``export.json`` says of it."""
    try:
        files, errors = _write_files(folder, name, program, formats, seed, tell, loops=True)
    except UserError:  # a loop asks more of a network's code, of torch and of exporters than steps one after the other
        files, errors = _write_files(folder, name, program, formats, seed, tell, loops=False)
    return {
        "about": program.about,
        "files": files,
        "inputs": [_port(port) for port in program.inputs],
        "outputs": [_port(port) for port in program.outputs],
        "axes": {key: {"least": axis.least, "multiple": axis.multiple} for key, axis in program.axes.items()},
        **_cost(program, seed),
        "verified": {
            "sizes": {key: list(axis.sizes) for key, axis in program.axes.items()},
            "largest_difference": errors,
            "tolerance": TOLERANCE,
        },
    }


def _write_files(
    folder: Path, name: str, program: Program, formats: Sequence[str], seed: int, tell: Callable[[str], object], *,
    loops: bool,
) -> tuple[dict[str, Any], dict[str, float]]:  # fmt: skip
    """A program's files, and the largest difference of each from eager."""
    began = time.perf_counter()
    traced = trace(name, program, seed, loops=loops)
    files, errors = {}, {}
    for key in formats:
        path = folder / (name + BACKENDS[key].suffix)
        ports = [port.name for port in program.inputs], [port.name for port in program.outputs]
        try:
            BACKENDS[key].write(traced, path, inputs=ports[0], outputs=ports[1])
        except Exception as error:  # as in trace: exporters raise what they like
            raise UserError(
                f"the program {name} cannot be written as {key}: {plugins.one_line(error)[:300]}"
            ) from error
        errors[key] = verify(name, program, BACKENDS[key].open(path), seed=seed, where=key)
        files[key] = {"file": path.name, "bytes": path.stat().st_size, "sha256": file_hash(path)}
        tell(
            f"{path.name}: {path.stat().st_size / 2**20:.2f} MiB, differs from eager by at most {errors[key]:.1e} "
            f"({time.perf_counter() - began:.0f} s)"
        )
    return files, errors


def _cost(program: Program, seed: int) -> dict[str, int]:
    """Evaluations of the field and calls of networks, of a program that solves."""
    with torch.no_grad(), solutions() as seen:
        program.module(*draw(program, 0, seed))
    if not seen:
        return {}
    return {
        "evaluations": sum(int(solution.evaluations[0]) for solution in seen),
        "network_calls": sum(int(solution.network_calls[0]) for solution in seen),
    }


def verify(name: str, program: Program, runner: Runner, *, seed: int = 0, where: str = "") -> float:
    """The largest difference between a file and the module it was made of, on random inputs of all sizes.

    Differences are shares of the largest output where that is above 1.

    Raises:
        UserError: it is above :data:`TOLERANCE`, or a shape differs.
    """
    outputs = [port.name for port in program.outputs]
    worst = 0.0
    rounds = max((len(axis.sizes) for axis in program.axes.values()), default=1)
    for number in range(rounds):
        inputs = draw(program, number, seed)
        with torch.no_grad():
            made = program.module(*inputs)
        made = made if isinstance(made, tuple) else (made,)
        arrays = {port.name: value.numpy() for port, value in zip(program.inputs, inputs, strict=True)}
        found = runner(arrays, outputs)
        for key, value in zip(outputs, made, strict=True):
            wanted = value.double().numpy()
            if found[key].shape != wanted.shape:
                raise UserError(f"{name} ({where}): {key} has shape {found[key].shape}, eager gives {wanted.shape}")
            scale = max(1.0, float(np.abs(wanted).max(initial=0.0)))
            difference = float(np.abs(found[key].astype(np.float64) - wanted).max(initial=0.0)) / scale
            worst = float(np.maximum(worst, difference))  # unlike max, keeps what is no number
    if not worst <= TOLERANCE:
        raise UserError(
            f"the program {name} ({where}) differs from eager by {worst:.1e}, more than {TOLERANCE:g}: it is not kept"
        )
    return worst


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _port(port: Port) -> dict[str, Any]:
    return {
        "name": port.name,
        "dtype": str(port.dtype).removeprefix("torch."),
        "shape": list(port.shape),
        "about": port.about,
    }


def _card(exportable: Exportable, info: Mapping[str, Any]) -> str:
    """The folder's README.md."""
    sampler = info["sampler"]
    guidance = f", guidance {sampler['guidance']}" if sampler["guidance"] else ""
    lines = [
        f"# {info['task']} as {' and '.join(info['formats'])}", "",
        f"Exported by FlowKit {info['flowkit']} from {info.get('source', 'a task')}: {sampler['steps']} steps of "
        f"{sampler['solver']}{guidance}. Each file gave the numbers of eager torch to within {TOLERANCE:g} on random "
        "inputs of several sizes before it was put here. `export.json` holds all of this for programs.", "",
    ]  # fmt: skip
    for name, program in info["programs"].items():
        files = ", ".join(f"`{one['file']}`" for one in program["files"].values())
        lines += [f"## {name}", "", f"{program['about']} Files: {files}.", "", "| | name | type | shape | |"]
        lines += ["|---|---|---|---|---|"]
        for kind in ("inputs", "outputs"):
            lines += [
                f"| {kind[:-1]} | {port['name']} | {port['dtype']} | {', '.join(map(str, port['shape']))} | "
                f"{port['about']} |"
                for port in program[kind]
            ]
        for key, axis in program["axes"].items():
            if axis["least"] > 1 or axis["multiple"] > 1:
                lines += ["", f"`{key}` is at least {axis['least']} and a multiple of {axis['multiple']}."]
        lines.append("")
    if exportable.card:
        lines += ["## How the programs go together", "", exportable.card, ""]
    return "\n".join(lines)
