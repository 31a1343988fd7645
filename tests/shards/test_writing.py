"""Shards hold every record once, are readable by webdataset, and a writing goes on where it was killed."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import toy_set
from forked import Forked

from flowkit.errors import UserError
from flowkit.shards.index import Index
from flowkit.shards.locks import locked
from flowkit.shards.reader import ShardSet
from flowkit.shards.records import Record, Records
from flowkit.shards.tar import members_of
from flowkit.shards.writer import UNFINISHED, write_shards


def open_set(tmp_path: Path, *places: Path, window: int = 2) -> ShardSet:
    return ShardSet([str(place) for place in places], cache=tmp_path / "cache", limit=1 << 30, window=window)


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def test_every_record_is_there_once_and_no_shard_is_larger_than_asked(tmp_path: Path) -> None:
    names = toy_set.write(tmp_path / "set")
    assert len(names) > 3
    assert all((tmp_path / "set" / name).stat().st_size <= toy_set.SIZE for name in names)
    shards = open_set(tmp_path, tmp_path / "set")
    order = np.random.default_rng(0).permutation(toy_set.COUNT)
    for item, data in zip(order.tolist(), shards.read(order), strict=True):
        members = members_of(data)
        assert bytes(members["bin"]) == toy_set.content(item)
        assert json.loads(bytes(members["json"])) == {"number": item}
    assert shards.index.table("number").tolist() == list(range(toy_set.COUNT))
    assert shards.index.manifest == {"words": ["a", "ü"]}


def test_webdataset_reads_them(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    names = toy_set.write(tmp_path)
    urls = [str(tmp_path / name) for name in names]
    found = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    assert [sample["json"]["number"] for sample in found] == list(range(toy_set.COUNT))
    assert all(sample["bin"] == toy_set.content(i) for i, sample in enumerate(found))


def test_pieces_of_a_member_are_items(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (7, 3, 8, 8), dtype=np.uint8)
    import io

    def read(number: int) -> Record:
        stream = io.BytesIO()
        part = frames[4 * number : 4 * number + 4]
        np.save(stream, part)
        return Record({"a.json": b"{}", "frames.npy": stream.getvalue()}, items=len(part), piece=192)

    write_shards(Records("toy", 2, read, 7), [tmp_path / "set"], size=1 << 20, shown=False)
    shards = open_set(tmp_path, tmp_path / "set")
    rows = np.array([6, 0, 1, 2, 3, 4, 2])
    read_back = [np.frombuffer(data, np.uint8).reshape(3, 8, 8) for data in shards.read(rows)]
    assert np.array_equal(np.stack(read_back), frames[rows])


def test_shards_may_lie_on_several_disks_in_any_way(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    index = write_shards(toy_set.toy_records(), [a, b], size=toy_set.SIZE, shown=False)
    assert (b / "index" / "index.json").is_file()
    for shard in index.shards[::2]:
        here = a if (a / shard.name).is_file() else b
        os.replace(here / shard.name, (b if here == a else a) / shard.name)
    shards = open_set(tmp_path, b, a)
    for item, data in enumerate(shards.read(np.arange(toy_set.COUNT))):
        assert bytes(members_of(data)["bin"]) == toy_set.content(item)


def test_killed_it_goes_on_and_the_shards_are_those_of_an_undisturbed_writing(tmp_path: Path) -> None:
    toy_set.write(tmp_path / "whole")
    folder = tmp_path / "killed"
    writer = Forked("toy_set:write_slowly", str(folder), said=tmp_path / "said")
    # Two shards are finished, a third is being written.
    end = time.monotonic() + 60
    while not (folder / "shard-000001.tar").is_file() and time.monotonic() < end:
        time.sleep(0.01)
    writer.kill()
    assert writer.wait() == [-9]
    assert not (folder / "index").exists()
    first = (folder / "shard-000000.tar").stat()
    toy_set.write(folder)
    assert hashes(folder) == hashes(tmp_path / "whole")
    again = (folder / "shard-000000.tar").stat()
    assert (again.st_ino, again.st_mtime_ns) == (first.st_ino, first.st_mtime_ns)
    assert not (folder / UNFINISHED).exists()


def test_what_is_done_is_not_written_again_and_other_data_are_refused(tmp_path: Path) -> None:
    toy_set.write(tmp_path)
    before = (tmp_path / "shard-000000.tar").stat().st_mtime_ns
    toy_set.write(tmp_path)
    assert (tmp_path / "shard-000000.tar").stat().st_mtime_ns == before
    with pytest.raises(UserError, match=r"holds shards of other data.*--out"):
        toy_set.write(tmp_path, other=1)


def test_begun_shards_of_other_data_and_a_second_writer_are_refused(tmp_path: Path) -> None:
    (tmp_path / UNFINISHED).mkdir()
    (tmp_path / UNFINISHED / "fingerprint").write_text("another")
    with pytest.raises(UserError, match=r"begun shards of other data"):
        toy_set.write(tmp_path)
    with locked(tmp_path / UNFINISHED / "lock"):  # noqa: SIM117
        with pytest.raises(UserError, match="another process writes shards"):
            toy_set.write(tmp_path)


def test_a_full_disk_is_one_line_and_what_is_done_stays(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    reads = 0
    records = toy_set.toy_records()

    def read(number: int) -> Record:
        nonlocal reads
        reads += 1
        if reads == 25:  # in a later shard
            resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
        return records.read(number)

    full = Records(records.kind, records.count, read, records.items, records.tables, records.manifest)
    try:
        with pytest.raises(UserError, match=r"cannot write shards to .*: File too large.*finished shards stay"):
            write_shards(full, [tmp_path], size=toy_set.SIZE, shown=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    done = sorted(path.name for path in tmp_path.glob("*.tar"))
    assert done == [f"shard-{i:06d}.tar" for i in range(len(done))]
    assert done
    assert not [path for path in tmp_path.rglob("*") if ".writing." in path.name]
    reads = 100
    assert len(write_shards(full, [tmp_path], size=toy_set.SIZE, shown=False).shards) > len(done)
    assert reads - 100 < toy_set.COUNT + len(done)  # those that were done were not read again


def test_a_damaged_index_says_what_to_do(tmp_path: Path) -> None:
    toy_set.write(tmp_path)
    (tmp_path / "index" / "items.npy").write_bytes(b"short")
    with pytest.raises(UserError, match=r"index in .* cannot be read .*items.npy has 5 bytes"):
        Index(tmp_path / "index")
    with pytest.raises(UserError, match=r"no shards in .*index/index.json.*flowkit data shard"):
        open_set(tmp_path, tmp_path / "elsewhere")
