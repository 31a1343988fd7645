from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from flowkit.cli import main as module
from flowkit.cli.main import VERBS, all_verbs, main
from flowkit.version import __version__


def test_help_names_every_verb(flowkit):
    code, out, _ = flowkit("--help")
    assert code == 0
    for verb in [*VERBS, "speak", "wave"]:
        assert f"\n  {verb} " in out
    assert flowkit()[1] == out


@pytest.mark.parametrize("verb", [*VERBS, "speak"])
def test_every_verb_has_help_with_an_example(flowkit, verb):
    code, out, err = flowkit(verb, "--help")
    assert (code, err) == (0, "")
    assert "example" in out
    assert f"flowkit {verb} " in out.split("example", 1)[1]
    assert "--plugin FILE" in out


def test_version(flowkit):
    assert flowkit("--version")[:2] == (0, f"flowkit {__version__}\n")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["trian"], ["no verb 'trian'", "did you mean 'train'?"]),
        (["train"], ["RECIPE"]),
        (["train", "x", "--resum", "last"], ["'--resum'", "did you mean '--resume'?"]),
        (["train", "x", "--resume"], ["--resume"]),
        (["train", "nowhere.yaml"], ["'nowhere.yaml' is neither a file nor the name of a recipe"]),
        (["train", "x", "--trainer.steps"], ["--trainer.steps needs a value"]),
        (["train", "x", "--device", "gpu"], ["--device", "auto"]),
        (["sample", "nowhere"], ["'nowhere' is neither a run folder nor a pretrained model"]),
        (["sample", "nowhere", "-n", "0"], ["--number 0"]),
        (["sample", "nowhere", "--steps", "0"], ["--steps 0"]),
        (["sample", "nowhere", "--steps", "1.5"], ["--steps", "1.5"]),
        (["sample", "nowhere", "--steps", "3", "--tolerance", "1e-3"], ["exclude"]),
        (["sample", "nowhere", "--tolerance", "-1"], ["--tolerance"]),
        (["sample", "nowhere", "--request", "text"], ["KEY=VALUE"]),
        (["evaluate", "nowhere", "--split", "tset"], ["tset", "test"]),
        (["list", "metods"], ["'metods'", "did you mean 'methods'?"]),
        (["show", "Eulr"], ["'Eulr'", "did you mean 'Euler'?"]),
        (["data", "prepaer", "x"], ["prepaer"]),
        (["new", "method", "3d"], ["'3d' cannot name a method"]),
        (["new", "method", "class"], ["'class' cannot name a method"]),
        (["--plugin"], ["--plugin needs a file"]),
        (["list", "--plugin", "nowhere.py"], ["--plugin nowhere.py: no such file"]),
        (["list", "methods", "more"], ["'more'"]),
    ],
)
def test_a_mistake_is_exit_2_and_one_line(capsys, line, words):
    assert main(line) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("flowkit: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    for word in words:
        assert word in err


def test_a_plugins_verb_runs(flowkit):
    assert flowkit("wave", "--name", "you")[:2] == (0, "hello you\n")
    assert "wave" in all_verbs()


def test_interruption_is_130(monkeypatch, capsys):
    def stop(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_run", stop)
    assert main(["list"]) == 130
    assert capsys.readouterr().err == "flowkit: interrupted\n"


def test_a_fault_of_flowkits_own_keeps_its_traceback(monkeypatch):
    def fail(_):
        raise ZeroDivisionError

    monkeypatch.setattr(module, "_run", fail)
    with pytest.raises(ZeroDivisionError):
        main(["list"])


def test_the_program_itself():
    """The installed command: exit code 2 and one line; a closed pipe is no traceback."""
    command = [sys.executable, "-W", "ignore", "-m", "flowkit.cli.main"]
    done = subprocess.run([*command, "lst"], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    started = time.monotonic()
    process = subprocess.Popen([*command, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    _, err = process.communicate(timeout=60)
    assert "Traceback" not in err
    assert process.returncode != -signal.SIGSEGV
    assert time.monotonic() - started < 20
