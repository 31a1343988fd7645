"""The demo of policies: it runs from nothing, and what it promises is there."""

from __future__ import annotations

import torch

from domains.policy.demo import main


def test_the_demo_writes_what_it_names(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FLOWKIT_CACHE", str(tmp_path / "cache"))
    threads = torch.get_num_threads()
    try:
        assert main(["--out", str(tmp_path / "demo"), "--minutes", "0.02", "--episodes", "4"]) == 0
    finally:
        torch.set_num_threads(threads)
    out = capsys.readouterr().out
    for name in ("paths.png", "adaflow.mp4", "adaflow.png", "cloning.mp4", "cloning.png"):
        assert (tmp_path / "demo" / name).stat().st_size > 1000
        assert str(tmp_path / "demo" / name) in out
    for who in ("AdaFlow", "behaviour cloning", "scripted expert", "random actions"):
        assert f"\n{who} " in out


def test_its_mistakes_are_one_line(tmp_path, capsys):
    assert main(["--minutes", "0", "--out", str(tmp_path / "demo")]) == 2
    assert capsys.readouterr().err == "demo: --minutes must be positive and --episodes at least 1, not 0.0 and 100\n"
    assert not (tmp_path / "demo").exists()
