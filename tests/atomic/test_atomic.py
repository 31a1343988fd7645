"""Files and folders are whole or not there, whatever fails in the middle."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from flowkit import atomic
from flowkit.errors import UserError, writing


def test_a_file_keeps_its_old_content_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.json"
    atomic.write_json(path, {"word": "grüße"})
    seen = []

    def fail(temporary: Path) -> None:
        temporary.write_bytes(b"half")
        seen.append(temporary)
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space") as caught:
        atomic.write(path, fail)
    assert atomic.is_disk_full(caught.value)
    assert "grüße" in path.read_text(encoding="utf-8")
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]
    assert seen[0].suffix == ".json", "writers choose the format by the suffix"
    assert seen[0].parent == path.parent, "renaming is atomic inside one file system only"


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "model"

    def fill(temporary: Path, fails: bool = False) -> None:
        (temporary / "one").write_text("new")
        assert not folder.exists() or fails
        if fails:
            raise RuntimeError("in the middle")

    atomic.write_folder(folder, fill)
    assert folder.stat().st_mode & 0o777 == 0o755, "others may read it"
    (folder / "one").write_text("old")
    with pytest.raises(RuntimeError, match="middle"):
        atomic.write_folder(folder, lambda temporary: fill(temporary, fails=True), replace=True)
    assert (folder / "one").read_text() == "old"
    with pytest.raises(OSError, match="not empty"):
        atomic.write_folder(folder, lambda temporary: (temporary / "two").touch())
    atomic.write_folder(folder, lambda temporary: (temporary / "two").touch(), replace=True)
    assert [p.name for p in folder.iterdir()] == ["two"]
    assert [p.name for p in folder.parent.iterdir()] == ["model"], "no temporary folder stays"


def test_a_folder_is_made_once_and_that_of_a_faster_process_is_as_good(tmp_path: Path) -> None:
    def fill(temporary: Path, text: str) -> None:
        (temporary / "manifest.json").write_text(text)

    def slow(temporary: Path) -> None:
        atomic.write_folder(tmp_path / "set", lambda inner: fill(inner, "of the faster one"))
        fill(temporary, "of the slower one")

    atomic.write_folder_once(tmp_path / "set", slow)
    assert (tmp_path / "set" / "manifest.json").read_text() == "of the faster one"
    atomic.write_folder_once(tmp_path / "set", lambda _: pytest.fail("it is there"))
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(OSError, match="not empty"):
        atomic.write_folder_once(tmp_path / "other", lambda inner: fill(inner, "new"))


def test_a_link_takes_the_place_of_a_followed_one(tmp_path: Path) -> None:
    for name in ("1", "2"):
        (tmp_path / name).mkdir()
    (tmp_path / "last").mkdir()
    (tmp_path / "last" / "copy").write_text("of 1")
    for name in ("1", "2"):
        atomic.link(tmp_path / "last", name)
        assert (tmp_path / "last").is_symlink()
        assert (tmp_path / "last").resolve() == tmp_path / name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2", "last"]


def test_people_read_what_cannot_be_written_and_why(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "a.txt"
    with pytest.raises(UserError, match=rf"^cannot write the page {path}: \S"), writing(path, "the page "):
        atomic.write_text(path, "x")
