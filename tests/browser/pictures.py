"""Take the README's pictures, in light and dark, into docs/images: `make pictures`.

/docs is photographed on the real server after some traffic. The diagram of the stack is docs/images/stack.template.svg
with the colours of each scheme.
"""

from __future__ import annotations

import base64
import io
import json
import random
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from string import Template
from typing import Any

from PIL import Image
from sklearn.datasets import load_iris

from tests.app.harness import Server
from tests.browser import driver

IMAGES = Path(__file__).parents[2] / "docs/images"
COLORS = {
    "light": {
        "paper": "#ffffff",
        "panel": "#f6f7f9",
        "line": "#d4d9e0",
        "ink": "#1c2128",
        "quiet": "#5a6472",
        "live": "#1f66d0",
        "soft": "#e8f0fc",
    },
    "dark": {
        "paper": "#14171c",
        "panel": "#1c2027",
        "line": "#343b46",
        "ink": "#e6e9ee",
        "quiet": "#a0a9b6",
        "live": "#6ea8ff",
        "soft": "#1d2b42",
    },
}
"""Those of the page at /docs, by color scheme."""
MAX_BYTES = 200_000
"""Of one picture: the README shows two."""
_WIDTH, _SCALE = 1100, 2
_PREDICTIONS = 400
_COLORS = 128


def photograph_docs(chromium: driver.Browser) -> None:
    server = Server({})
    try:
        with ThreadPoolExecutor(4) as pool:
            for answer in pool.map(server.post, _bodies()):
                answer.raise_for_status()
        for scheme in COLORS:
            chromium.devtools(
                "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}]
            )
            chromium.open(f"{server.url}/docs")
            chromium.until("document.querySelector('#drift tbody tr')")
            chromium.click("#repeat")
            chromium.until("!document.getElementById('repeat').disabled && document.querySelector('#sent svg')")
            (IMAGES / f"docs-{scheme}.png").write_bytes(_photograph(chromium))
    finally:
        server.stop()


def _bodies() -> Iterator[str]:
    """Irises, measured by somebody whose ruler for sepals is off by a centimetre: one column that drifts."""
    chance = random.Random(7)  # noqa: S311  # no secret
    flowers: Any = load_iris()  # its stubs promise a tuple
    rows = flowers.data[:, [0, 2, 3]].tolist()
    for _ in range(_PREDICTIONS):
        sepal, petal, width = chance.choice(rows)
        yield json.dumps({"input": [round(sepal + 1, 1), petal, width]})


def _photograph(chromium: driver.Browser) -> bytes:
    height = chromium.run("return document.documentElement.scrollHeight")
    clip = {"x": 0, "y": 0, "width": chromium.run("return innerWidth"), "height": height, "scale": 1}
    taken = chromium.devtools("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
    picture = Image.open(io.BytesIO(base64.b64decode(taken["data"]))).convert("RGB")
    small = io.BytesIO()
    picture.quantize(_COLORS, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    if small.tell() > MAX_BYTES:
        raise SystemExit(f"the picture has {small.tell()} bytes; the most is {MAX_BYTES}")
    return small.getvalue()


def draw_stack() -> None:
    template = Template((IMAGES / "stack.template.svg").read_text())
    for scheme, colors in COLORS.items():
        (IMAGES / f"stack-{scheme}.svg").write_text(template.substitute(colors))


def main() -> None:
    draw_stack()
    with (
        tempfile.TemporaryDirectory() as home,
        driver.browser(driver.find(), Path(home)) as chromium,
    ):
        chromium.devtools(
            "Emulation.setDeviceMetricsOverride", width=_WIDTH, height=800, deviceScaleFactor=_SCALE, mobile=False
        )
        photograph_docs(chromium)


if __name__ == "__main__":
    main()
