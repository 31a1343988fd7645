"""The page of ``flowkit app`` over HTTP: what each panel makes, and what it says of mistakes."""

from __future__ import annotations

import os
import re
import socket
import sys
import tempfile
import wave

import pytest

from flowkit.app.generic import SamplesPanel, panel_of
from flowkit.app.sampling import chosen_sampler, sampler_controls
from flowkit.artifacts import from_pretrained
from flowkit.cli.main import main
from flowkit.errors import UserError


@pytest.fixture
def ask(served, tmp_path):
    gradio_client = pytest.importorskip("gradio_client")
    client = gradio_client.Client(served.url, verbose=False, download_files=tmp_path)

    def call(name: str, **values):
        status, *results = client.predict(api_name=f"/{name}", **values)
        return status, [r["value"] if isinstance(r, dict) and "value" in r else r for r in results]

    return call


def fact(status: str, key: str) -> str:
    found = re.search(rf'data-fact="{key}">([^<]*)<', status)
    assert found, status
    return found[1]


def test_a_sentence_is_spoken_with_the_steps_that_were_asked_for(ask):
    status, (sound, mel, alignment) = ask("speech_prompts_en", param_0="Hello there.", param_5=3)
    assert fact(status, "nfe") == fact(status, "calls") == "3"
    with wave.open(str(sound)) as file:
        seconds = file.getnframes() / file.getframerate()
    assert seconds == pytest.approx(float(fact(status, "fact-0").split()[0]), abs=0.01)
    assert str(mel).endswith(".png")
    assert str(alignment).endswith(".png")


def test_an_empty_text_is_one_line_and_leaves_no_results(ask):
    status, results = ask("speech_prompts_en", param_0="  ")
    assert "the text is empty" in status
    assert "fk-mistake" in status
    assert results == [None, None, None]


def test_a_policy_is_filmed_and_judged(ask):
    from domains.video.reading import read_square

    status, (film, _) = ask("policy_fork", param_1=1)
    assert fact(status, "fact-0") in ("0 of 1", "1 of 1")
    assert 1 <= float(fact(status, "nfe")) <= 5
    frames, _ = read_square(str(film["video"] if isinstance(film, dict) else film), size=64, start=0, count=500)
    assert len(frames) > 10


def test_an_environment_that_does_not_exist_is_one_line(ask):
    status, _ = ask("policy_fork", param_0="FlowKit/Spoon-v0")
    assert "fk-mistake" in status
    assert "Spoon" in status


def test_a_clip_is_gone_on_with(ask):
    status, (film, strip) = ask("video_river_sprites", param_2=2, param_3=1, param_10=2)
    assert fact(status, "nfe") == "2"
    assert fact(status, "fact-0") == "5 known + 2"
    assert film
    assert str(strip).endswith(".png")


def test_a_clip_that_is_too_short_is_one_line(ask):
    status, results = ask("video_river_sprites", param_1=16, param_4=0, param_5=30)
    assert "sprites.mp4 has 10 frames from frame 30 on" in status
    assert results == [None, None]


def trained(recipe, run):
    """The model of two steps of a recipe."""
    short = ["--trainer.steps", "2", "--trainer.evaluate_every", "0", "--trainer.sample_every", "0"]
    assert main(["train", recipe, "--out", str(run), "--device", "cpu", *short]) == 0
    return from_pretrained(run)


def test_other_tasks_get_the_general_panel_which_counts_calls(tmp_path):
    artifact = trained("generic/mixture-flow-matching", tmp_path / "run")
    panel = panel_of(artifact)
    assert type(panel) is SamplesPanel
    made = panel.run({"number": 5, "seed": 0, "request": ""}, artifact.sampler)
    assert set(made.shown) == {"points"}
    solver = type(artifact.sampler.solver).__name__
    assert made.nfe == artifact.sampler.steps * {"Euler": 1, "Midpoint": 2}[solver]


def test_mistakes_of_the_command_are_one_line(capsys):
    pytest.importorskip("gradio")
    assert main(["app", "no/such", "--no-browser"]) == 2
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert main(["app", "policy/fork", "--no-browser", "--device", "cpu", "--port", port]) == 2
    err = capsys.readouterr().err
    assert "no/such" in err
    assert f"--port {port}" in err
    assert "Traceback" not in err


def test_pictures_are_drawn_of_a_class(tmp_path):
    artifact = trained("imaging/smoke/glyphs-flow-matching", tmp_path / "run")
    panel = panel_of(artifact)
    asked = {c.name: getattr(c, "value", None) for c in panel.controls()} | {"number": 3}
    made = panel.run(asked, artifact.sampler)
    assert made.nfe is not None
    assert made.nfe >= 1
    assert made.shown["pictures"].save(tmp_path / "grid").suffix == ".png"


def test_a_model_that_cannot_be_shown_here_says_so_and_the_others_are_there(monkeypatch, tmp_path):
    pytest.importorskip("gradio")
    from flowkit.app import serve as serving

    monkeypatch.setattr(
        serving, "pretrained_names", lambda: ["policy/fork", "speech/prompts-en", "video/river-sprites"]
    )
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    tabs = serving.tabs_of([], device="cpu")
    assert [tab.panel is None for tab in tabs] == [True, False, True]
    assert "pip install av" in tabs[2].missing
    page = serving.serve(tabs, port=0)
    assert page.url
    assert list(tmp_path.glob("flowkit-app-*"))
    page.close()
    assert not list(tmp_path.glob("flowkit-app-*"))


def test_a_page_that_cannot_be_made_leaves_nothing_behind(monkeypatch, tmp_path):
    pytest.importorskip("gradio")
    from flowkit.app import serve as serving
    from flowkit.app.page import Tab

    class Broken(SamplesPanel):
        def controls(self):
            raise UserError("no controls")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("GRADIO_TEMP_DIR", raising=False)
    tab = Tab("broken", Broken(from_pretrained("policy/fork", device="cpu")))
    with pytest.raises(UserError, match="no controls") as caught:
        serving.serve([tab], port=0)
    del caught
    assert not list(tmp_path.glob("flowkit-app-*"))
    assert "GRADIO_TEMP_DIR" not in os.environ


def test_guidance_is_offered_where_the_condition_was_dropped_and_costs_two_calls(tmp_path):
    panels = []
    for dropped in (0.0, 0.1):
        run = tmp_path / f"{dropped}"
        short = ["--trainer.steps", "1", "--trainer.evaluate_every", "0", "--trainer.sample_every", "0"]
        drop = ["--task.objective.drop_condition", str(dropped), "--sampler.guidance", "null"]
        assert main(["train", "imaging/smoke/glyphs-flow-matching", "--out", str(run), *drop, *short]) == 0
        panels.append(panel_of(from_pretrained(run)))
    own = panels[1].artifact.sampler
    without, offered = (sampler_controls(own, panel.task.objective) for panel in panels)
    assert "sampler.guidance" not in [control.name for control in without]
    asked = {control.name: getattr(control, "value", None) for control in (*panels[1].controls(), *offered)}
    assert asked["sampler.guidance"] == 1.0
    asked |= {"number": 2, "sampler.steps": 3, "sampler.solver": "Euler"}
    for scale, calls in ((1.0, 3), (2.5, 6)):
        sampler = chosen_sampler(own, asked | {"sampler.guidance": scale})
        made = panels[1].run(asked, sampler)
        assert (made.nfe, made.network_calls) == (3, calls), scale
