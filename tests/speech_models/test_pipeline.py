"""Text to speech: from words to a wav file, and every mistake of a user."""

from __future__ import annotations

import json
import wave

import pytest
import torch
from toy import ToyData, toy_task

from domains.speech.pipeline import TextToSpeech
from domains.speech.splitting import split_text
from flowkit.artifacts import save_pretrained
from flowkit.cli.main import main
from flowkit.config.recipe import load_recipe
from flowkit.errors import UserError
from flowkit.solvers.midpoint import Midpoint
from flowkit.solvers.sampler import Sampler


@pytest.fixture(scope="module")
def voice() -> TextToSpeech:
    torch.manual_seed(0)
    task = toy_task()
    task.adapt(ToyData())
    return TextToSpeech(task, Sampler(steps=2))


def test_speech_has_what_it_says(voice, tmp_path) -> None:
    speech = voice.speak("abc fed. lak jig!", steps=3, solver="Midpoint", length_scale=2.0, pause=0.1)
    config = voice.voice.mel
    assert speech.sample_rate == config.sample_rate
    assert speech.wave.shape[0] == speech.mel.shape[1] * config.hop == speech.alignment.shape[1] * config.hop
    assert speech.wave.isfinite().all()
    assert speech.nfe == speech.evaluations == 6
    assert speech.rtf > speech.acoustic_rtf > 0
    assert "".join(speech.phonemes) == "abcfedlakjig"
    gap = round(0.1 * config.frame_rate)
    assert (speech.alignment.sum(0) == 0).sum() == gap  # the pause belongs to no token
    assert (speech.mel.eq(torch.tensor(config.floor).log()).all(0)).sum() == gap
    assert speech.notes == ("the voice has no symbols for ' .!': left out",)
    path = speech.save(tmp_path / "deep" / "hello")
    with wave.open(str(path)) as file:
        assert (file.getnframes(), file.getframerate()) == (speech.wave.shape[0], config.sample_rate)
    assert speech.mel_picture().save(tmp_path / "mel").suffix == ".png"
    assert speech.alignment_picture().save(tmp_path / "a.png").is_file()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "deep", "mel.png"]


def test_the_same_seed_says_the_same(voice) -> None:
    one, same, other = (voice.speak("abcdef", seed=seed).mel for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    calm, calmer = (voice.speak("abcdef", temperature=0.0, seed=seed).mel for seed in (1, 2))
    assert torch.equal(calm, calmer)


def test_a_solver_object_or_its_name(voice) -> None:
    one, same = (voice.speak("abc", steps=2, solver=solver).mel for solver in ("Midpoint", Midpoint()))
    assert torch.equal(one, same)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("123 !?", {}, "holds nothing that can be pronounced"),
        ("", {}, "holds nothing that can be pronounced"),
        ("abc", {"steps": 0}, "steps must be at least 1"),
        ("abc", {"temperature": -1.0}, "temperature must not be negative"),
        ("abc", {"temperature": float("nan")}, "temperature must not be negative"),
        ("abc", {"length_scale": 0.0}, "length_scale must lie between"),
        ("abc", {"solver": "Midpiont"}, "did you mean 'Midpoint'"),
        ("abc", {"speaker": "nobody"}, "no speaker 'nobody'"),
        ("abc", {"language": 3}, "no language number 3"),
    ],
)
def test_mistakes_are_one_clear_line(voice, text, options, message) -> None:
    with pytest.raises(UserError, match=message) as caught:
        voice.speak(text, **options)
    assert "\n" not in str(caught.value)


def test_takes(voice) -> None:
    takes = voice.takes(2, seed=1, request={"text": "abc", "length_scale": 1.5})
    assert [t.text for t in takes.values()] == ["abc", "abc"]
    assert not torch.equal(*(t.mel for t in takes.values()))
    with pytest.raises(UserError, match="did you mean 'text'"):
        voice.takes(1, request={"txt": "abc"})


def test_a_vocoder_for_other_mels_is_refused(voice) -> None:
    from dataclasses import replace

    from domains.speech.vocoder import GriffinLim

    with pytest.raises(UserError, match="made for other mels"):
        TextToSpeech(voice.task, vocoder=GriffinLim(replace(voice.voice.mel, hop=128)))


