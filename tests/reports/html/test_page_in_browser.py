"""The page in a real browser: Debian's Chromium, driven by Playwright, and nothing but a file."""

from __future__ import annotations

import importlib.util
import itertools
import shutil
from pathlib import Path

import pytest

from llx.artifact import remember_latest
from llx.reports.history import Entry
from llx.reports.html.page import write_page
from llx.reports.measures import measures
from tests.packages import install
from tests.reports.html.test_page import EVERYTHING, KINDS
from tests.reports.made import HOSTILE, in_turns, result, with_texts

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None, reason=f"no Chromium here: {install('chromium', 'Chromium browser')}"
    ),
    pytest.mark.skipif(
        importlib.util.find_spec("playwright") is None,
        reason="no Playwright here: pip install playwright",
    ),
]
QUIET = (
    *("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
MARKS = "g.role-mark path, g.role-mark line, g.role-mark rect"


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=CHROMIUM, args=[*QUIET]) as browser,
    ):
        yield browser


@pytest.fixture
def opened(browser, tmp_path):
    """Opens a page, of some results or a file, which must say nothing and ask for nothing."""
    pages = []

    def opens(results, history=(), **options):
        is_file = isinstance(results, Path)
        path = results if is_file else write_page(results, tmp_path, history=history)
        page = browser.new_page(**options)
        page.said, page.asked, page.dialogs = [], [], []
        page.on("console", lambda message: page.said.append(message.text))
        page.on("pageerror", lambda error: page.said.append(str(error)))
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("dialog", lambda dialog: (page.dialogs.append(dialog.message), dialog.dismiss()))
        page.goto(path.as_uri())
        page.wait_for_function(
            "[...document.querySelectorAll('.plot')].every(plot => plot.querySelector('svg'))"
        )
        pages.append((page, path.as_uri()))
        return page

    yield opens
    for page, address in pages:
        assert page.said == []
        assert [url for url in page.asked if not url.startswith("data:")] == [address]
        assert page.dialogs == []
        page.close()


def course(days=3):
    """A history of some days."""
    return [
        Entry(
            created=f"2026-11-{20 + day}T00:00:00+00:00",
            label=f"commit {day}",
            engine="ort",
            precision="fp32",
            artifact="tiny-fp32",
            device="a processor",
            device_fingerprint="ef",
            measures=list(measures(result(speed=40.0 + day))),
        )
        for day in range(days)
    ]


def test_what_the_demo_measures_ends_in_a_page(opened, llx, judged, tmp_path):
    shutil.copytree(judged.folder, tmp_path / "artifacts" / "tiny-fp32")
    remember_latest(tmp_path / "artifacts" / "tiny-fp32")
    # As `make demo` does, with a tiny model, and with prompts and texts as short as it is.
    lengths = ("-p", "16", "-n", "8", "-d", "0,16")
    measured = llx("bench", "--engine", "torch,ort", *lengths, "-o", "json")
    (tmp_path / "results.json").write_text(measured.stdout)
    assert llx("report", "results.json", "-o", ".").code == 0
    page = opened(tmp_path / "index.html")
    assert " 8 rows " in page.locator("#verdict h2").inner_text()
    # Which speeds are valid is for the machine to say; fidelity is there in any case.
    names = [plot.get_attribute("id") for plot in page.locator(".plot").all()]
    assert {"plot-0-phases", "plot-0-positions"} <= {*names}
    for name in names:
        assert page.locator(f"#{name}").locator(MARKS).count() > 2, name


def column(page, table, place):
    return page.eval_on_selector_all(
        f"#{table} tbody tr", f"rows => rows.map(row => row.cells[{place}].innerText)"
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_plot_has_marks(opened, scheme):
    page = opened(EVERYTHING, history=course(), color_scheme=scheme)
    names = {*(f"plot-0-{kind}" for kind in KINDS - {"against"}), "plot-against", "course-0"}
    for name in names:
        assert page.locator(f"#{name}").locator(MARKS).count() > 2, name


def test_charts_are_light_or_dark_as_the_page_is(opened):
    page = opened(EVERYTHING, color_scheme="light")
    seen = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        seen.append(
            page.evaluate(
                "['#plot-0-roofline g.mark-rect.role-mark path', '#plot-0-roofline text', 'body']"
                ".map(where => getComputedStyle(document.querySelector(where)))"
                ".map(style => [style.fill, style.color, style.backgroundColor].join())"
            )
        )
    assert all(light != dark for light, dark in zip(*seen, strict=True))


def test_a_click_on_a_heading_sorts_by_its_numbers(opened):
    page = opened(EVERYTHING)
    heading = page.locator("#model-0 th", has_text="decode tok/s")
    place = heading.evaluate("heading => heading.cellIndex")
    before = column(page, "model-0", place)
    heading.get_by_role("button").click()
    down = column(page, "model-0", place)
    heading.get_by_role("button").click()
    up = column(page, "model-0", place)
    speeds = [float(text.split()[0]) for text in down[:-1]]
    assert down != before
    assert speeds == sorted(speeds, reverse=True)
    assert up[:-1] == down[:-1][::-1]
    assert up[-1] == down[-1] == ""  # the engine that has no numbers stays last


def test_a_click_on_the_verdicts_sorts_by_what_they_mean(opened):
    page = opened(EVERYTHING)
    heading = page.locator("#changes th button", has_text="verdict")
    for order in (slice(None), slice(None, None, -1)):
        heading.click()
        kinds = [name for name, _ in itertools.groupby(column(page, "changes", 0))]
        assert kinds == ["regressed", "no change"][order]


def test_the_filter_hides_rows(opened):
    page = opened(EVERYTHING)
    rows = page.locator("#model-0 tbody tr:visible")
    assert rows.count() == len(EVERYTHING)
    page.locator(".filter").last.fill("ort int8")
    assert rows.count() == 1
    page.locator(".filter").last.fill("")
    assert rows.count() == len(EVERYTHING)
    changes = page.locator("#changes tbody tr:visible")
    page.locator("#against .filter").fill("regressed")
    assert changes.count() == 3


def test_a_pointer_that_rests_shows_the_samples(opened):
    page = opened(EVERYTHING)
    page.locator("#plot-0-fidelity g.mark-symbol.role-mark path").last.hover()
    tip = page.locator("#vg-tooltip-element.visible")
    tip.wait_for()
    assert "samples" in tip.inner_text()


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_run_nothing(opened, text):
    made = [*in_turns(depths=(0, 1024)), result("torch", kld=1e-3, depths=(0, 1024))]
    page = opened([with_texts(m, text) for m in made])
    for plot in page.locator(".plot").all():
        marks = plot.locator("g.role-mark[aria-roledescription] path")
        if marks.count():
            marks.last.hover(force=True)
            page.wait_for_timeout(50)
    assert page.evaluate("window.__pwned") is None
    assert page.locator("img, iframe, #vg-tooltip-element svg").count() == 0
    assert page.locator("script").count() == 3


@pytest.mark.parametrize("width", [360, 800])
def test_no_width_makes_the_page_scroll_sideways(opened, width):
    page = opened(
        [*EVERYTHING, result(model="a-name-without-a-place-to-break-it-" * 5)],
        viewport={"width": width, "height": 800},
    )
    for details in page.locator("details").all():
        details.evaluate("details => details.open = true")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
