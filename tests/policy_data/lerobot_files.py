"""Writes small data sets in LeRobot's layouts v2.1 and v3.0, from the description of the layouts alone."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import parquet as pq

FPS = 10
LENGTHS = (7, 8, 9)
HEIGHT, WIDTH = 48, 64
TASKS = ("push the block", "turn the block")
STATE, ACTION, PICTURE, VIDEO = "observation.state", "action", "observation.images.wrist", "observation.images.top"


@dataclass
class Made:
    """What a written data set holds, by episode."""

    folder: Path
    states: list[np.ndarray] = field(default_factory=list)
    actions: list[np.ndarray] = field(default_factory=list)
    pictures: list[np.ndarray] = field(default_factory=list)
    frames: list[np.ndarray] = field(default_factory=list)
    tasks: list[int] = field(default_factory=list)


def frame_of(episode: int, step: int) -> np.ndarray:
    """A flat grey whose level tells episode and step, with a bright bar that moves."""
    frame = np.full((HEIGHT, WIDTH, 3), 40 + 60 * episode + 5 * step, dtype=np.uint8)
    frame[:, 4 * step : 4 * step + 16] = 230
    return frame


H264 = {"g": "2", "bf": "0", "crf": "6"}


def write_video(
    path: Path, frames: np.ndarray, fps: int = FPS, *, codec: str = "libx264", options: dict | None = None
) -> None:
    """H.264 with a key frame every second frame and none that is reordered, nearly lossless."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options=options or H264)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.time_base = Fraction(1, fps)
        for number, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def png(image: np.ndarray) -> bytes:
    """An image as PNG."""
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def features(videos: bool) -> dict:
    """The features of ``info.json``."""
    scalar = {
        name: {"dtype": "int64", "shape": [1], "names": None} for name in ("frame_index", "episode_index", "index")
    }
    picture = {"shape": [HEIGHT, WIDTH, 3], "names": ["height", "width", "channel"]}
    found = {
        STATE: {"dtype": "float32", "shape": [3], "names": ["x", "y", "z"]},
        "observation.phase": {"dtype": "float32", "shape": [1], "names": None},
        ACTION: {"dtype": "float32", "shape": [2], "names": None},
        PICTURE: {"dtype": "image", **picture},
        "language": {"dtype": "string", "shape": [1], "names": None},
        "timestamp": {"dtype": "float32", "shape": [1], "names": None},
        "task_index": {"dtype": "int64", "shape": [1], "names": None},
        **scalar,
    }
    if videos:
        found[VIDEO] = {"dtype": "video", **picture, "info": {"video.fps": FPS, "video.codec": "h264"}}
    return found


def table_of(made: Made, episode: int, first: int) -> pa.Table:
    """The rows of one episode; draws its values."""
    rng = np.random.default_rng([5, episode])
    length = LENGTHS[episode]
    state = rng.normal(size=(length, 3)).astype(np.float32)
    action = rng.normal(size=(length, 2)).astype(np.float32)
    pictures = rng.integers(0, 255, (length, HEIGHT, WIDTH, 3), dtype=np.uint8)
    task = episode % 2
    made.states.append(state)
    made.actions.append(action)
    made.pictures.append(pictures)
    made.tasks.append(task)
    made.frames.append(np.stack([frame_of(episode, step) for step in range(length)]))
    steps = np.arange(length)
    return pa.table(
        {
            STATE: pa.FixedSizeListArray.from_arrays(pa.array(state.ravel()), 3),
            "observation.phase": pa.array((steps / 10).astype(np.float32)),
            ACTION: pa.array(list(action), type=pa.list_(pa.float32())),
            PICTURE: pa.array(
                [{"bytes": png(picture), "path": None} for picture in pictures],
                type=pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
            ),
            "language": pa.array(["go"] * length),
            "timestamp": pa.array((steps / FPS).astype(np.float32)),
            "frame_index": pa.array(steps),
            "episode_index": pa.array(np.full(length, episode)),
            "index": pa.array(first + steps),
            "task_index": pa.array(np.full(length, task)),
            "next.success": pa.array(np.where(steps == length - 1, episode != 1, False)),
        }
    )


