"""Play docs/labelling.md: two models, three people who label in a browser, a trained policy, and a blind A/B test.

    python scripts/play_labelling.py FOLDER                            everything the page says, in a new folder
    python scripts/play_labelling.py FOLDER --pictures docs/figures    the pictures of the page too

The people are simulated. They press keys in a real browser, read what it shows, and mostly prefer what the known
reward of the bundled world prefers. It needs the extra `test`, and Chromium or Chrome, whose path `TILTLM_CHROMIUM` may
give.
"""

import argparse
import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from tiltlm.worlds import TextWorld

TILTLM = str(Path(sys.executable).with_name("tiltlm"))
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
PEOPLE = {"ann": 0.95, "bob": 0.9, "cy": 0.8}
"""Name → how often this person prefers what the reward prefers, where it prefers one."""
WAIT = 90.0
"""Seconds for anything on a page or a server to happen."""
SETTINGS = ("training.learning_rate=1e-3", "training.num_epochs=2")
"""Those of a very small model."""
SHORT = ("--max-new-tokens", "32")
RIGHT = {
    "prompt": "Guest Rosa: Who took my green ball?\nDesk:",
    "chosen": " Welcome Rosa, your green ball is in the garage. I saw it today. Have a nice day!",
    "rejected": " Look stranger, that old thing is in the attic. Go away now!",
    "explanation": "The other response is rude, and does not answer.",
}


