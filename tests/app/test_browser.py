"""The page in a headless browser. Needs ``pip install playwright`` and Debian's chromium-headless-shell or chromium."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from flowkit.clip import save_film

BROWSER = shutil.which("chromium-headless-shell") or shutil.which("chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium here: apt-get install chromium-headless-shell")


def clip(path, frames: int):
    """A film of a square that walks, not square itself."""
    pictures = np.zeros((frames, 48, 70, 3), np.uint8)
    for i, picture in enumerate(pictures):
        picture[10:26, 4 * i : 4 * i + 16] = 255
    return save_film(path, pictures, 10.0)


def test_three_panels_in_a_browser_that_asks_no_other_machine(served, tmp_path):
    api = pytest.importorskip("playwright.sync_api", reason="no playwright here: pip install playwright")
    outside: list[str] = []
    with api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=BROWSER, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.on(
            "request", lambda r: outside.append(r.url) if not r.url.startswith((served.url, "data:", "blob:")) else 0
        )
        page.goto(served.url)

        def run(name: str) -> None:
            page.click(f"#{name}-run")
            page.wait_for_selector(f"#{name}-status .fk-done", timeout=30_000)

        def steps(name: str, number: int) -> None:
            page.locator(f"#{name}-sampler_steps input[type=number]").fill(str(number))
            page.keyboard.press("Tab")

        def playing(name: str) -> None:
            shown = f"document.querySelector('#{name} video')"
            page.wait_for_function(f"{shown} && {shown}.videoWidth > 100 && {shown}.currentTime > 0", timeout=15_000)

        page.wait_for_selector("#speech_prompts_en-run")
        steps("speech_prompts_en", 2)
        run("speech_prompts_en")
        assert page.inner_text("#speech_prompts_en-status [data-fact=nfe]") == "2"
        page.wait_for_selector("#speech_prompts_en-speech button[aria-label*=lay]")
        page.wait_for_function("document.querySelector('#speech_prompts_en-mel img').naturalWidth > 100")
        page.fill("#speech_prompts_en-text textarea", "")
        page.click("#speech_prompts_en-run")
        page.wait_for_selector("#speech_prompts_en-status .fk-mistake")
        assert page.inner_text("#speech_prompts_en-status") == "the text is empty: nothing to say"

        page.get_by_role("tab", name="policy/fork").click()
        run("policy_fork")
        playing("policy_fork-film")

        page.get_by_role("tab", name="video/river-sprites").click()
        page.wait_for_selector("#video_river_sprites-run")
        steps("video_river_sprites", 1)
        page.locator("#video_river_sprites-frames input[type=number]").fill("3")
        page.keyboard.press("Tab")
        run("video_river_sprites")
        assert page.inner_text("#video_river_sprites-status [data-fact=nfe]") == "1"
        playing("video_river_sprites-film")

        def upload(path) -> None:
            page.locator("#video_river_sprites-clip").get_by_label("Clear").click()
            page.locator("#video_river_sprites-clip input[type=file]").set_input_files(path)
            page.wait_for_selector("#video_river_sprites-clip video")

        upload(clip(tmp_path / "short.mp4", 3))
        page.click("#video_river_sprites-run")
        page.wait_for_selector("#video_river_sprites-status .fk-mistake")
        assert "short.mp4 has 3 frames" in page.inner_text("#video_river_sprites-status")
        upload(clip(tmp_path / "mine.mp4", 9))
        run("video_river_sprites")
        assert page.inner_text("#video_river_sprites-status [data-fact=fact-0]") == "5 known + 3"
        browser.close()
    assert outside == []
