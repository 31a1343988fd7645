"""Damage is found where it is read, fetched shards are shared, and nothing half-written is ever read."""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import toy_set
from forked import Forked

from flowkit.errors import UserError
from flowkit.shards.cache import CHECKED
from flowkit.shards.check import damaged_items, require_all
from flowkit.shards.places import PIPES
from flowkit.shards.reader import ShardSet
from flowkit.shards.tar import members_of

EVERY = np.arange(toy_set.COUNT)


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    return shutil.copytree(written, tmp_path / "set")


def open_set(tmp_path: Path, *places: str | Path, limit: int = 1 << 30) -> ShardSet:
    return ShardSet([str(place) for place in places], cache=tmp_path / "cache", limit=limit, window=1)


def cut_short(path: Path) -> None:
    os.truncate(path, 5000)


def flip_a_bit(path: Path) -> None:
    """In the third record."""
    content = bytearray(path.read_bytes())
    content[13000] ^= 1
    path.write_bytes(content)


def write_anew(path: Path) -> None:
    """The same size, other content."""
    path.write_bytes(bytes(path.stat().st_size))


HARM: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (Path.unlink, r"shard-000001.tar is missing: it is in none of"),
    "short": (cut_short, r"shard-000001.tar' has 5000 bytes where its index says \d+"),
    "flipped": (flip_a_bit, r"item 2 of '.*shard-000001.tar' is not what was written there"),
    "changed": (write_anew, r"item 0 of '.*shard-000001.tar' is not what was written there"),
}


@pytest.mark.parametrize("harm", HARM)
def test_damage_is_one_line_that_names_the_shard_and_the_way_out(harm: str, folder: Path, tmp_path: Path) -> None:
    do, told = HARM[harm]
    do(folder / "shard-000001.tar")
    shards = open_set(tmp_path, folder)
    with pytest.raises(UserError, match=told) as caught:
        shards.read(EVERY)
    assert "skip_damaged true" in str(caught.value)
    assert "\n" not in str(caught.value)
    # The other shards are read as ever.
    assert len(shards.read(EVERY[: shards.index.shards[0].items])) == shards.index.shards[0].items


@pytest.mark.parametrize("harm", HARM)
def test_a_check_names_exactly_the_damaged_items(harm: str, folder: Path, tmp_path: Path) -> None:
    HARM[harm][0](folder / "shard-000001.tar")
    shards = open_set(tmp_path, folder)
    shard = shards.index.shards[1]
    inside = EVERY[shard.first : shard.first + shard.items]
    found = damaged_items(shards)
    ends = shards.index.items["offset"][inside] + shards.index.items["size"][inside]
    expected = {"missing": inside, "short": inside[ends > 5000], "flipped": inside[2:3], "changed": inside}[harm]
    assert found.tolist() == expected.tolist()
    whole = np.setdiff1d(EVERY, found)
    rest = ShardSet([str(folder)], cache=tmp_path / "cache", limit=1, window=1, lenient=True)
    for item, data in zip(whole.tolist(), rest.read(whole), strict=True):
        assert bytes(members_of(data)["bin"]) == toy_set.content(item)


@pytest.mark.parametrize("harm", ["missing", "short"])
def test_what_is_not_there_is_told_before_training(harm: str, folder: Path, tmp_path: Path) -> None:
    require_all(open_set(tmp_path, folder))
    HARM[harm][0](folder / "shard-000001.tar")
    with pytest.raises(UserError, match=r"shard-000001.tar.*skip_damaged true"):
        require_all(open_set(tmp_path, folder))


def test_whole_shards_are_checked_once_and_again_when_reading_found_damage(folder: Path, tmp_path: Path) -> None:
    shards = open_set(tmp_path, folder)
    assert len(damaged_items(shards)) == 0
    assert (shards.cache.folder / CHECKED).is_file()
    path = folder / "shard-000001.tar"
    about = path.stat()
    flip_a_bit(path)
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))  # the disk rots: nothing tells
    assert len(damaged_items(shards)) == 0
    with pytest.raises(UserError, match="is not what was written"):
        shards.read(EVERY)
    assert len(damaged_items(shards)) == 1


