"""Draw a page as a desk and as a phone see it: python docs/screenshots.py PAGE OUT."""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from robustbench_meta.doctor import BROWSERS, find_browser

LARGEST = 300_000  # bytes of a picture


def main(page_file: Path, out: Path) -> None:
    browser = find_browser()
    if browser is None:
        sys.exit(f"screenshots: needs a browser: one of {', '.join(BROWSERS)}")
    out.mkdir(parents=True, exist_ok=True)
    address = page_file.resolve(strict=True).as_uri()
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"])
        for name, width, height, scale, scheme in (
            ("leaderboard-desktop", 1280, 1500, 1.0, "light"),
            ("leaderboard-phone", 390, 844, 2.0, "dark"),
        ):
            page = opened.new_page(
                viewport={"width": width, "height": height},
                device_scale_factor=scale,
                color_scheme="dark" if scheme == "dark" else "light",
                reduced_motion="reduce",
            )
            page.goto(address)
            if width < 600:  # past the heading, to the rows
                page.locator("section.leaf h2").first.evaluate("(title) => scrollTo(0, title.offsetTop - 12)")
            page.screenshot(path=out / f"{name}.png")
            _shrink(out / f"{name}.png")
            print(out / f"{name}.png")
        opened.close()


def _shrink(path: Path) -> None:
    """Make the file as small as it can be; where that is too large, keep 256 colours of it."""
    with Image.open(path) as picture:
        whole = picture.convert("RGB")
    whole.save(path, optimize=True)
    if path.stat().st_size > LARGEST:
        whole.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    if path.stat().st_size > LARGEST:
        sys.exit(f"screenshots: {path} has {path.stat().st_size} bytes, more than {LARGEST}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
