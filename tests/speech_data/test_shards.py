"""Speech from shards is the speech of the source: the same batches, statistics and losses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from domains.speech.data.prepared import SPLITS
from domains.speech.data.rulemade import RuleMade
from domains.speech.data.shards import SpeechShards
from domains.speech.features import MelConfig
from flowkit.cli.main import main
from flowkit.errors import UserError
from flowkit.shards.sharded import Sharded
from flowkit.shards.writer import write_shards

RECIPE = "speech/smoke/matcha-rulemade"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> RuleMade:
    texts = [
        f"Number {word}." for word in ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    ]
    data = RuleMade(
        [*texts, *(f"Say {text.lower()}" for text in texts)], voices=["en-us+f3", "en-us+m3"], phonemes="characters",
        mel=MelConfig(sample_rate=16000, bins=20), cache=str(tmp_path_factory.mktemp("cache")),
    )  # fmt: skip
    data.prepare()
    return data


@pytest.fixture(scope="module")
def folder(source: RuleMade, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    index = write_shards(source.records(), [folder], size=24 * 1024, shown=False)
    assert len(index.shards) > 3
    return folder


def assert_same(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        same = torch.equal(value, b[name]) if isinstance(value, torch.Tensor) else value == b[name]
        assert same, name


def test_batches_lengths_columns_and_statistics_are_those_of_the_source(source: RuleMade, folder: Path) -> None:
    data = SpeechShards([str(folder)])
    data.prepare()
    for name in SPLITS:
        ours, theirs = data.split(name), source.split(name)
        assert len(ours) == len(theirs)
        ours.pad_multiple = theirs.pad_multiple = 8
        rows = torch.randperm(len(ours), generator=torch.Generator().manual_seed(0)).tolist()
        assert_same(ours.batch(rows), theirs.batch(rows))
        assert ours.lengths().tolist() == theirs.lengths().tolist()
        assert ours.token_lengths().tolist() == theirs.token_lengths().tolist()
        for column in ("key", "text", "seconds", "durations"):
            assert ours.column(column) == theirs.column(column)
        with pytest.raises(UserError, match="did you mean 'phonemes'"):
            ours.column("phoneme")
    ours, theirs = dict(data.statistics()), dict(source.statistics())
    assert {name: ours[name] for name in theirs if name != "folder"} == {
        k: v for k, v in theirs.items() if k != "folder"
    }
    assert ours["damaged"] == 0
    assert data.mel == source.mel


def test_damaged_utterances_are_left_out_and_counted(source: RuleMade, folder: Path, tmp_path: Path) -> None:
    for path in folder.glob("*.tar"):
        os.link(path, tmp_path / path.name)
    os.symlink(folder / "index", tmp_path / "index")
    (tmp_path / "shard-000001.tar").unlink()
    with pytest.raises(UserError, match=r"1 of the \d+ shards are missing .*shard-000001.tar"):
        SpeechShards([str(tmp_path)], cache=str(tmp_path)).prepare()
    data = SpeechShards([str(tmp_path)], skip_damaged=True, cache=str(tmp_path))
    statistics = data.statistics()
    gone = data.packed.shards.index.shards[1].items
    assert statistics["damaged"] == gone
    whole = source.statistics()
    assert sum(statistics["utterances"].values()) == sum(whole["utterances"].values()) - gone
    assert statistics["too_short"] == whole["too_short"]
    keys = data.split("train").column("key")
    assert keys == [key for key in source.split("train").column("key") if key in set(keys)]
    data.split("train").batch(list(range(len(keys))))


def test_sizes_are_finite(source: RuleMade, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for size in ("0", "inf", "nan"):
        assert main(["data", "shard", RECIPE, "--out", "nowhere", "--size", size]) == 2
        assert capsys.readouterr().err == f"flowkit: --size {size}: it is positive, in MiB\n"
        with pytest.raises(UserError, match=r"data.init_args.mib is .* positive"):
            Sharded(source, mib=float(size)).prepare()
        with pytest.raises(UserError, match=r"data.init_args.cache_gib is .* positive"):
            SpeechShards([str(folder)], cache_gib=float(size)).prepare()


def test_shards_of_shards_and_the_wrong_reader(folder: Path, tmp_path: Path) -> None:
    data = SpeechShards([str(folder)])
    write_shards(data.records(), [tmp_path], size=1 << 20, shown=False)
    again = SpeechShards([str(tmp_path)]).split("train")
    assert_same(again.batch([0, 2]), data.split("train").batch([0, 2]))
    from domains.video.data.shards import VideoShards

    with pytest.raises(UserError, match="hold speech, the recipe's source reads video"):
        VideoShards([str(folder)]).prepare()


def losses(run: Path) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["train/loss"]) for line in lines if "train/loss" in line]


def test_training_on_shards_equals_training_on_the_source_and_goes_on_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FLOWKIT_CACHE", str(tmp_path / "cache"))
    shards = str(tmp_path / "shards")
    assert main(["data", "shard", RECIPE, "--out", shards, "--size", "0.025", "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert told["source"] == "SpeechShards"
    assert told["shards"] > 3
    few = ["--device", "cpu", "--trainer.progress", "false", "--trainer.steps", "6", "--trainer.log_every", "1"]
    few += ["--trainer.evaluate_every", "0", "--trainer.sample_every", "0", "--trainer.checkpoint_every", "2"]
    from_shards = ["--data.class_path", "SpeechShards", "--data.places", f"[{shards}]"]
    assert main(["train", RECIPE, "--out", str(tmp_path / "plain"), *few]) == 0
    mixed = [*from_shards, "--data.window", "0", *few]
    assert main(["train", RECIPE, "--out", str(tmp_path / "mixed"), *mixed]) == 0
    assert losses(tmp_path / "mixed") == losses(tmp_path / "plain")

    near = [*from_shards, "--data.window", "2", *few]
    assert main(["train", RECIPE, "--out", str(tmp_path / "near"), *near]) == 0
    assert losses(tmp_path / "near") != losses(tmp_path / "plain")
    killed = tmp_path / "killed"
    command = [sys.executable, "-m", "flowkit.cli.main", "train", RECIPE, "--out", str(killed), *near]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    end = time.monotonic() + 120
    while not (killed / "checkpoints" / "00000002").is_dir() and time.monotonic() < end:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == -9, errors
    assert main(["train", str(killed), "--resume", "last"]) == 0
    weights = [
        load_file(run / "checkpoints" / "00000006" / "state" / "weights.safetensors")
        for run in (killed, tmp_path / "near")
    ]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert losses(killed) == losses(tmp_path / "near")
