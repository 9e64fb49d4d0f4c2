"""``make screenshots``: the pictures of the README and docs, taken from a real demo run.

Starts ``redline demo``, waits for its incidents, photographs the page, stops the demo. Not a
test: it is run by hand when the page has changed. It refuses to run without a Chromium.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Literal

from playwright.async_api import async_playwright

TARGET = Path(__file__).parent.parent / "docs" / "images"
PORT_BASE = 17600
MOMENT = "vllm-0 loses most of its KV cache"
SETTLE_MS = 12_000
SHOTS: tuple[tuple[str, Literal["dark", "light"], int, int], ...] = (
    ("page-dark", "dark", 1440, 1150),
    ("page-light", "light", 1440, 1150),
    ("page-phone", "dark", 420, 1200),
)


async def main() -> int:
    """Take all pictures; 2 without a browser."""
    browser = os.environ.get("CHROMIUM_PATH") or shutil.which("chromium")
    if browser is None:
        sys.stderr.write("no chromium: install it, or set CHROMIUM_PATH\n")
        return 2
    TARGET.mkdir(parents=True, exist_ok=True)
    demo = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cli.main", "demo", "--headless", "--port-base", str(PORT_BASE),
        "--data-dir", ".redline/screenshots", stdout=PIPE,
    )  # fmt: skip
    assert demo.stdout is not None
    told = [line.decode() async for line in _until(demo.stdout, MOMENT)]
    await _photograph(browser, f"http://127.0.0.1:{PORT_BASE}/?range=300")
    (TARGET / "demo.txt").write_text("".join(told))
    demo.send_signal(signal.SIGINT)
    await demo.communicate()
    return 0


async def _until(stream: asyncio.StreamReader, moment: str):  # type: ignore[no-untyped-def]
    async for line in stream:
        yield line
        if moment.encode() in line:
            return


async def _photograph(browser: str, url: str) -> None:
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(
            executable_path=browser, args=["--no-sandbox", "--disable-gpu"]
        )
        for name, scheme, width, height in SHOTS:
            page = await chromium.new_page(
                viewport={"width": width, "height": height}, color_scheme=scheme
            )
            await page.goto(url)
            await page.wait_for_timeout(SETTLE_MS)
            await page.screenshot(path=TARGET / f"{name}.png")
        await chromium.close()


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
