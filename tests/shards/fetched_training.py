"""A tiny training on shards that a command fetches, and what may happen to it meanwhile."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import toy_set
from toy_training import ToyData, ToySamples, ToyTask, kill, train

from flowkit import atomic
from flowkit.data import DataSource, RawBatch, Samples
from flowkit.shards.opening import ShardOptions, open_shards
from flowkit.shards.places import PIPES
from flowkit.shards.tar import members_of

#: Fetches the file ``$1`` for the process ``$2``, notes which, and may kill that process in the middle of a shard.
FETCH = """
case $1 in index/*) exec cat "$FROM/$1";; esac
echo $1 >> "$FETCHED"
if [ "$(wc -l < "$FETCHED")" -ge "$KILL_AT_FETCH" ] && mkdir "$FETCHED-killed" 2> /dev/null; then
    head -c 20000 "$FROM/$1"
    sleep 0.1
    kill -9 $2
fi
exec cat "$FROM/$1"
"""
#: Bytes that the cache holds: less than the shards have, so that each epoch fetches anew.
ROOM = 4 * toy_set.SIZE


class FetchedSamples(Samples):
    """Items as rows of four numbers."""

    def __init__(self, places: list[str], cache: str) -> None:
        options = ShardOptions(window=1, cache=cache, cache_gib=ROOM / 2**30)
        self.shards = open_shards(places, options, kind="toy").shards
        self.window, self.ahead = self.shards.window, 8

    def __len__(self) -> int:
        return len(self.shards.index.items)

    def batch(self, indices: Sequence[int]) -> RawBatch:
        read = [members_of(data) for data in self.shards.read(np.asarray(indices))]
        x = np.stack([np.frombuffer(members["bin"], np.uint8, count=4) for members in read])
        return {
            "x": torch.from_numpy(x).float() / 128 - 1,
            "number": torch.tensor([json.loads(bytes(members["json"]))["number"] for members in read]),
        }

    def groups(self) -> np.ndarray:
        return self.shards.index.shard_of(np.arange(len(self)))

    def about(self) -> Mapping[str, Any]:
        return self.shards.about()

    def expect(self, indices: Sequence[int]) -> None:
        self.shards.expect(np.asarray(indices))


class FetchedData(DataSource):
    def __init__(self, places: list[str], cache: str) -> None:
        self.places, self.cache = places, cache

    def prepare(self) -> None:
        pass

    def split(self, name: str) -> Samples:
        return FetchedSamples(self.places, self.cache) if name == "train" else ToySamples(4, 2)

    def statistics(self) -> dict[str, Any]:
        return ToyData().statistics()


def perform(job: dict[str, Any]) -> None:
    """Train on what ``from`` holds and note which samples each step is made of.

    ``kill_at_fetch``: SIGKILL in the middle of the shard that is fetched as that one, counted from 1, to the process
    that fetches it; ``kill_at``: after that step.
    """
    folder = Path(job["folder"])
    rank = os.environ.get("RANK", "0")
    script, note = folder.with_name("fetch.sh"), folder.with_name(f"{folder.name}-seen-{rank}")
    atomic.write_text(script, FETCH)  # runs beside this one may be reading it
    fetched = folder.with_name(f"{folder.name}-fetched-{job['number']}")
    at = str(job.get("kill_at_fetch", 1000))
    os.environ |= {"FROM": job["from"], "FETCHED": str(fetched), "KILL_AT_FETCH": at, PIPES: "1"}
    torch.manual_seed(0)
    task, used = ToyTask(), []
    prepare = task.prepare

    def noted(raw: RawBatch, generator: Any = None) -> Any:
        used.extend(raw["number"].tolist())
        return prepare(raw, generator)

    def end(step: int) -> None:
        with note.open("a") as file:
            print(json.dumps([step, used]), file=file)
        used.clear()
        if step + 1 == job.get("kill_at"):
            kill()

    task.prepare = noted
    task.objective.after.append(end)
    data = FetchedData([f"pipe:sh {script} {{}} $PPID"], str(folder.with_name(job["cache"])))
    options = {"steps": 25, "batch": 4, "checkpoint_every": 3, "evaluate_every": 0, "log_every": 1, "prefetch": 2}
    train(folder, task, data, resume=job.get("resume"), **options | job.get("trainer", {}))
