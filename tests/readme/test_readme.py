"""What the pages tell a reader to type works: every shell and Python example, in order, in an empty folder.

Commands are run as written, with words appended that make them short (:data:`SHORTER`). Recipes whose data would be
fetched get rule-made speech instead (:data:`FETCHED`), after the recipe itself was resolved with the page's overrides.
What is not run stands in :data:`NOT_RUN`, with the reason. Any other program in an example is a failure.
"""

from __future__ import annotations

import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import soundfile
import yaml

from domains.speech.data.espeak import speak
from flowkit.cli.main import main
from flowkit.config.overrides import split_overrides
from flowkit.config.recipe import load_recipe
from flowkit.train.trainer import Trainer

ROOT = Path(__file__).parents[2]
PAGES = {
    page.relative_to(ROOT).as_posix(): page
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted(ROOT.glob("domains/*/README.md")))
}

#: Pages that are not run.
NO_PAGE = {
    "docs/your-own-demonstrations.md": "needs demonstrations of the reader's own and simulators",
    "domains/policy/README.md": "needs simulators",
    "docs/your-own-videos.md": "needs videos of the reader's own",
}
#: First words of commands that are not run.
NOT_RUN = {
    "make demo": "installs the package, fetches recordings and trains for minutes",
    "make test": "this suite",
    "tensorboard": "a server that runs until it is stopped",
}
#: What is appended to the verbs of ``flowkit`` that would take long; a later word wins over an earlier one.
_FEW_STEPS = [
    "--trainer.steps", "2", "--trainer.batch", "4", "--trainer.evaluate_every", "0", "--trainer.sample_every", "0",
    "--trainer.progress", "false",
]  # fmt: skip
SHORTER = {
    "train": [*_FEW_STEPS, "--device", "cpu"],
    "finetune": [*_FEW_STEPS, "--device", "cpu"],
    "reflow": [*_FEW_STEPS, "--pairs", "32", "--device", "cpu"],
    "compare": [
        *_FEW_STEPS, "--steps", "2", "--minutes", "0", "--seeds", "1", "--limit", "50", "--device", "cpu",
        "--trainer.batch", "128",  # pairs are made in batches of it
    ],
    "predict": ["--frames", "1", "--samples", "1", "--steps", "1", "--device", "cpu"],
    "sample": ["-n", "4"],
    "evaluate": ["--limit", "8"],
    "rollout": ["--episodes", "2"],
}  # fmt: skip
#: Recipes whose data are fetched from the network.
FETCHED = ["speech/matcha-prompts", "speech/matcha-prompts-published", "speech/matcha-ljspeech"]
#: What a page takes for granted.
BEFORE = {
    "docs/choosing-a-solver.md": ["flowkit", "train", "generic/mixture-flow-matching", "--out", "runs/mixture"],
    "docs/methods/consistency-fm.md": ["flowkit", "train", "generic/mixture-flow-matching", "--out", "runs/mixture"],
    "docs/methods/seqrf.md": ["flowkit", "train", "policy/flow-fork", "--out", "runs/flow-fork"],
    "domains/speech/README.md": ["flowkit", "train", "speech/matcha-prompts", "--out", "runs/voice"],
}
SENTENCES = ["Good morning.", "How are you?", "The train leaves at nine.", "Please wait.", "Thank you.", "Good night."]


_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LOOP = re.compile(r"^for (?P<name>\w+) in (?P<first>\S+)[^;\n]*; do (?P<body>.*); done", re.MULTILINE)


@dataclass(frozen=True)
class Example:
    """A fenced block: its language, its text, and the line of the page where the text begins."""

    language: str
    text: str
    line: int

    def commands(self) -> list[list[str]]:
        """A shell block's command lines, split into words, without comments; of a loop, its first round."""
        text = self.text.replace("\\\n", " ")
        text = _LOOP.sub(lambda loop: loop["body"].replace(f"${loop['name']}", loop["first"]), text)
        lines = text.splitlines()
        return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


