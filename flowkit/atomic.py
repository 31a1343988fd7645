"""Files and folders that are whole or not there: written under a temporary name, flushed to the disk, renamed."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

#: Errors of a disk that takes no more: full, over quota, file too large for its limit.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def is_disk_full(error: BaseException) -> bool:
    """True when ``error`` says that the disk, a quota or a limit is full; safetensors hides the number in its text."""
    from safetensors import SafetensorError

    if isinstance(error, OSError):
        return error.errno in _FULL
    return isinstance(error, SafetensorError) and any(f"os error {code}" in str(error) for code in _FULL)


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write(path: Path, fill: Callable[[Path], object]) -> None:
    """Let ``fill`` write a temporary file beside ``path`` and rename it; on any error nothing is left behind.

    The temporary name ends as ``path`` does, for writers that choose the format by it. Missing folders are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.writing{path.suffix}")
    try:
        fill(temporary)
        temporary.chmod(0o644)  # safetensors makes files that only their owner reads
        sync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_folder(folder: Path, fill: Callable[[Path], object], *, replace: bool = False) -> None:
    """The same for a folder: ``fill`` gets an empty one beside it.

    Args:
        folder: where it shall be; its parents are made.
        fill: writes the files.
        replace: remove what is there first; otherwise a folder that is there and not empty is an ``OSError``.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".writing", dir=folder.parent))
    try:
        fill(temporary)
        temporary.chmod(0o755)  # mkdtemp's 0700 would hide it from others
        if replace and folder.exists():
            shutil.rmtree(folder)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_folder_once(folder: Path, fill: Callable[[Path], object], *, proof: str = "manifest.json") -> None:
    """:func:`write_folder`, unless ``folder`` holds the file ``proof`` already; where another process is faster
    meanwhile, its folder is as good."""
    if (folder / proof).is_file():
        return
    try:
        write_folder(folder, fill)
    except OSError:
        if not (folder / proof).is_file():
            raise


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content``."""
    write(path, lambda temporary: temporary.write_bytes(content))


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as indented JSON."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write ``tensors`` as safetensors; tensors that share memory (tied weights) are written each."""
    from safetensors.torch import save_file

    seen: set[int] = set()
    plain: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().to("cpu").contiguous()
        pointer = tensor.untyped_storage().data_ptr()
        whole = tensor.numel() * tensor.element_size() == tensor.untyped_storage().nbytes()
        plain[name] = tensor.clone() if pointer in seen or not whole else tensor
        seen.add(pointer)
    write(path, lambda temporary: save_file(plain, temporary, metadata=dict(metadata or {})))


def link(path: Path, target: str) -> None:
    """Point the symbolic link ``path`` to the relative ``target`` in one step; where the file system has links.

    A folder of that name gives way: copying a run with its links followed makes one.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.writing")
    temporary.unlink(missing_ok=True)
    try:
        temporary.symlink_to(target)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        os.replace(temporary, path)
    except (NotImplementedError, PermissionError):
        temporary.unlink(missing_ok=True)
