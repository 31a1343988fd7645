"""LeRobot's layout v3.0: many episodes in one parquet file, and in one mp4 per camera."""

from __future__ import annotations

from collections.abc import Sequence

from domains.policy.data.lerobot_layout import EpisodeEntry, Info, VideoPart, in_order, read_table, whole
from flowkit.errors import UserError

#: The text of a task is the index of a pandas table: pyarrow names that column so, or so.
_TASK_COLUMNS = ("task", "__index_level_0__")


def tasks(info: Info) -> list[str]:
    """Texts of the tasks in the order of their numbers; none where the data set has no list of them."""
    path = info.folder / "meta" / "tasks.parquet"
    if not path.is_file():
        return []
    table = read_table(path, ["task_index"], optional=_TASK_COLUMNS)
    texts = next((table.column(name).to_pylist() for name in _TASK_COLUMNS if name in table.column_names), None)
    if texts is None:
        raise UserError(f"{str(path)!r} has no column with the texts of the tasks ({' or '.join(_TASK_COLUMNS)})")
    numbers = [whole(number, "task_index", path) for number in table.column("task_index").to_pylist()]
    rows = dict(zip(numbers, texts, strict=True))
    return [str(rows.get(number, "")) for number in range(max(rows, default=-1) + 1)]


def entries(info: Info, videos: Sequence[str]) -> list[EpisodeEntry]:
    """All episodes, with the parts of the cameras' ``videos`` that are theirs.

    Raises:
        UserError: the tables in ``meta/episodes`` are missing, broken, lack a column, or list an episode twice.
    """
    folder = info.folder / "meta" / "episodes"
    files = sorted(folder.glob("*/*.parquet"))
    if not files:
        raise UserError(f"{str(folder)!r} has no chunk-000/file-000.parquet: the data set is not complete")
    columns = ["episode_index", "length", "data/chunk_index", "data/file_index"]
    for key in videos:
        columns += [f"videos/{key}/{name}" for name in ("chunk_index", "file_index", "from_timestamp")]
    found = []
    for file in files:
        for row in read_table(file, columns, optional=["tasks"]).to_pylist():
            where = {"chunk_index": row["data/chunk_index"], "file_index": row["data/file_index"]}
            parts = {}
            for key in videos:
                place = {name: row[f"videos/{key}/{name}"] for name in ("chunk_index", "file_index")}
                path = info.formatted("video_path", video_key=key, **place)
                start = row[f"videos/{key}/from_timestamp"]
                if not isinstance(start, int | float):
                    raise UserError(f"{str(file)!r}: videos/{key}/from_timestamp is {start!r} in one row, not seconds")
                parts[key] = VideoPart(path, float(start))
            number, length = (whole(row[name], name, file) for name in ("episode_index", "length"))
            data = info.formatted("data_path", **where)
            found.append(EpisodeEntry(number, length, data, parts, tuple(map(str, row.get("tasks") or ()))))
    return in_order(found, folder)