def test_few_files_are_open_and_a_set_is_sent_to_other_processes(folder: Path, tmp_path: Path) -> None:
    import pickle

    shards = pickle.loads(pickle.dumps(open_set(tmp_path, folder)))
    before = len(os.listdir("/proc/self/fd"))
    for item in np.random.default_rng(0).permutation(toy_set.COUNT).tolist():
        shards.read(np.array([item]))
    assert len(os.listdir("/proc/self/fd")) - before <= 3
    assert len(shards.index.shards) > 3


def test_threads_share_a_set(folder: Path, tmp_path: Path) -> None:
    shards, wrong = open_set(tmp_path, folder), []

    def read(seed: int) -> None:
        for item in np.random.default_rng(seed).permutation(toy_set.COUNT).tolist():
            (data,) = shards.read(np.array([item]))
            if bytes(members_of(data)["bin"]) != toy_set.content(item):
                wrong.append(item)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# --- fetched shards ---------------------------------------------------------------------------------------------------


@pytest.fixture
def place(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A command that gives a file, and notes which."""
    pytest.importorskip("webdataset", reason="addresses are opened with webdataset")
    monkeypatch.setenv(PIPES, "1")
    return f"pipe:echo {{}} >> {tmp_path}/fetched; cat {folder}/{{}}"


def fetched(tmp_path: Path) -> list[str]:
    return [name for name in (tmp_path / "fetched").read_text().split() if name.endswith(".tar")]


def start_reader(place: str, tmp_path: Path, order: np.ndarray) -> Forked:
    arguments = place, str(tmp_path / "cache"), order.tolist()
    return Forked("toy_set:read_all", *arguments, said=tmp_path / f"said-{order[0]}", env={PIPES: "1"})


def finish(*readers: Forked) -> None:
    for reader in readers:
        assert reader.wait() == [0], reader.said()
        assert "all read" in reader.said()


def cached(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache").glob("*/*.tar"))


def unfinished(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "cache").glob("*/.*.writing"))


def wait_until(what: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not what() and time.monotonic() < end:
        time.sleep(0.01)
    assert what()


def test_two_readers_share_a_cache_and_fetch_nothing_twice(place: str, folder: Path, tmp_path: Path) -> None:
    orders = [np.random.default_rng(seed).permutation(toy_set.COUNT) for seed in range(2)]
    finish(*(start_reader(place, tmp_path, order) for order in orders))
    assert sorted(fetched(tmp_path)) == sorted(path.name for path in folder.glob("*.tar"))
    assert [path.read_bytes() for path in cached(tmp_path)] == [
        path.read_bytes() for path in sorted(folder.glob("*.tar"))
    ]


def test_a_reader_killed_while_it_fetches_harms_no_other(place: str, folder: Path, tmp_path: Path) -> None:
    slow = place.replace("cat ", "case {} in *.tar) head -c 20000") + ";; *) cat " + f"{folder}/{{}};; esac; "
    slow += "case {} in *.tar) sleep 60;; esac"
    killed = start_reader(slow, tmp_path, EVERY)
    wait_until(lambda: any(path.stat().st_size for path in unfinished(tmp_path)))
    other = start_reader(place, tmp_path, EVERY[::-1])
    # It reads everything else, and waits for what the first one fetches.
    wait_until(lambda: len(cached(tmp_path)) == len(list(folder.glob("*.tar"))) - 1)
    (left,) = unfinished(tmp_path)
    killed.kill()
    assert killed.wait() == [-9]
    finish(other)
    assert not unfinished(tmp_path)
    assert [path.read_bytes() for path in cached(tmp_path)] == [
        path.read_bytes() for path in sorted(folder.glob("*.tar"))
    ]
    twice = left.name.removeprefix(".").removesuffix(".writing")
    assert sorted(fetched(tmp_path)) == sorted([twice, *(path.name for path in folder.glob("*.tar"))])


def test_the_cache_stays_within_its_limit(place: str, tmp_path: Path) -> None:
    limit = 4 * toy_set.SIZE
    shards = open_set(tmp_path, place, limit=limit)
    assert sum(shard.size for shard in shards.index.shards) > 1.4 * limit
    for item in np.random.default_rng(0).permutation(toy_set.COUNT).tolist():
        (data,) = shards.read(np.array([item]))
        assert bytes(members_of(data)["bin"]) == toy_set.content(item)
        assert sum(path.stat().st_size for path in cached(tmp_path)) <= limit
    with pytest.raises(UserError, match=r"cache_gib is .*: 3 shards of up to"):
        open_set(tmp_path, place, limit=2 * toy_set.SIZE)


def test_what_arrives_damaged_is_not_kept(place: str, written: Path, folder: Path, tmp_path: Path) -> None:
    flip_a_bit(folder / "shard-000001.tar")
    cut_short(folder / "shard-000002.tar")
    shards = open_set(tmp_path, place)
    with pytest.raises(UserError, match=r"shard-000001.tar is not the shard .*its content differs"):
        shards.locate(shards.index.shards[1])
    with pytest.raises(UserError, match=r"shard-000002.tar is not the shard .*5000 bytes instead of"):
        shards.locate(shards.index.shards[2])
    assert not cached(tmp_path)
    bad = damaged_items(shards)
    assert set(shards.index.shard_of(bad).tolist()) == {1, 2}
    # A second place that has them whole is asked next.
    both = open_set(tmp_path, place, f"pipe:cat {written}/{{}}")
    assert len(both.read(EVERY)) == toy_set.COUNT


def test_a_fetched_shard_that_rots_is_fetched_again(place: str, tmp_path: Path) -> None:
    shards = open_set(tmp_path, place)
    flip_a_bit(shards.locate(shards.index.shards[1]))
    for item, data in enumerate(shards.read(EVERY)):
        assert bytes(members_of(data)["bin"]) == toy_set.content(item)
    assert fetched(tmp_path).count("shard-000001.tar") == 2


def test_what_cannot_be_fetched_is_one_line(place: str, folder: Path, tmp_path: Path) -> None:
    shards = open_set(tmp_path, place)
    (folder / "shard-000001.tar").unlink()
    with pytest.raises(UserError, match=r"cannot fetch .*shard-000001.tar.*see that the place is right"):
        shards.read(EVERY)


def test_a_full_cache_disk_is_one_line(place: str, tmp_path: Path) -> None:
    import resource

    shards = open_set(tmp_path, place)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(UserError, match=r"cannot keep shard-000000.tar in the cache .*cache_gib"):
            shards.read(EVERY)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert not unfinished(tmp_path)
    assert len(shards.read(EVERY)) == toy_set.COUNT


def test_commands_are_run_only_with_leave(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PIPES)
    with pytest.raises(UserError, match=f"is a command that would be run: set the environment variable {PIPES}=1"):
        open_set(tmp_path, place)
    assert not (tmp_path / "fetched").exists()


def test_what_is_announced_is_fetched_meanwhile(place: str, tmp_path: Path) -> None:
    shards = open_set(tmp_path, place)
    shards.expect(EVERY[-3:])
    wait_until(lambda: bool(cached(tmp_path)))
    assert [path.name for path in cached(tmp_path)] == [shards.index.shards[-1].name]


@pytest.fixture
def server(folder: Path) -> Iterator[str]:
    pytest.importorskip("webdataset", reason="addresses are opened with webdataset")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


@pytest.mark.skipif(shutil.which("curl") is None, reason="webdataset opens http through curl")
def test_shards_are_read_over_http(server: str, folder: Path, tmp_path: Path) -> None:
    shards = open_set(tmp_path, server)
    for item, data in enumerate(shards.read(EVERY)):
        assert bytes(members_of(data)["bin"]) == toy_set.content(item)
    with pytest.raises(UserError, match=r"no shards in .*elsewhere"):
        open_set(tmp_path, f"{server}/elsewhere")
