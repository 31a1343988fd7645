"""Several machines with disks of their own."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import toy_training
from forked import Forked


class SlowData(toy_training.ToyData):
    """Notes when its preparation begins and ends."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def prepare(self) -> None:
        times = [time.monotonic()]
        time.sleep(0.3)
        (self.folder / os.environ["RANK"]).write_text(json.dumps([*times, time.monotonic()]))


def perform(folder: str) -> None:
    """One of three processes: the first machine has one, the second two."""
    os.environ["LOCAL_RANK"] = str(max(int(os.environ["RANK"]) - 1, 0))
    toy_training.train(Path(folder) / "run", data=SlowData(Path(folder)), steps=1, batch=1, evaluate_every=0)


def test_data_are_prepared_by_one_process_of_each_machine_before_its_others(tmp_path: Path) -> None:
    started = Forked("test_machines:perform", str(tmp_path), said=tmp_path / "said", world=3)
    assert started.wait() == [0, 0, 0], started.said()
    first, second, third = (json.loads((tmp_path / str(rank)).read_text()) for rank in range(3))
    # The first of all goes first, wherever the others look for its data; then the first of each other machine.
    assert first[1] <= second[0]
    assert second[1] <= third[0]