class Play:
    """The commands of the page, run in a folder."""

    def __init__(self, folder: Path, browser: Browser, pictures: Path | None, num_prompts: int) -> None:
        self.folder, self.browser, self.pictures, self.num_prompts = folder, browser, pictures, num_prompts
        self.world = TextWorld()
        self.draw = random.Random(1)
        self.prompts = {
            " ".join(one.split()): one for split in ("train", "heldout") for one in self.world.prompts(split)
        }

    def run(self, *arguments: str) -> str:
        """Run a command to its end, and return what it printed."""
        print("$ tiltlm", shlex.join(arguments), flush=True)
        done = subprocess.run([TILTLM, *arguments], cwd=self.folder, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"it ended with exit code {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout

    @contextmanager
    def serving(self, *arguments: str) -> Iterator[dict[str, str]]:
        """Run a command that serves the app, and yield name → private link; it is stopped, unless it ends by itself."""
        print("$ tiltlm", shlex.join(arguments), flush=True)
        log = self.folder / "app.txt"
        with log.open("w", encoding="utf-8") as file:
            process = subprocess.Popen([TILTLM, *arguments], cwd=self.folder, stdout=file, stderr=subprocess.STDOUT)
        try:
            yield self.links(process, log)
            if arguments[0] == "label":
                process.send_signal(signal.SIGINT)
            if process.wait(WAIT) not in (0, 130):
                sys.exit(f"it ended with exit code {process.returncode}:\n{log.read_text(encoding='utf-8')}")
        finally:
            process.kill()

    def links(self, process: subprocess.Popen[bytes], log: Path) -> dict[str, str]:
        """Wait for the links that a command prints."""
        end = time.monotonic() + WAIT
        while process.poll() is None and time.monotonic() < end:
            found = dict(
                re.findall(r"^\s*(\w+).*?(http://\S+/join#\S+)$", log.read_text(encoding="utf-8"), re.MULTILINE)
            )
            if PEOPLE.keys() <= found.keys():
                return found
            time.sleep(0.2)
        sys.exit(f"the app does not run:\n{log.read_text(encoding='utf-8')}")

    def play(self) -> None:
        """Do what the page says."""
        self.prepare()
        sources = (
            "old-model",
            "new-model",
            "--prompts",
            "train.jsonl",
            *SHORT,
            "--gold",
            "gold.jsonl",
            "--calibration",
            "1",
        )
        with self.serving("label", "serve", *sources, "--names", ",".join(PEOPLE), "--port", "0") as links:
            admin = next(link for name, link in links.items() if name not in PEOPLE)
            self.vote_all(links, take_pictures=True)
            self.take_admin_pictures(admin)
        print(self.run("label", "status"))
        self.run("label", "export", "labels.jsonl")
        trained = ("--model", "old-model", "--data", "label.db", "--objective", "dpo", *SETTINGS)
        self.run("train", *trained, "--output", "runs/people")
        judge = "{kind: people, database: ab.db, names: [ann, bob, cy], port: 0}"
        ab_test = ("compare", "old-model", "runs/people", "--prompts", "heldout.jsonl", *SHORT, "--judge", judge)
        with self.serving(*ab_test, "--output", "verdict") as links:
            self.vote_all(links)
        print((self.folder / "app.txt").read_text(encoding="utf-8"))

    def prepare(self) -> None:
        """Make what the page begins with: two models, prompts, and a pair with a known answer."""
        shutil.copytree(self.world.model_path(), self.folder / "old-model")
        for split in ("train", "heldout"):
            rows = [{"prompt": prompt} for prompt in self.world.prompts(split)[: self.num_prompts]]
            self.write(f"{split}.jsonl", rows)
        self.write("gold.jsonl", [RIGHT])
        drawn = ("--prompts", "train.jsonl", "--n", "4", "sampling.max_new_tokens=32", "--output", "drawn.jsonl")
        self.run("sample", "old-model", *drawn)
        self.run("judge", "drawn.jsonl", "--judge", "gold", "--output", "scored.jsonl", "--unaudited")
        trained = ("--data", "scored.jsonl", "--objective", "dpo", "--output", "runs/new", *SETTINGS)
        self.run("train", "--model", "old-model", *trained)
        shutil.copytree(self.folder / "runs" / "new" / "model", self.folder / "new-model")

    def write(self, name: str, rows: list[dict[str, str]]) -> None:
        """Write rows as JSON Lines."""
        (self.folder / name).write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")

    def sign_in(self, link: str, **context: object) -> Page:
        """Open a private link in a browser window of its own."""
        page = self.browser.new_context(**context).new_page()  # type: ignore[arg-type]
        page.set_default_timeout(WAIT * 1000)
        page.clock.install()
        page.goto(link)
        page.wait_for_url("**/")
        page.wait_for_selector("#guidelines-dialog[open]")
        page.keyboard.press("Escape")
        return page

    def vote_all(self, links: dict[str, str], *, take_pictures: bool = False) -> None:
        """Have everybody vote until nothing is left for anybody."""
        pages = {name: self.sign_in(links[name]) for name in PEOPLE}
        voted = [True]
        while any(voted):
            voted = [self.vote(page, PEOPLE[name], take_pictures=take_pictures) for name, page in pages.items()]
        for page in pages.values():
            page.context.close()

    def vote(self, page: Page, skill: float, *, take_pictures: bool) -> bool:
        """Vote on one pair; False if nothing is left now."""
        main = page.locator('#main:is([data-state="pair ready"], [data-state="feedback"], [data-state="empty"])')
        main.wait_for()
        state = main.get_attribute("data-state")
        if state == "empty":
            retry = page.locator("#message-retry")
            if retry.is_visible():
                retry.click()
            return False
        if state == "feedback":
            page.keyboard.press("Enter")
            return True
        prompt = self.prompts[" ".join(page.locator("#prompt-text").inner_text().split())]
        left, right = (
            self.world.reward(prompt, page.locator(f"#{side}-text").inner_text()) for side in ("left", "right")
        )
        if take_pictures and self.pictures is not None and left != right:
            self.take_vote_pictures(page)
        page.clock.fast_forward(self.draw.randint(5_000, 40_000))  # the time of reading, which nobody waits for
        is_left = (left > right) == (self.draw.random() < skill)
        page.keyboard.press("0" if left == right else "1" if is_left else "2")
        return True

    def take_vote_pictures(self, page: Page) -> None:
        """Take the pictures of a pair, once."""
        if self.pictures is None or (self.pictures / "label-pair.png").exists():
            return
        page.set_viewport_size({"width": 1200, "height": 640})
        self.picture(page, "label-pair")
        page.emulate_media(color_scheme="dark")
        page.set_viewport_size({"width": 390, "height": 760})
        self.picture(page, "label-phone")
        page.emulate_media(color_scheme="light")
        page.set_viewport_size({"width": 1280, "height": 720})

    def take_admin_pictures(self, link: str) -> None:
        """Take the picture of what the admin sees."""
        if self.pictures is None:
            return
        page = self.browser.new_context(viewport={"width": 1200, "height": 1400}).new_page()
        page.goto(link)
        page.wait_for_url("**/admin")
        self.picture(page, "label-admin")
        page.context.close()

    def picture(self, page: Page, name: str) -> None:
        """Keep what a page shows, with few colours, which makes the file a third as large."""
        assert self.pictures is not None, "asked for"
        path = self.pictures / f"{name}.png"
        page.screenshot(path=path)
        picture = Image.open(path).convert("RGB").quantize(128, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        picture.save(path, optimize=True)
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB", flush=True)


def main() -> None:
    """Read the arguments, and play the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--prompts", type=int, default=48)
    arguments = parser.parse_args()
    found = (os.environ.get("TILTLM_CHROMIUM"), *map(shutil.which, BROWSERS))
    path = next((one for one in found if one), None)
    if path is None:
        sys.exit(f"none of these browsers is installed: {', '.join(BROWSERS)}; on Debian: apt-get install chromium")
    arguments.folder.mkdir(parents=True)
    if arguments.pictures:
        for old in arguments.pictures.glob("label-*.png"):
            old.unlink()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        Play(arguments.folder, browser, arguments.pictures, arguments.prompts).play()


if __name__ == "__main__":
    main()
