"""Fetching data from a Debian archive without root: ``apt-get download`` and ``dpkg -x`` in folders of our own."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from flowkit.errors import UserError

_SECONDS = 600


def _run(command: list[str], folder: Path) -> str:
    """Run, return what was said; raises ``UserError`` with the last line of the error."""
    environment = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"{command[0]} did not work: {error}") from error
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        failed = next((line for line in lines if line.startswith("E:")), lines[-1] if lines else "no message")
        raise UserError(f"{command[0]} failed: {failed}")
    return done.stdout


def fetch(packages: Sequence[str], folder: Path, *, instead: str) -> list[Path]:
    """Download packages by name into ``folder`` and return their files; those already there are kept.

    Args:
        packages: names of Debian packages.
        folder: where the ``.deb`` files are kept.
        instead: what the user can do where there is no Debian archive (end of the error's sentence).

    Raises:
        UserError: there is no apt-get or dpkg, or the archive cannot be reached.
    """
    missing = [name for name in packages if not _found(name, folder)]
    if missing:
        for tool in ("apt-get", "dpkg"):
            if shutil.which(tool) is None:
                raise UserError(
                    f"the recordings come from Debian packages and {tool} is not on this machine: {instead}"
                )
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch.", dir=folder) as temporary:
            try:
                _download(missing, Path(temporary))
            except UserError as error:
                raise UserError(
                    f"cannot fetch {', '.join(missing)} from a Debian archive ({error}): {instead}"
                ) from error
            for file in Path(temporary).glob("*.deb"):
                os.replace(file, folder / file.name)
    return [_found(name, folder)[-1] for name in packages]


def _found(package: str, folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{package}_*.deb"))


def _download(packages: Sequence[str], folder: Path) -> None:
    command = ["apt-get", "-q", "-o", "APT::Sandbox::User=root"]
    try:
        _run([*command, "download", *packages], folder)
        return
    except UserError:
        pass
    # No package lists, or old ones: keep lists of our own, which needs no root.
    state = folder / "apt"
    for part in ("lists/partial", "cache/archives/partial"):
        (state / part).mkdir(parents=True)
    own = {
        "Dir::State::Lists": state / "lists",
        "Dir::Cache": state / "cache",
        "Debug::NoLocking": "1",
        "APT::Update::Error-Mode": "any",
    }
    for name, value in own.items():
        command += ["-o", f"{name}={value}"]
    _run([*command, "update"], folder)
    _run([*command, "download", *packages], folder)


def unpack(file: Path, folder: Path) -> None:
    """Unpack the files of a package below ``folder``; nothing is installed and nothing in the package runs."""
    folder.mkdir(parents=True, exist_ok=True)
    _run(["dpkg", "-x", str(file), str(folder)], folder)
