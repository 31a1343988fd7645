from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from domains.speech.data import debian
from domains.speech.data.prompts import Prompts, is_speech
from domains.speech.text import normal_form
from flowkit.errors import UserError

#: Sentences on which results are reported: never in training or validation.
REPORTED = {
    *("auth-incorrect", "conf-kicked", "conf-muted", "conf-onlyone", "conf-userswilljoin"),
    *("confbridge-inc-list-vol-in", "confbridge-inc-list-vol-out", "confbridge-menu-exit-in", "confbridge-muted"),
    *("confbridge-menu-exit-out", "confbridge-only-one", "confbridge-removed", "demo-nomatch", "dir-nomatch"),
    *("entr-num-rmv-blklist", "info-about-last-call", "pm-invalid-option", "ss-noservice", "vm-dialout"),
    *("vm-star-cancel", "vm-tempremoved", "vm-whichbox"),
}


@pytest.fixture(scope="module")
def english() -> Prompts:
    """The English set from the user's cache, or from a Debian archive within reach."""
    for package in ("av", "phonemizer", "espeakng_loader"):
        pytest.importorskip(package)
    data = Prompts("en")
    try:
        data.prepare()
    except UserError as error:
        pytest.skip(f"no recordings: {error}")
    return data


def test_english_has_the_known_size(english: Prompts) -> None:
    statistics = english.statistics()
    # 551 files with speech; one of them says something else than its text, two are over 30 seconds.
    assert sum(statistics["utterances"].values()) + statistics["too_short"] == 548
    assert statistics["utterances"] == {"train": 436, "validation": 60, "test": 52}
    assert statistics["seconds"]["train"] == pytest.approx(1039, abs=2)
    assert statistics["seconds"]["validation"] == pytest.approx(147, abs=1)
    assert statistics["seconds"]["test"] == pytest.approx(108, abs=1)
    assert statistics["dropped"] == {"too long": 2}
    assert 2.3 < statistics["frames_per_token"] < 2.6
    assert statistics["speakers"] == ["Allison Smith"]
    assert "CC-BY-SA" in statistics["licence"]
    assert len(statistics["symbols"]) == 178
    assert sum(file.stat().st_size for file in english.folder.iterdir()) < 16e6


def test_no_sentence_is_on_two_sides(english: Prompts) -> None:
    texts = {
        name: {normal_form(t) for t in english.split(name).column("text")} for name in ("train", "validation", "test")
    }
    assert not texts["train"] & texts["test"]
    assert not texts["train"] & texts["validation"]
    assert not texts["validation"] & texts["test"]
    assert len(REPORTED) == 22
    assert set(english.split("test").column("key")) >= REPORTED


def test_a_batch_and_its_recording(english: Prompts) -> None:
    part = english.split("test")
    place = part.column("key").index("auth-incorrect")
    raw = part.batch([place])
    assert raw["text"] == ["Password incorrect.  Please enter your password followed by the pound key."]
    wave = english.waveform("auth-incorrect")
    assert raw["mel"].shape == (1, 80, wave.numel() // 256)
    assert wave.numel() / 16000 == pytest.approx(part.column("seconds")[place], abs=1e-3)


def test_what_is_no_speech() -> None:
    assert is_speech("en", "auth-thankyou", "Thank you.")
    assert not is_speech("en", "beep", "[this is a simple beep tone]")
    assert not is_speech("fr", "x", "(beep)")
    assert not is_speech("en", "spy-iax2", 'IAX (note: does not say "2")')
    assert not is_speech("it", "confbridge-leave", "un suono")
    assert not is_speech("ru", "is", "")
    assert is_speech("fr", "is", "est")


def test_languages_are_checked() -> None:
    with pytest.raises(UserError, match="Prompts has no language 'english'"):
        Prompts("english").prepare()
    assert Prompts(["it", "en", "it"]).languages == ["en", "it"]
    assert Prompts(["it", "en"]).folder == Prompts(["en", "it"]).folder
    assert Prompts("it").licence == "CC-BY-3.0"
    assert "Carlo Flora" in Prompts(["it", "en"]).attribution[1]


def test_without_apt_the_way_out_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="apt-get is not on this machine: use the data source RuleMade") as caught:
        Prompts("en", cache=str(tmp_path / "cache")).prepare()
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "cache").rglob("*.npy"))


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg")
def test_packages_at_hand_are_not_fetched_again(tmp_path: Path) -> None:
    import subprocess

    tree = tmp_path / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "usr").mkdir()
    (tree / "usr" / "hello").write_text("hello")
    control = "Package: {}\nVersion: 1\nArchitecture: all\nMaintainer: nobody <n@example.org>\nDescription: none\n"
    (tree / "DEBIAN" / "control").write_text(control.format("flowkit-example"))
    target = tmp_path / "packages" / "flowkit-example_1_all.deb"
    target.parent.mkdir()
    subprocess.run(["dpkg-deb", "--build", str(tree), str(target)], check=True, capture_output=True)
    (file,) = debian.fetch(["flowkit-example"], target.parent, instead="nothing")
    debian.unpack(file, tmp_path / "out")
    assert (tmp_path / "out" / "usr" / "hello").read_text() == "hello"
    target.write_bytes(target.read_bytes()[:100])
    with pytest.raises(UserError, match="dpkg failed"):
        debian.unpack(file, tmp_path / "out2")
