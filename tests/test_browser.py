"""The built book in a real browser: Debian's Chromium, headless, with nothing of the network but the book itself.

Skipped where Chromium or the built book is missing; ``make test`` builds the book first.
"""

from __future__ import annotations

import functools
import http.server
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
SITE = ROOT / "book" / "_build" / "html"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PAGES = sorted(
    str(page.relative_to(SITE)) for folder in ("book", "chapters") for page in (SITE / folder).glob("*.html")
)
CHAPTERS = [page for page in PAGES if page.startswith("chapters/")]
COLORS = ["color-contrast", "link-in-text-block"]  # the rules of axe that depend on colors

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        CHROMIUM is None, reason="Chromium is not installed (Debian: apt-get install chromium)"
    ),
    pytest.mark.skipif(not PAGES, reason="the book is not built (nnopt book)"),
]


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    handler = functools.partial(Quiet, directory=str(SITE))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=[*flags, "--disable-sync"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    context = browser.new_context(base_url=address, viewport={"width": 1280, "height": 900})
    yield context.new_page()
    context.close()


def watched(page: Any, address: str) -> list[str]:
    """What goes wrong on a page, as it happens: errors on the console, requests that fail or leave the site."""
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))

    def fails(request: Any) -> None:
        # An icon that is still on its way when the test goes on to the next page is given up by the browser itself.
        given_up = request.failure == "net::ERR_ABORTED" and request.url.endswith("favicon.svg")
        if not given_up:
            wrong.append(f"failed: {request.url}")

    page.on("requestfailed", fails)

    def leaves(request: Any) -> None:
        if not request.url.startswith((address, "data:", "blob:", "file:")):
            wrong.append(f"outside: {request.url}")

    page.on("request", leaves)
    return wrong


def test_every_page_loads_without_an_error_or_a_request_outside(page: Any, address: str) -> None:
    wrong = watched(page, address)
    for name in PAGES:
        page.goto(f"/{name}", wait_until="networkidle" if "math" in name else "load")
        assert page.locator("h1").count() >= 1, name
        assert page.locator("img:not([alt])").count() == 0, name
    assert wrong == []


def test_pages_read_from_the_disk_too(page: Any) -> None:
    wrong = watched(page, "file:")
    page.goto((SITE / "book" / "play.html").as_uri())
    assert page.locator("[data-play=masks] rect").count() == 1000
    page.goto((SITE / CHAPTERS[0]).as_uri())
    page.wait_for_function("document.querySelectorAll('mjx-container').length > 0")
    assert wrong == []


def test_search_finds_lottery(page: Any) -> None:
    page.goto("/search.html?q=lottery")
    results = page.locator("#search-results li a")
    results.first.wait_for()
    assert any(
        "lottery-tickets" in (link or "") for link in results.evaluate_all("all => all.map(a => a.href)")
    )


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_tells_its_time_and_leads_on_and_its_solutions_open(page: Any, name: str) -> None:
    page.goto(f"/{name}")
    head = page.locator("article table").first.inner_text().lower()
    assert all(word in head for word in ("time", "hardware", "seeds")), head
    assert page.locator(".prev-next-area a").count() >= 1
    solutions = page.locator("article details:has(summary:text('Solution'))")
    assert solutions.count() >= 1
    body = solutions.first.locator(":scope > :not(summary)").first
    assert not body.is_visible()
    solutions.first.locator("summary").click()
    assert body.is_visible()


def test_tabs_of_a_kind_switch_together(page: Any) -> None:
    page.goto("/book/questions.html")
    keras = page.locator(".sd-tab-set label", has_text="Keras")
    torch_code = page.locator(".sd-tab-content", has_text="torch.nn.Module").first
    assert keras.count() >= 2 and torch_code.is_visible()
    keras.first.click()
    shown = page.locator(".sd-tab-set > input:checked + label").all_inner_texts()
    assert shown == ["Keras"] * keras.count() and not torch_code.is_visible()


def test_the_slider_changes_masks_and_numbers_by_keyboard_and_mouse(page: Any) -> None:
    page.goto("/book/play.html")
    figure = page.locator("[data-play=masks]")
    slider, kept = figure.locator("input[type=range]"), figure.locator("rect.kept")
    words = figure.locator(".play-words")
    seen = [(kept.count(), words.inner_text())]
    slider.focus()
    page.keyboard.press("ArrowRight")
    seen.append((kept.count(), words.inner_text()))
    box = slider.bounding_box()
    page.mouse.click(box["x"] + box["width"] - 3, box["y"] + box["height"] / 2)
    seen.append((kept.count(), words.inner_text()))
    assert seen[0][0] == 1000 > seen[1][0] > seen[2][0] > 0 and len({text for _, text in seen}) == 3
    assert slider.get_attribute("aria-valuetext") == "sparsity 0.96875"
    assert f"{seen[2][0]} of 1000 weights" in figure.locator("svg").get_attribute("aria-label")


def test_points_of_the_front_name_their_structure(page: Any) -> None:
    page.goto("/book/play.html")
    figure = page.locator("[data-play=front]")
    words, svg = figure.locator(".play-words"), figure.locator("svg")
    first = words.inner_text()
    svg.focus()
    page.keyboard.press("End")
    last = words.inner_text()
    assert re.match(r"\w+ \d+.*: [\d,]+ parameters, [\d,]+ MACs, validation accuracy", last) and first != last
    figure.locator("circle").nth(1).hover()
    assert words.inner_text() not in (first, last)
    figure.locator("select").select_option("at most 2,368 MACs")
    assert figure.locator("circle").count() == 15


# All rules on all pages take long: in thirds, which two processes share.
@pytest.mark.parametrize(("scheme", "third"), [("light", 0), ("light", 1), ("light", 2), ("dark", None)])
def test_no_serious_finding_of_axe(browser: Any, address: str, scheme: str, third: int | None) -> None:
    from axe_playwright_python.sync_playwright import Axe

    context = browser.new_context(base_url=address, viewport={"width": 1280, "height": 900})
    context.add_init_script(
        f"localStorage.setItem('mode', '{scheme}'); localStorage.setItem('theme', '{scheme}')"
    )
    page, violations = context.new_page(), []
    rules = {"resultTypes": ["violations"]}
    pages = PAGES if third is None else PAGES[third::3]
    if scheme != "light":  # only colors differ between the schemes, and chapters have all the same ones
        rules["runOnly"] = COLORS
        pages = [name for name in PAGES if name not in CHAPTERS[2:]]
    for name in pages:
        page.goto(f"/{name}")
        page.evaluate("window.MathJax?.startup?.promise.then(() => null)")
        assert page.locator("html").get_attribute("data-theme") == scheme
        for violation in Axe().run(page, options=rules).response["violations"]:
            if violation["impact"] in ("serious", "critical"):
                nodes = [node["target"] for node in violation["nodes"][:3]]
                violations.append(f"{name}: {violation['id']} {nodes}")
    context.close()
    assert violations == []


def test_a_phone_shows_pages_without_scrolling_sideways(browser: Any, address: str) -> None:
    context = browser.new_context(base_url=address, viewport={"width": 390, "height": 844})
    page = context.new_page()
    wide = []
    for name in PAGES:
        page.goto(f"/{name}")
        width = page.evaluate("document.documentElement.scrollWidth")
        wide += [f"{name}: {width}"] if width > 391 else []
    context.close()
    assert wide == []
