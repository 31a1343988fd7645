"""Where shards lie: folders, on as many disks as there are, and addresses that webdataset can open."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urlparse

from flowkit import atomic
from flowkit.errors import UserError
from flowkit.shards.index import FOLDER, Index
from flowkit.shards.locks import locked

#: Set to 1, commands in ``pipe:`` addresses are run: a recipe from a stranger must not run programs.
PIPES = "FLOWKIT_PIPES"


class Places:
    """Folders and addresses, in the order in which they are asked.

    Args:
        names: folders; ``http://…`` and other addresses below which the set's files are; ``pipe:COMMAND`` with ``{}``
            where the name of a file goes. An address may have ``{}`` too.

    Raises:
        UserError: none is given.
    """

    def __init__(self, names: Sequence[str]) -> None:
        if not names:
            raise UserError("data.init_args.places is empty: name the folders or addresses where the shards are")
        self.names = list(names)
        self.folders = [_folder(name) for name in names if not _is_address(name)]
        self.addresses = [name for name in names if _is_address(name)]

    def __str__(self) -> str:
        return ", ".join(map(repr, self.names))

    def find(self, name: str) -> Path | None:
        """The file in the first folder that has it."""
        return next((folder / name for folder in self.folders if (folder / name).is_file()), None)

    def address(self, place: str, name: str) -> str:
        """The address of a file."""
        return place.replace("{}", name) if "{}" in place else f"{place.rstrip('/')}/{name}"

    def open(self, place: str, name: str) -> IO[bytes]:
        """Open a file at an address.

        Raises:
            UserError: webdataset is not there or knows no such addresses; ``pipe:`` without leave.
            OSError: it cannot be opened.
        """
        # As webdataset reads it: capitals, and spaces before it, are the same to it.
        if urlparse(place).scheme == "pipe" and os.environ.get(PIPES) != "1":
            raise UserError(
                f"the place {place!r} is a command that would be run: set the environment variable {PIPES}=1 if you "
                "trust the recipe"
            )
        try:
            from webdataset.gopen import gopen
        except ImportError as error:
            raise UserError(
                f"shards at {place!r} are opened with the package webdataset ({error}): "
                "pip install 'flowkit-fm[shards]'"
            ) from error
        try:
            stream: Any = gopen(self.address(place, name), "rb")
        except (ValueError, AssertionError) as error:
            raise UserError(
                f"the place {place!r} cannot be opened ({error}): name a folder, or an address that webdataset knows "
                "(http, https, gs, hf, pipe)"
            ) from error
        return stream

    def index(self, cache: Path) -> Index:
        """The set's index: read where it is, or fetched into ``cache``.

        Raises:
            UserError: no place has it, or it is damaged.
        """
        found = self.find(f"{FOLDER}/index.json")
        if found is not None:
            return Index(found.parent)
        faults = []
        for place in self.addresses:
            try:
                return self._fetch_index(place, cache)
            except OSError as error:
                faults.append(f"{place}: {error}")
        missing = [str(folder) for folder in self.folders if not folder.is_dir()]
        told = "; ".join([*faults, *(f"there is no folder {folder!r}" for folder in missing)])
        raise UserError(
            f"no shards in {self}: no {FOLDER}/index.json is there{f' ({told})' if told else ''}; write them with "
            "flowkit data shard RECIPE --out FOLDER"
        )

    def _read(self, place: str, name: str) -> bytes:
        # A context would hide which of reading and closing failed; both are errors.
        stream = self.open(place, name)
        try:
            return stream.read()
        finally:
            stream.close()

    def _fetch_index(self, place: str, cache: Path) -> Index:
        text = self._read(place, f"{FOLDER}/index.json")
        try:
            files: dict[str, Any] = json.loads(text)["files"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.address(place, FOLDER)}/index.json is no index of shards ({error})") from error
        folder = cache / hashlib.sha256(text).hexdigest()[:16] / FOLDER

        def fill(inner: Path) -> None:
            for name, (_, digest) in files.items():
                content = self._read(place, f"{FOLDER}/{Path(name).name}")
                if hashlib.sha256(content).hexdigest() != digest:
                    raise UserError(
                        f"{self.address(place, FOLDER)}/{name} is not the one that the index names: copy the whole "
                        "folder there again"
                    )
                (inner / Path(name).name).write_bytes(content)
            (inner / "index.json").write_bytes(text)

        with locked(folder.parent / ".index.lock"):
            if not (folder / "index.json").is_file():
                atomic.write_folder(folder, fill)
        return Index(folder)


def _is_address(name: str) -> bool:
    return name.startswith("pipe:") or ("://" in name and not name.startswith("file:"))


def _folder(name: str) -> Path:
    return Path(unquote(urlparse(name).path)) if name.startswith("file:") else Path(name).expanduser()