def examples(page: Path) -> list[Example]:
    """All fenced blocks of a page."""
    text = page.read_text(encoding="utf-8")
    return [Example(found[1], found[2], text.count("\n", 0, found.start(2)) + 1) for found in _FENCE.finditer(text)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with a link to the recipes of the checkout; nothing is kept elsewhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLOWKIT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    return tmp_path


@pytest.mark.parametrize("name", [name for name in PAGES if name not in NO_PAGE])
def test_the_examples_of_a_page_work(name: str, folder: Path) -> None:
    if name == "docs/your-own-voice.md":
        _record(folder / "my-voice")
    if name in BEFORE:
        _run(BEFORE[name], name)
    namespace: dict[str, Any] = {"__name__": "example"}
    for example in examples(PAGES[name]):
        where = f"{name}:{example.line}"
        if example.language == "bash":
            for words in example.commands():
                _run(words, where)
        elif example.language == "python":
            exec(compile("\n" * (example.line - 1) + example.text, str(PAGES[name]), "exec"), namespace)
        elif example.language == "yaml":
            _write_recipe(example, folder / "my-voice.yaml")


def test_what_is_not_run_is_still_there() -> None:
    commands = [
        " ".join(words)
        for page in PAGES.values()
        for example in examples(page)
        if example.language == "bash"
        for words in example.commands()
    ]
    for excluded in NOT_RUN:
        assert any(command.startswith(excluded) for command in commands), f"no page says {excluded!r} any more"
    assert set(NO_PAGE) | set(BEFORE) <= set(PAGES)


def _run(words: list[str], where: str) -> None:
    line = " ".join(words)
    if any(line.startswith(excluded) for excluded in NOT_RUN):
        return
    if words[0] == "cp":
        shutil.copyfile(words[1], words[2])
        return
    if words[0] in ("torchrun", "accelerate"):
        # The launchers themselves are tried elsewhere: what they start is run in this process.
        words = ["flowkit", *words[words.index("flowkit.cli.main") + 1 :]]
    assert words[0] == "flowkit", f"{where}: no rule says how to run {line!r}"
    arguments = [*words[1:], *SHORTER.get(words[1], [])]
    for i, word in enumerate(arguments):
        if word in FETCHED:
            load_recipe(word, split_overrides(arguments)[1], trainer=Trainer)
            arguments[i] = _with_rule_made_speech(word)
    assert main(arguments) == 0, f"{where}: {line!r} fails"


def _with_rule_made_speech(recipe: str) -> str:
    """A recipe file of the same name whose data need no network."""
    values = yaml.safe_load((ROOT / "recipes" / f"{recipe}.yaml").read_text())
    values["data"] = {"class_path": "RuleMade", "init_args": {"sentences": SENTENCES}}
    path = Path(recipe).with_suffix(".yaml").name
    Path(path).write_text(yaml.safe_dump(values))
    return path


def _record(folder: Path) -> None:
    """Recordings as the page describes them: a table and sound files."""
    (folder / "wavs").mkdir(parents=True)
    rows = ["file,text,split"]
    splits = ["train", "train", "train", "train", "validation", "test"]
    for i, (text, split) in enumerate(zip(SENTENCES, splits, strict=True)):
        spoken = speak(text)
        soundfile.write(folder / "wavs" / f"{i}.wav", spoken.wave, spoken.sample_rate)
        rows.append(f'wavs/{i}.wav,"{text}",{split}')
    (folder / "metadata.csv").write_text("\n".join(rows) + "\n")


def _write_recipe(example: Example, copied: Path) -> None:
    """A whole recipe must parse; a part of one goes into the recipe that the page has copied."""
    values = yaml.safe_load(example.text)
    if "task" in values:
        copied.with_name("example.yaml").write_text(example.text)
        load_recipe(copied.with_name("example.yaml"), trainer=Trainer)
    else:
        copied.write_text(yaml.safe_dump({**yaml.safe_load(copied.read_text()), **values}))
