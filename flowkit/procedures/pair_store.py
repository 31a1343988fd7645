"""Pairs on disk: (x0, x1, encoded condition with padding) as a teacher made them, with the record of how.

A store is a folder of ``shard-00000.safetensors`` files and ``manifest.json``. A shard holds blocks of pairs whose
tensors share one padded shape; tensors are named ``<block>/x0``, ``<block>/x1``, ``<block>/padding``,
``<block>/weight`` and ``<block>/cond/<name>``. The manifest names every shard with its size and SHA-256, and says where
the pairs come from: teacher (hash of its weights), sampler, evaluations, seed, and that x0 is the noise side.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowkit.errors import UserError

#: Version of the format; a newer one is refused.
FORMAT = 1
MANIFEST = "manifest.json"


def weights_digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of a state dict: names, types, shapes and bytes, whatever the order and the device."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a store, whole or half-made; None where there is none.

    Raises:
        UserError: it is damaged, or of a newer format.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        version, shards = int(manifest["format"]), list(manifest["shards"])
        named = all({"file", "bytes", "sha256", "blocks"} <= set(shard) for shard in shards)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        named, version = False, 0
    if version > FORMAT:
        raise UserError(
            f"{path}: format {version} is newer than this FlowKit reads (up to {FORMAT}): upgrade flowkit-fm"
        )
    if not named:
        raise UserError(f"{path} is damaged: remove {folder} and make the pairs again")
    return manifest


def shard_problem(folder: Path, shard: Mapping[str, Any], *, hashes: bool) -> str | None:
    """What is wrong with a shard that the manifest names, or None."""
    path = folder / str(shard["file"])
    if not path.is_file():
        return "is missing"
    size = path.stat().st_size
    if size != shard["bytes"]:
        return f"is {'truncated' if size < shard['bytes'] else 'too long'} ({size} bytes of {shard['bytes']})"
    if hashes and file_digest(path) != shard["sha256"]:
        return "is damaged (its SHA-256 is not the recorded one)"
    return None


class PairStore:
    """A finished store. Tensors are mapped into memory and read when they are touched.

    Args:
        folder: of the store.
        teacher: hash that the teacher's weights must have (:func:`weights_digest`); "" takes any.
        hashes: also compare the content of every shard with its recorded hash (reads everything once).

    Raises:
        UserError: no store, an unfinished, damaged or truncated one, a shard is missing, or another teacher's pairs.
    """

    def __init__(self, folder: str | Path, *, teacher: str = "", hashes: bool = True) -> None:
        self.folder = Path(folder)
        manifest = read_manifest(self.folder)
        if manifest is None:
            raise UserError(f"{self.folder} holds no pairs ({MANIFEST} is missing): make them with flowkit reflow")
        again = "remove it and run the same flowkit reflow again, which makes that shard anew"
        for shard in manifest["shards"]:
            if (problem := shard_problem(self.folder, shard, hashes=hashes)) is not None:
                raise UserError(f"{self.folder / shard['file']} {problem}: {again}")
        if not manifest.get("complete"):
            raise UserError(
                f"the pairs in {self.folder} are not complete ({len(manifest['shards'])} shards are there): "
                "run the same flowkit reflow again, it goes on"
            )
        self.manifest = manifest
        made_by = str(self.provenance.get("teacher", ""))
        if teacher and made_by != teacher:
            raise UserError(
                f"the pairs in {self.folder} are of another teacher (weights {made_by[:12]}, wanted {teacher[:12]}): "
                "make pairs of this one in another folder"
            )
        self._shards: dict[int, Any] = {}
        self._tensors: dict[int, dict[str, Tensor]] = {}
        self._places = [(s, b) for s, shard in enumerate(manifest["shards"]) for b in range(len(shard["blocks"]))]
        self._ends = np.cumsum([size for shard in manifest["shards"] for size in shard["blocks"]], dtype=np.int64)

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Where the pairs come from."""
        return self.manifest["provenance"]

    @property
    def nulls(self) -> Mapping[str, Any]:
        """Values of dropped conditions, by name."""
        return self.manifest.get("nulls", {})

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def _block(self, number: int) -> dict[str, Tensor]:
        if number not in self._tensors:
            from safetensors import SafetensorError, safe_open

            shard, block = self._places[number]
            path = self.folder / self.manifest["shards"][shard]["file"]
            try:
                if shard not in self._shards:
                    self._shards[shard] = safe_open(path, framework="pt", device="cpu")
                file, prefix = self._shards[shard], f"{block}/"
                names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118  (no mapping)
                self._tensors[number] = {name.removeprefix(prefix): file.get_tensor(name) for name in names}
            except (SafetensorError, OSError) as error:
                raise UserError(f"{path} is truncated or damaged: {' '.join(str(error).split())}") from None
        return self._tensors[number]

    def batch(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """The pairs ``indices``, tensors by name; those of different padded shapes are padded on the right with 0."""
        rows = np.asarray(indices, dtype=np.int64)
        blocks = np.searchsorted(self._ends, rows, side="right")
        parts: list[dict[str, Tensor]] = []
        order: list[np.ndarray] = []
        for block in np.unique(blocks).tolist():
            where = np.flatnonzero(blocks == block)
            first = int(self._ends[block - 1]) if block else 0
            local = torch.from_numpy(rows[where] - first)
            parts.append({name: tensor[local] for name, tensor in self._block(block).items()})
            order.append(where)
        back = torch.from_numpy(np.argsort(np.concatenate(order)))
        return {name: _joined([part[name] for part in parts])[back] for name in parts[0]}

    def lengths(self) -> np.ndarray | None:
        """Unpadded elements of each pair's mask, or None where nothing is padded."""
        blocks = [self._block(number) for number in range(len(self._places))]
        if not blocks or "padding" not in blocks[0]:
            return None
        return torch.cat([block["padding"].flatten(1).sum(1) for block in blocks]).numpy()


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Rows one after the other, each part padded with zeros to the largest shape."""
    shapes = {tuple(part.shape[1:]) for part in parts}
    if len(shapes) == 1:
        return torch.cat(list(parts)) if len(parts) > 1 else parts[0]
    largest = [max(sizes) for sizes in zip(*shapes, strict=True)]
    joined = parts[0].new_zeros((sum(len(part) for part in parts), *largest))
    first = 0
    for part in parts:
        joined[(slice(first, first + len(part)), *(slice(size) for size in part.shape[1:]))] = part
        first += len(part)
    return joined