def write_info(folder: Path, version: str, videos: bool, **more) -> None:
    """``meta/info.json``."""
    content = {
        "codebase_version": version,
        "robot_type": "none",
        "total_episodes": 3,
        "total_frames": sum(LENGTHS),
        "total_tasks": 2,
        "fps": FPS,
        "splits": {"train": "0:3"},
        "features": features(videos),
        **more,
    }
    (folder / "meta").mkdir(parents=True, exist_ok=True)
    (folder / "meta" / "info.json").write_text(json.dumps(content))


def write_v2(folder: Path, *, videos: bool = True) -> Made:
    """v2.1: a file an episode; two episodes a chunk, so that there are two chunks."""
    made = Made(folder)
    write_info(
        folder,
        "v2.1",
        videos,
        chunks_size=2,
        data_path="data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        video_path="videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    )
    first = 0
    for episode, length in enumerate(LENGTHS):
        path = folder / f"data/chunk-{episode // 2:03d}/episode_{episode:06d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table_of(made, episode, first), path)
        if videos:
            write_video(folder / f"videos/chunk-{episode // 2:03d}/{VIDEO}/episode_{episode:06d}.mp4", made.frames[-1])
        first += length
    rows = [{"episode_index": e, "tasks": [TASKS[e % 2]], "length": length} for e, length in enumerate(LENGTHS)]
    (folder / "meta/episodes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tasks = [{"task_index": number, "task": text} for number, text in enumerate(TASKS)]
    (folder / "meta/tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in tasks))
    return made


def write_v3(folder: Path, *, videos: bool = True) -> Made:
    """v3.0: episodes 0 and 1 share a data file and a video, episode 2 is in the next; two tables of episodes."""
    made = Made(folder)
    write_info(
        folder,
        "v3.0",
        videos,
        chunks_size=1000,
        data_path="data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        video_path="videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    )
    starts = np.concatenate([[0], np.cumsum(LENGTHS)])
    tables = [table_of(made, episode, int(starts[episode])) for episode in range(3)]
    rows = []
    for episode, length in enumerate(LENGTHS):
        file = episode // 2
        row = {
            "episode_index": episode,
            "tasks": [TASKS[episode % 2]],
            "length": length,
            "data/chunk_index": 0,
            "data/file_index": file,
            "dataset_from_index": int(starts[episode]),
            "dataset_to_index": int(starts[episode + 1]),
            "stats/action/min": [0.0, 0.0],
            "meta/episodes/chunk_index": 0,
            "meta/episodes/file_index": file,
        }
        if videos:
            start = 0 if episode != 1 else LENGTHS[0] / FPS
            row[f"videos/{VIDEO}/chunk_index"] = 0
            row[f"videos/{VIDEO}/file_index"] = file
            row[f"videos/{VIDEO}/from_timestamp"] = float(start)
            row[f"videos/{VIDEO}/to_timestamp"] = float(start + length / FPS)
        rows.append(row)
    for file, episodes in enumerate(((0, 1), (2,))):
        for name, table in (
            (f"data/chunk-000/file-{file:03d}.parquet", pa.concat_tables([tables[episode] for episode in episodes])),
            (
                f"meta/episodes/chunk-000/file-{file:03d}.parquet",
                pa.Table.from_pylist([rows[episode] for episode in episodes]),
            ),
        ):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(table, folder / name)
        if videos:
            frames = np.concatenate([made.frames[episode] for episode in episodes])
            write_video(folder / f"videos/{VIDEO}/chunk-000/file-{file:03d}.mp4", frames)
    tasks = pd.DataFrame({"task_index": range(len(TASKS))}, index=list(TASKS))
    tasks.to_parquet(folder / "meta/tasks.parquet")
    return made


WRITERS = {"v2.1": write_v2, "v3.0": write_v3}
