"""LeRobot's layout v2.0 and v2.1: one parquet file and one mp4 per camera for every episode."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from domains.policy.data.lerobot_layout import EpisodeEntry, Info, VideoPart, in_order, whole
from flowkit.errors import UserError


def tasks(info: Info) -> list[str]:
    """Texts of the tasks in the order of their numbers; none where the data set has no list of them."""
    path = info.folder / "meta" / "tasks.jsonl"
    if not path.is_file():
        return []
    rows = {
        whole(_field(row, "task_index", path), "task_index", path): str(_field(row, "task", path))
        for row in _lines(path)
    }
    return [rows.get(number, "") for number in range(max(rows, default=-1) + 1)]


def entries(info: Info, videos: Sequence[str]) -> list[EpisodeEntry]:
    """All episodes, with the files of the cameras ``videos``.

    Raises:
        UserError: ``meta/episodes.jsonl`` is missing or broken, or lists an episode twice.
    """
    path = info.folder / "meta" / "episodes.jsonl"
    found = []
    for row in _lines(path):
        number, length = (whole(_field(row, name, path), name, path) for name in ("episode_index", "length"))
        values = {"episode_chunk": number // _chunk_size(info), "episode_index": number}
        found.append(
            EpisodeEntry(
                number,
                length,
                info.formatted("data_path", **values),
                {key: VideoPart(info.formatted("video_path", **values, video_key=key)) for key in videos},
                tuple(map(str, row.get("tasks") or ())),
            )
        )
    return in_order(found, path)


def _chunk_size(info: Info) -> int:
    size = info.content.get("chunks_size", 1000)
    if not isinstance(size, int) or size < 1:
        raise UserError(f"{str(info.path)!r}: chunks_size is {size!r}, it is a whole number of at least 1")
    return size


def _lines(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot read {str(path)!r}: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"{str(path)!r} is no text: {error}") from error
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{str(path)!r} line {number} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise UserError(f"{str(path)!r} line {number} is no JSON object")
        yield row


def _field(row: Mapping[str, Any], name: str, path: Path) -> Any:
    if name not in row:
        raise UserError(f"{str(path)!r} has a row without {name!r}")
    return row[name]