def test_splitting() -> None:
    text = "Dr. J. Smith left at 3.15 p.m. today. Who knows why? “Not me!” he said.\n\nThe end"
    assert split_text(text) == [
        "Dr. J. Smith left at 3.15 p.m. today.", "Who knows why?", "“Not me!”", "he said.", "The end",
    ]  # fmt: skip
    assert split_text(" \n ") == []
    long = "one two, " * 60
    pieces = split_text(long, longest=100)
    assert all(len(piece) <= 100 for piece in pieces)
    assert " ".join(pieces).split() == long.split()
    assert all(piece.endswith(",") for piece in pieces)


RECIPE = {
    "task": {
        "class_path": "Matcha",
        "init_args": {
            "symbols": 13, "features": 8,
            "encoder": {
                "width": 32, "filter_width": 64, "layers": 2, "prenet_layers": 1, "duration_width": 32,
                "prenet_dropout": 0.1,
            },
            "decoder": {
                "class_path": "MatchaDecoder",
                "init_args": {
                    "features": 8, "channels": [32, 32], "head_width": 16, "middle": 1, "groups": 4, "dropout": 0.0,
                },
            },
            "objective": "FlowMatching",
        },
    },
    "sampler": {"steps": 2},
}  # fmt: skip


@pytest.fixture(scope="module")
def saved(voice, tmp_path_factory):
    from flowkit.config.recipe import parse_recipe

    folder = tmp_path_factory.mktemp("voices") / "toy"
    return save_pretrained(folder, voice.task, recipe=parse_recipe(RECIPE, "toy", keys=("task", "sampler")))


def test_a_saved_voice_speaks_alike(voice, saved) -> None:
    loaded = TextToSpeech.from_pretrained(saved)
    assert loaded.sampler.steps == 2
    assert torch.equal(loaded.speak("abcdef").mel, voice.speak("abcdef").mel)


def test_speak_on_the_command_line(saved, tmp_path, capsys) -> None:
    out = tmp_path / "hello.wav"
    arguments = [
        "speak",
        str(saved),
        "--text",
        "abc fed",
        "--out",
        str(out),
        "--steps",
        "3",
        "--solver",
        "Midpoint",
        "--device",
        "cpu",
    ]
    assert (
        main(
            [*arguments, "--length-scale", "1.1", "--mel", str(tmp_path / "m.png"), "--alignment", str(tmp_path / "a")]
        )
        == 0
    )
    told = capsys.readouterr()
    assert "6 network calls" in told.out
    assert "real-time factor" in told.out
    assert "left out" in told.err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "hello.wav", "m.png"]


def test_a_file_of_texts_and_json(saved, tmp_path, capsys) -> None:
    (tmp_path / "texts.txt").write_text("abc\n\nfed\n", encoding="utf-8")
    arguments = [
        "speak",
        str(saved),
        "--file",
        str(tmp_path / "texts.txt"),
        "--out",
        str(tmp_path / "s.wav"),
        "--json",
        "--device",
        "cpu",
    ]
    assert main(arguments) == 0
    told = json.loads(capsys.readouterr().out)
    assert [s["text"] for s in told["speech"]] == ["abc", "fed"]
    assert [s["files"]["wav"][-9:] for s in told["speech"]] == ["s-001.wav", "s-002.wav"]
    assert told["speech"][0]["nfe"] == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--text", "abc", "--out", "x.mp3"], "must end in .wav or .flac"),
        (["--text", " "], "--text is empty"),
        (["--text", "123"], "nothing that can be pronounced"),
        (["--text", "abc", "--steps", "0"], "at least 1"),
        (["--text", "abc", "--solver", "Eulr"], "did you mean 'Euler'"),
        (["--file", "missing.txt"], "missing.txt: No such file"),
        (["--text", "abc", "--length-scale", "-1"], "length_scale must lie between"),
    ],
)
def test_mistakes_on_the_command_line(saved, tmp_path, capsys, monkeypatch, options, message) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["speak", str(saved), "--device", "cpu", *options]) == 2
    told = capsys.readouterr().err.strip()
    assert message in told
    assert "\n" not in told
    assert not list(tmp_path.iterdir())


def test_a_voice_that_is_not_there(capsys) -> None:
    assert main(["speak", "speech/nobody", "--text", "abc"]) == 2
    assert "neither a run folder nor a pretrained model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("matcha-ljspeech", 18_204_193), ("matcha-prompts-published", 18_204_193), ("matcha-prompts", None)],
)
def test_recipes_build(name: str, parameters: int | None) -> None:
    task = load_recipe(f"speech/{name}").build("task").task
    count = sum(p.numel() for p in task.parameters())
    # The small one ships in half precision and must stay under 16 MiB.
    assert count == parameters if parameters else 2 * count + 65536 < 16 * 2**20
