"""A HiFi-GAN behind the vocoder's interface, and as a program of a voice's export."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from exported_models import FORMATS, Made, alive

from domains.speech import audio
from domains.speech.exporting import VOCODER
from domains.speech.features import MelConfig
from domains.speech.hifi_gan import HifiGan
from flowkit.artifacts import save_pretrained
from flowkit.cli.main import main
from flowkit.config.recipe import parse_recipe
from flowkit.errors import UserError
from flowkit.export import cached_export, open_export, write_export
from flowkit.programs import Exportable
from flowkit.solvers.sampler import Sampler

pytest.importorskip("transformers", reason="the package transformers is optional")
pytestmark = pytest.mark.filterwarnings("ignore")

MEL = MelConfig(sample_rate=8000, n_fft=256, win=256, hop=64, bins=8, f_max=4000.0)
SIZES: dict[str, Any] = {
    "model_in_dim": 8, "sampling_rate": 8000, "upsample_initial_channel": 16, "upsample_rates": [8, 8],
    "upsample_kernel_sizes": [16, 16], "resblock_kernel_sizes": [3], "resblock_dilation_sizes": [[1, 3]],
}  # fmt: skip


def saved(folder: Path, **changes: Any) -> Path:
    """A folder that transformers writes: random weights, and scales that are not 0 and 1."""
    from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

    torch.manual_seed(0)
    network = SpeechT5HifiGan(SpeechT5HifiGanConfig(**{**SIZES, **changes}))
    for parameter in network.parameters():
        parameter.data.normal_(std=0.2)  # transformers begins with weights that all but silence it
    network.mean.fill_(-2.0)
    network.scale.fill_(1.5)
    network.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def hifi_gan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("vocoders") / "hifi-gan")


@pytest.fixture(scope="module")
def mel() -> torch.Tensor:
    return torch.randn(2, 8, 11, generator=torch.Generator().manual_seed(1)) - 3.0


@torch.no_grad()
def test_it_says_what_transformers_says(hifi_gan: Path, mel: torch.Tensor) -> None:
    from transformers import SpeechT5HifiGan

    theirs = SpeechT5HifiGan.from_pretrained(hifi_gan)
    wave = HifiGan(MEL, folder=str(hifi_gan))(mel)
    assert wave.shape == (2, 11 * MEL.hop)
    assert wave.std() > 0.05
    torch.testing.assert_close(wave, theirs(mel.transpose(1, 2)))
    decimal = HifiGan(MEL, folder=str(hifi_gan), logarithm="decimal")(mel)
    torch.testing.assert_close(decimal, theirs(torch.log10(mel.exp()).transpose(1, 2)), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sampling_rate": 16000}, "made for 16000 samples a second, the voice's mels have 8000"),
        ({"model_in_dim": 9}, "made for 9 mel bins"),
        ({"upsample_rates": [8, 4], "upsample_kernel_sizes": [16, 8]}, "made for 32 samples a frame"),
        ({"upsample_kernel_sizes": [16, 15]}, "no whole number of samples"),
    ],
)
def test_a_network_for_other_mels_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        HifiGan(MEL, folder=str(saved(tmp_path / "other", **changes)))


def test_folders_that_hold_no_such_network_are_one_line(hifi_gan: Path, tmp_path: Path) -> None:
    config = json.loads((hifi_gan / "config.json").read_text())
    for text, said in (
        (None, "has no config.json"), ("{", "cannot be read"), ("[]", "cannot be read"),
        (json.dumps({**config, "model_type": "llama"}), "of type 'llama'"), (json.dumps(config), "cannot be used"),
    ):  # fmt: skip
        if text is not None:
            (tmp_path / "config.json").write_text(text)
        with pytest.raises(UserError, match=said) as caught:
            HifiGan(MEL, folder=str(tmp_path))
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="was given 9"):
        HifiGan(MEL, folder=str(hifi_gan))(torch.zeros(1, 9, 4))


def test_the_program_makes_the_wave(voice: Made, hifi_gan: Path, tmp_path: Path) -> None:
    task: Any = voice.task
    given, task.make_vocoder = task.make_vocoder, lambda mel: HifiGan(mel, folder=str(hifi_gan))
    try:
        program = task.exports(voice.sampler).programs[VOCODER]
        vocoder = task.make_vocoder(MEL)
    finally:
        task.make_vocoder = given
    alone: Any = SimpleNamespace(eval=lambda: None, exports=lambda sampler: Exportable({VOCODER: program}))
    folder = write_export(tmp_path / "out", alone, Sampler(steps=1), formats=FORMATS)
    for runtime in FORMATS:
        exported = open_export(folder, runtime=runtime)
        for rows, frames in ((1, 2), (3, 40), (2, 7)):  # none is a size that was traced
            mel = torch.randn(rows, 8, frames) - 3.0
            found = exported(VOCODER, mel=mel.numpy())["wave"]
            np.testing.assert_allclose(found, vocoder(mel).numpy(), atol=1e-4)


RECIPE: dict[str, Any] = {
    "task": {
        "class_path": "Matcha",
        "init_args": {
            "symbols": 13, "features": 8,
            "encoder": {"width": 4, "heads": 1, "filter_width": 8, "layers": 1, "duration_width": 8},
            "decoder": {
                "class_path": "MatchaDecoder",
                "init_args": {
                    # One group: norms over two channels of one frame would magnify rounding.
                    "features": 8, "channels": [8], "head_width": 4, "middle": 0, "transformers": 0, "groups": 1,
                },
            },
            "objective": "FlowMatching",
        },
    },
    "sampler": {"steps": 1},
}  # fmt: skip


@pytest.mark.slow  # 20 s; its parts are tested above and in test_export
def test_flowkit_speak_by_programs_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from domains.speech.voice import Voice
    from flowkit.artifacts import from_pretrained

    monkeypatch.setenv("FLOWKIT_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)
    recipe = parse_recipe(RECIPE, "toy", keys=("task", "sampler"))
    task: Any = recipe.build("task").task
    task.stored_voice.copy_(Voice(MEL, tuple("_abcdefghijkl"), "characters").to_bytes())
    task.duration_totals.copy_(torch.tensor([3.0, 1.0]))
    folder = save_pretrained(tmp_path / "voice", alive(task), recipe=recipe)
    own = saved(tmp_path / "own")
    vocoder = ["--task.vocoder.class_path", "HifiGan", "--task.vocoder.init_args.folder", str(own)]
    out = tmp_path / "said.wav"
    words = ["speak", str(folder), "--text", "abc fed", "--out", str(out), "--json", *vocoder]
    assert main([*words, "--runtime", FORMATS[0]]) == 0
    capsys.readouterr()
    overrides = [(key.removeprefix("--"), value) for key, value in zip(vocoder[::2], vocoder[1::2], strict=True)]
    artifact = from_pretrained(folder, overrides=overrides)
    eager = artifact.pipeline().speak("abc fed")
    assert isinstance(artifact.pipeline().vocoder, HifiGan)
    wave, rate = audio.read(out)
    assert rate == MEL.sample_rate
    assert wave.std() > 0.05
    np.testing.assert_allclose(wave, eager.wave.numpy(), atol=1.5e-4)  # the file has 16 bits
    told: list[str] = []
    assert VOCODER in cached_export(artifact, runtime=FORMATS[0], tell=told.append)
    assert not told  # the one that was made above


def test_other_weights_in_the_folder_are_another_export(voice: Made, tmp_path: Path) -> None:
    from flowkit.export.cached import export_key

    folder = saved(tmp_path / "own")
    task: Any = voice.task
    given, task.make_vocoder = task.make_vocoder, lambda mel: HifiGan(mel, folder=str(folder))
    recipe: Any = SimpleNamespace(dump=lambda: "")
    artifact: Any = SimpleNamespace(task=task, sampler=voice.sampler, recipe=recipe)
    try:
        before = export_key(artifact)
        assert export_key(artifact) == before
        saved(folder, leaky_relu_slope=0.1)
        assert export_key(artifact) == before
        from safetensors.torch import load_file, save_file

        weights = load_file(folder / "model.safetensors")
        save_file(
            {name: value + 0.01 for name, value in weights.items()}, folder / "model.safetensors", {"format": "pt"}
        )
        assert export_key(artifact) != before
    finally:
        task.make_vocoder = given
