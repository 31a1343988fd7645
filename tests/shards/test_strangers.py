"""What comes from elsewhere stays in its place: an index names files of its set alone, addresses are known ones."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import toy_set

from flowkit.errors import UserError
from flowkit.shards.cache import ShardCache
from flowkit.shards.index import Shard
from flowkit.shards.locks import locked
from flowkit.shards.places import PIPES
from flowkit.shards.reader import ShardSet


@pytest.mark.parametrize("name", ["../../../stolen.tar", "/tmp/stolen.tar", "sub/shard.tar", "..", "checked.json"])
def test_an_index_names_no_file_outside_its_set(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("webdataset", reason="addresses are opened with webdataset")
    monkeypatch.setenv(PIPES, "1")
    folder = tmp_path / "set"
    toy_set.write(folder)
    index = folder / "index" / "index.json"
    content = json.loads(index.read_text())
    payload = folder / content["shards"][0]["name"]
    content["shards"][0]["name"] = name
    index.write_text(json.dumps(content))
    place = f"pipe:case {{}} in index/*) cat {folder}/{{}};; *) cat {payload};; esac"
    with pytest.raises(UserError, match="is no name of a file"):
        ShardSet([place], cache=tmp_path / "a" / "b" / "cache", limit=1 << 30, window=1).read(np.arange(2))
    assert not list(tmp_path.rglob("stolen*"))


def test_an_address_that_nobody_opens_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("webdataset", reason="addresses are opened with webdataset")
    with pytest.raises(UserError, match=r"the place 'parcel://set' cannot be opened .*name a folder, or an address"):
        ShardSet(["parcel://set"], cache=tmp_path, limit=1 << 30, window=1)


@pytest.mark.parametrize(
    "place", ["pipe:touch {} #", "PIPE:touch {} #://", " pipe:touch {} #://", "pi\npe:touch {} #://"]
)
def test_no_spelling_of_a_command_is_run_without_leave(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("webdataset", reason="addresses are opened with webdataset")
    monkeypatch.delenv(PIPES, raising=False)
    with pytest.raises(UserError, match="is a command that would be run"):
        ShardSet([place], cache=tmp_path, limit=1 << 30, window=1)


def test_what_a_killed_reader_left_is_removed_under_its_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = ShardCache(tmp_path, "digest", 1 << 20)
    lock, left = cache.folder / ".other.tar.lock", cache.folder / ".other.tar.writing"
    with locked(lock):
        left.write_bytes(b"half")
    unlink, seen = Path.unlink, []

    def watched(path: Path, missing_ok: bool = False) -> None:
        if path == left:
            with locked(lock, wait=False) as free:
                seen.append(free)
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", watched)
    source = tmp_path / "source"
    source.write_bytes(b"content")
    shard = Shard("mine.tar", 7, "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73", 0, 1)
    assert cache.get(shard, lambda: source.open("rb"), "there").read_bytes() == b"content"
    assert seen == [False]  # nobody can begin to fetch it meanwhile
    assert not left.exists()


def test_shards_are_fetched_where_the_system_reserves_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    source = tmp_path / "source"
    source.write_bytes(b"content")
    shard = Shard("mine.tar", 7, "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73", 0, 1)
    found = ShardCache(tmp_path, "digest", 1 << 20).get(shard, lambda: source.open("rb"), "there")
    assert found.read_bytes() == b"content"
