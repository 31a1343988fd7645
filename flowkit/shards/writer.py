"""Writing a set of shards: each is whole or not there, and an interrupted writing goes on where it was."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from flowkit import atomic
from flowkit.errors import UserError
from flowkit.shards.index import FOLDER, FORMAT, Index, Shard, hash_file, write_index
from flowkit.shards.locks import locked
from flowkit.shards.records import Records
from flowkit.shards.tar import BLOCK, items_of

#: Of the first place while shards are written: what is done so far, and a lock.
UNFINISHED = ".shards.writing"
#: What a tar file ends with at most: two empty blocks, filled up to 20 blocks.
_END = tarfile.RECORDSIZE + 2 * BLOCK


def write_shards(
    records: Records, places: Sequence[Path], *, size: int, about: Mapping[str, Any] | None = None, shown: bool = True
) -> Index:
    """Write ``records`` as shards, or go on with it; returns at once when it was done.

    Args:
        records: what to write.
        places: folders, on as many disks as there are; each shard goes where most room is, the index to all.
        size: largest size of a shard, bytes; a record that is larger has a shard of its own.
        about: where the data come from (JSON values).
        shown: show progress.

    Returns:
        The index in the first place.

    Raises:
        UserError: a folder holds shards of other data, another process writes there, no disk has room.
    """
    wanted = fingerprint(records, size)
    home = places[0]
    done = _finished(home, wanted)
    if done is not None:
        return done
    unfinished = home / UNFINISHED
    try:
        for place in places:
            place.mkdir(parents=True, exist_ok=True)
        with locked(unfinished / "lock", wait=False) as held:
            if not held:
                raise UserError(f"another process writes shards to {str(home)!r}: wait for it")
            done = _finished(home, wanted)
            if done is None:
                _Writing(records, list(places), size, unfinished, wanted).run(dict(about or {}), shown=shown)
        shutil.rmtree(unfinished, ignore_errors=True)
    except OSError as error:
        raise UserError(_cannot(home, error)) from error
    return Index(home / FOLDER)


def _cannot(place: Path, error: OSError) -> str:
    # An error that a full disk raises names no file.
    where = error.filename or str(place)
    return (
        f"cannot write shards to {str(where)!r}: {error.strerror or error}; finished shards stay, so make room or add "
        "another --out, and give the same command again"
    )


def fingerprint(records: Records, size: int) -> str:
    """Tells a set from another: the same text, the same shards."""
    state = hashlib.sha256(
        json.dumps(
            [FORMAT, records.kind, records.count, records.items, size, records.manifest], sort_keys=True
        ).encode()
    )
    for name, table in sorted(records.tables.items()):
        state.update(name.encode() + str((table.dtype, table.shape)).encode())
        state.update(np.ascontiguousarray(table).data)
    return state.hexdigest()


def _finished(home: Path, wanted: str) -> Index | None:
    """The index, where the set is there already."""
    if not (home / FOLDER / "index.json").is_file():
        return None
    index = Index(home / FOLDER)
    if index.content["about"].get("fingerprint") != wanted:
        raise UserError(
            f"{str(home)!r} holds shards of other data, or of another --size: name another --out, or delete them"
        )
    return index


class _Writing:
    """One writing of a set; see :func:`write_shards`."""

    def __init__(self, records: Records, places: list[Path], size: int, unfinished: Path, wanted: str) -> None:
        self.records, self.places, self.size, self.unfinished, self.wanted = records, places, size, unfinished, wanted

    def run(self, about: dict[str, Any], *, shown: bool) -> None:
        """Write what is missing, then the index."""
        from tqdm import tqdm

        self._same_data()
        for place in self.places:
            # A writing that was killed may have left these; the lock says that nobody is at it.
            for left in place.glob(".shard-*.writing.tar"):
                left.unlink(missing_ok=True)
            for left in place.glob(f".{FOLDER}.*.writing"):
                shutil.rmtree(left, ignore_errors=True)
        shards: list[Shard] = []
        items: list[np.ndarray] = []
        record = first = 0
        bar = tqdm(total=self.records.count, desc="writing shards", unit="record", mininterval=1.0, disable=not shown)
        with bar:
            while record < self.records.count:
                number = len(shards)
                found = self._read_part(number, record) or self._write_shard(number, record, first, bar.update)
                shard, part, after, taken = found
                if taken:
                    bar.update(after - record)
                shards.append(shard)
                items.append(part)
                record, first = after, first + len(part)
        if first != self.records.items:
            raise UserError(
                f"the data have {first} items where {self.records.items} were announced: prepare them again"
            )
        about = {**about, "fingerprint": self.wanted, "records": self.records.count}
        for place in reversed(self.places):
            # The first place's comes last: it says that all is done.
            atomic.write_folder(
                place / FOLDER,
                lambda folder: write_index(
                    folder, kind=self.records.kind, shards=shards, items=items, tables=self.records.tables,
                    manifest=self.records.manifest, about=about,
                ),
                replace=True,
            )  # fmt: skip

    def _same_data(self) -> None:
        note = self.unfinished / "fingerprint"
        if note.is_file() and note.read_text() != self.wanted:
            raise UserError(
                f"{str(self.places[0])!r} holds begun shards of other data, or of another --size: delete the folder "
                f"{UNFINISHED} there, or name another --out"
            )
        atomic.write_text(note, self.wanted)

    # --- a shard ----------------------------------------------------------------------------------------------------

    def _read_part(self, number: int, record: int) -> tuple[Shard, np.ndarray, int, bool] | None:
        """A shard that was written before the interruption; None where it must be written."""
        try:
            about = json.loads((self.unfinished / f"{number:06d}.json").read_text())
            part = np.load(self.unfinished / f"{number:06d}.npy")
            shard = Shard(**about["shard"])
            sizes = [(place / shard.name).stat().st_size for place in self.places if (place / shard.name).is_file()]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        whole = sizes == [shard.size] and about["from"] == record and len(part) == shard.items
        return (shard, part, int(about["to"]), True) if whole else None

    def _write_shard(
        self, number: int, record: int, first: int, told: Callable[[int], object]
    ) -> tuple[Shard, np.ndarray, int, bool]:
        name = f"shard-{number:06d}.tar"
        for place in self.places:
            (place / name).unlink(missing_ok=True)
        path, after, pieces = self._write_where_room_is(name, record, told)
        part = items_of(path, pieces)
        shard = Shard(name, path.stat().st_size, hash_file(path), first, len(part))
        atomic.write(self.unfinished / f"{number:06d}.npy", lambda temporary: np.save(temporary, part))
        atomic.write_json(self.unfinished / f"{number:06d}.json", {"shard": asdict(shard), "from": record, "to": after})
        return shard, part, after, False

    def _write_where_room_is(
        self, name: str, record: int, told: Callable[[int], object]
    ) -> tuple[Path, int, list[tuple[int, int]]]:
        """Write a shard to the disk with most room; where it does not fit after all, to the next."""
        fault: UserError | None = None
        for place in sorted(self.places, key=lambda place: shutil.disk_usage(place).free, reverse=True):
            written: list[tuple[int, list[tuple[int, int]]]] = []

            def fill(path: Path, written: Any = written) -> None:
                written.append(self._fill(path, record, told))

            try:
                atomic.write(place / name, fill)
            except OSError as error:
                fault = UserError(_cannot(place, error))
                if not atomic.is_disk_full(error):
                    raise fault from error
                continue
            return place / name, *written[0]
        assert fault is not None
        raise fault

    def _fill(self, path: Path, record: int, told: Callable[[int], object]) -> tuple[int, list[tuple[int, int]]]:
        """Records from number ``record`` on, as many as fit; returns the number after the last, and (items, bytes of
        one) of each record.
        """
        used, pieces = _END, []
        with path.open("wb") as file, tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            while record < self.records.count:
                content = self.records.read(record)
                used += sum(BLOCK - (-len(data) // BLOCK) * BLOCK for data in content.members.values())
                if used > self.size and pieces:
                    break
                for ending, data in sorted(content.members.items()):
                    about = tarfile.TarInfo(f"{record:09d}.{ending}")
                    about.size = len(data)
                    tar.addfile(about, io.BytesIO(data))
                pieces.append((content.items, content.piece))
                record += 1
                told(1)
        return record, pieces
