"""The page in a real Chromium, over a real store, while data keeps arriving."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from tests.dashboards import seed
from tests.dashboards.store import client_of, new_database, running, running_store
from tests.dashboards.test_process import write_config

playwright = pytest.importorskip("playwright.sync_api")

CHROMIUM = os.environ.get("CHROMIUM_PATH", "/usr/bin/chromium")
AXE = Path(os.environ.get("AXE_PATH", "node_modules/axe-core/axe.min.js"))
CHARTS = ("traffic", "latency", "spend", "kv")
TILES = (
    "requests_per_s",
    "error_ratio",
    "p99_latency_ms",
    "p95_ttft_ms",
    "usd_per_million_output_tokens",
    "spend_today_nusd",
    "kv_cache_usage",
    "data_age_ms",
)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not Path(CHROMIUM).exists(), reason=f"no Chromium at {CHROMIUM}; set CHROMIUM_PATH"
    ),
]


class Live(NamedTuple):
    url: str
    empty_url: str


def now_us() -> int:
    return time.time_ns() // 1_000


def keep_seeding(port: int, stop: threading.Event) -> None:
    """New requests and samples about twice a second, as the streams would write them."""
    client = client_of(port, "seeded")
    last_us = now_us() // 2_000_000 * 2_000_000
    while not stop.wait(0.4):
        until_us = now_us()
        seed.seed_traffic(client, until_us // seed.PANE_US * seed.PANE_US, until_us)
        if until_us - last_us > 2_000_000:
            seed.seed_engines(client, last_us, until_us)
            last_us = until_us // 2_000_000 * 2_000_000
    client.close()


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    directory = tmp_path_factory.mktemp("browser")
    with running_store(directory) as port:
        client = new_database(port, "seeded")
        seed.seed_hour(client, now_us())
        client.close()
        new_database(port, "empty").close()
        stop = threading.Event()
        seeding = threading.Thread(target=keep_seeding, args=(port, stop), daemon=True)
        seeding.start()
        (directory / "e").mkdir()
        config = write_config(directory, port)
        config_empty = write_config(directory / "e", port, "empty")
        with (
            running("dashboards", ["--config", str(config)], directory / "page.log") as (_, a),
            running("dashboards", ["--config", str(config_empty)], directory / "e.log") as (_, b),
        ):
            yield Live(f"http://127.0.0.1:{a}", f"http://127.0.0.1:{b}")
        stop.set()
        seeding.join(10)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield found
        found.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    context = browser.new_context(
        viewport={"width": 1440, "height": 1000}, color_scheme="dark", reduced_motion="reduce"
    )
    found = context.new_page()
    found.set_default_timeout(15_000)
    found.problems = []
    found.on("pageerror", lambda error: found.problems.append(str(error)))
    found.on(
        "console",
        lambda said: found.problems.append(said.text) if said.type == "error" else None,
    )
    yield found
    context.close()


def until(page: Any, expression: str, within_s: float = 15) -> None:
    """Wait for a truth in the page. Playwright's own waiting needs eval, which the CSP forbids."""
    deadline = time.monotonic() + within_s
    while not page.evaluate(f"Boolean({expression})"):
        assert time.monotonic() < deadline, f"never true: {expression}"
        page.wait_for_timeout(50)


def open_full(page: Any, url: str, query: str = "?range=3600") -> None:
    page.goto(url + query)
    until(
        page,
        "window.redline && redline.charts.every(c => c.lines.length) && redline.state.now.tiles "
        "&& redline.view.marks.length && redline.state.status",
    )


def test_the_page_fills_without_an_error_and_without_strangers(live: Live, page: Any) -> None:
    hosts: set[str] = set()
    page.on("request", lambda request: hosts.add(request.url.split("/")[2]))
    open_full(page, live.url)
    assert page.locator("#verdict-text").inner_text() == "Healthy"
    assert page.locator("#verdict").get_attribute("data-level") == "ok"
    for tile in TILES:
        page.wait_for_selector(f"#tile-{tile}:not([data-empty])")
        assert re.search(r"\d", page.locator(f"#tile-{tile} .value").inner_text())
        assert re.search(r"\d", page.locator(f"#tile-{tile} .sub").inner_text())
        assert page.locator(f"#tile-{tile}").get_attribute("title")
    for chart in CHARTS:
        label = page.locator(f"#chart-{chart} [role=img]").get_attribute("aria-label")
        assert "Latest:" in label
    assert hosts == {live.url.split("/")[2]}
    assert page.problems == []


def test_charts_show_an_hour_of_lines_and_the_marks_are_in_the_picture(
    live: Live, page: Any
) -> None:
    open_full(page, live.url)
    shown = page.evaluate(
        "Object.fromEntries(redline.charts.map(c => [c.spec.id, c.plot.data.map(d => "
        "d.filter(v => v !== null).length)]))"
    )
    assert [len(shown[chart]) - 1 for chart in CHARTS] == [4, 4, 8, 6]
    assert all(columns[0] == 360 for columns in shown.values())
    kinds = page.evaluate("redline.view.marks.map(m => m.kind)")
    assert {"deploy", "firing", "resolved", "action"} == set(kinds)
    pixels = """() => { const p = redline.charts[1].plot, c = document.createElement('canvas');
        c.width = p.ctx.canvas.width; c.height = p.ctx.canvas.height;
        const x = c.getContext('2d'); x.drawImage(p.ctx.canvas, 0, 0);
        return Array.from(x.getImageData(0, 0, c.width, c.height).data).join() }"""
    with_marks = page.evaluate(pixels)
    page.keyboard.press("m")
    until(page, "document.querySelector('#marks').getAttribute('aria-pressed') === 'false'")
    page.wait_for_timeout(100)
    assert page.evaluate(pixels) != with_marks


def test_live_values_arrive_over_the_stream(live: Live, page: Any) -> None:
    open_full(page, live.url, "?range=300")
    before = page.evaluate("[redline.state.status.now_us, redline.state.history.t.at(-1)]")
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    until(page, f"redline.state.history.t.at(-1) > {before[1]}", within_s=25)
    assert page.evaluate("redline.state.status.now_us") > before[0]
    assert page.evaluate("redline.state.history.traffic[0].requests_per_s.at(-1)") > 0, (
        "the bucket came without its value"
    )
    assert requests == []  # nothing was asked again: the open stream carried it
    assert page.evaluate("redline.state.history.t.length") == 30


def test_pausing_holds_the_picture_and_going_on_catches_up(live: Live, page: Any) -> None:
    open_full(page, live.url, "?range=300")
    page.locator("body").press("Space")
    held = page.evaluate("redline.state.status.now_us")
    page.wait_for_timeout(1_500)
    assert page.evaluate("redline.state.status.now_us") == held
    assert page.locator("#live").inner_text() == "Paused"
    page.locator("body").press("Space")
    until(page, f"redline.state.status.now_us > {held}")


def test_zoom_and_cursor_are_shared_by_all_charts(live: Live, page: Any) -> None:
    open_full(page, live.url)
    box = page.locator("#chart-traffic .u-over").bounding_box()
    page.mouse.move(box["x"] + 100, box["y"] + 60)
    until(page, "redline.charts.every(c => c.plot.cursor.idx !== null)")
    assert len(set(page.evaluate("redline.charts.map(c => c.plot.cursor.idx)"))) == 1
    page.mouse.down()
    page.mouse.move(box["x"] + 220, box["y"] + 60, steps=5)
    page.mouse.up()
    until(page, "redline.view.zoomed !== null")
    page.wait_for_timeout(100)
    scales = page.evaluate("redline.charts.map(c => [c.plot.scales.x.min, c.plot.scales.x.max])")
    assert all(scale == scales[0] for scale in scales)
    assert 300 < scales[0][1] - scales[0][0] < 2_000
    assert page.locator("#zoom-reset").is_visible()
    page.locator("#chart-kv .u-over").dblclick()
    until(page, "redline.view.zoomed === null")
    assert (
        page.evaluate("redline.charts[0].plot.scales.x.max - redline.charts[0].plot.scales.x.min")
        > 3_500
    )


def test_hovering_a_mark_says_what_it_was(live: Live, page: Any) -> None:
    open_full(page, live.url)
    x = page.evaluate(
        "(() => { const c = redline.charts[1];"
        "const m = redline.view.marks.find(m => m.kind === 'action');"
        "return c.plot.valToPos(m.t_us / 1e6, 'x') })()"
    )
    box = page.locator("#chart-latency .u-over").bounding_box()
    page.mouse.move(box["x"] + x, box["y"] + 50)
    page.wait_for_selector("#chart-latency .tip:not([hidden])")
    assert "Rollback of llama-3.3-70b" in page.locator("#chart-latency .tip").inner_text()


def test_the_feed_tells_the_incident_with_reason_duration_and_result(live: Live, page: Any) -> None:
    open_full(page, live.url)
    feed = page.locator("#feed").inner_text()
    assert "p99 latency over SLO on v2" in feed
    assert "resolved after 4 min 6 s" in feed
    assert "delivered in 2 s" in feed
    assert "Traffic now: v1 100 %, v2 0 % · answer 200 · signature verified" in feed
    assert "p99 latency 6.81 s, limit 5.00 s" in feed
    assert "Back at 1.20 s" in feed
    times = page.locator("#feed time").evaluate_all("all => all.map(t => t.dateTime)")
    assert times == sorted(times, reverse=True)


def test_a_legend_entry_switches_its_line(live: Live, page: Any) -> None:
    open_full(page, live.url)
    button = page.locator("#chart-kv .legend button").first
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    assert page.evaluate("redline.charts[3].plot.series[1].show") is False
    total = "Math.max(...redline.charts[2].plot.data[1])"
    before = page.evaluate(total)
    page.locator("#chart-spend .legend button").first.click()
    assert page.evaluate(total) < before


def test_the_range_is_in_the_address_and_data_is_a_table(live: Live, page: Any) -> None:
    open_full(page, live.url)
    page.keyboard.press("2")
    until(page, "redline.state.history.t.length === 90")
    assert page.url.endswith("?range=900")
    page.locator("#chart-latency summary").click()
    rows = page.locator("#chart-latency tbody tr")
    until(page, "document.querySelectorAll('#chart-latency tbody tr').length === 60")
    assert re.search(r"\d", rows.first.inner_text())


def test_themes_follow_the_system_and_the_choice(live: Live, page: Any) -> None:
    open_full(page, live.url)
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(ground)
    page.emulate_media(color_scheme="light")
    light = page.evaluate(ground)
    assert dark != light
    page.keyboard.press("t")
    assert page.evaluate(ground) == dark
    page.reload()
    until(page, "window.redline")
    assert page.evaluate(ground) == dark  # remembered against the system
    axis = page.evaluate("redline.charts[0].plot.axes[0].stroke()")
    assert axis == page.evaluate(
        "getComputedStyle(document.documentElement).getPropertyValue('--dim').trim()"
    )


def test_an_empty_store_says_so_and_shows_no_zero(live: Live, page: Any) -> None:
    page.goto(live.empty_url)
    until(
        page,
        "window.redline && redline.state.status && redline.state.now.tiles "
        "&& redline.state.history.t.length",
    )
    page.wait_for_selector("#chart-traffic .empty:not([hidden])")
    assert page.locator("#verdict-text").inner_text() == "Waiting for the first data"
    for tile in TILES:
        page.wait_for_selector(f"#tile-{tile}[data-empty]")
        assert not re.search(r"\d", page.locator(f"#tile-{tile} .value").inner_text())
    assert page.locator("#tile-requests_per_s .value").inner_text() == "no requests yet"
    assert page.locator("#chart-spend .empty").inner_text() == "No bill in this range"
    assert page.problems == []


def test_a_phone_has_no_sideways_scroll_and_nothing_jumps(live: Live, browser: Any) -> None:
    context = browser.new_context(viewport={"width": 420, "height": 900}, has_touch=True)
    page = context.new_page()
    page.add_init_script(
        "window.shift = 0; new PerformanceObserver(list => list.getEntries().forEach(e => "
        "{ if (!e.hadRecentInput) window.shift += e.value }))"
        ".observe({ type: 'layout-shift', buffered: true })"
    )
    open_full(page, live.url)
    settled = page.evaluate("window.shift")
    page.wait_for_timeout(3_000)
    assert page.evaluate("document.documentElement.scrollWidth") <= 420
    assert page.evaluate("window.shift") - settled < 0.01
    context.close()


def test_a_lost_page_server_and_a_lost_store_are_said(browser: Any, tmp_path: Path) -> None:
    page = browser.new_page()
    with running_store(tmp_path / "s") as port:
        client = new_database(port, "seeded")
        seed.seed_hour(client, now_us())
        client.close()
        server = running(
            "dashboards", ["--config", str(write_config(tmp_path, port))], tmp_path / "log"
        )
        _, page_port = server.__enter__()
        open_full(page, f"http://127.0.0.1:{page_port}")
    text = page.locator("#verdict-text")
    try:
        until(
            page,
            "document.querySelector('#verdict-text').textContent === 'Reconnecting to the store'",
        )
        assert "old" in page.locator("#verdict-detail").inner_text()
        assert page.evaluate("document.body.classList.contains('stale')")
        # the last figures stay, paler
        assert re.search(r"\d", page.locator("#tile-requests_per_s .value").inner_text())
    finally:
        server.__exit__(None, None, None)
    until(page, "document.querySelector('#verdict-text').textContent === 'Reconnecting to Redline'")
    assert text.get_attribute("role") == "status"
    page.close()


def test_help_opens_and_closes_by_key(live: Live, page: Any) -> None:
    open_full(page, live.url)
    page.keyboard.press("?")
    assert page.locator("#keys").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("#keys").is_visible()


def test_a_tab_that_nobody_sees_gives_its_connection_back(live: Live, page: Any) -> None:
    open_full(page, live.url)

    def clients() -> str:
        text = httpx.get(f"{live.url}/metrics").text
        return text.split("\nredline_dashboards_clients ")[1].split("\n")[0]

    def becomes(count: str) -> None:
        deadline = time.monotonic() + 15
        while clients() != count:
            assert time.monotonic() < deadline
            page.wait_for_timeout(100)

    becomes("1.0")
    page.clock.install()
    hide = "Object.defineProperty(document, 'hidden', {value: %s, configurable: true});"
    tell = "document.dispatchEvent(new Event('visibilitychange'))"
    page.evaluate(hide % "true" + tell)
    page.clock.run_for(61_000)
    becomes("0.0")
    page.evaluate(hide % "false" + tell)
    page.clock.resume()
    becomes("1.0")
    assert page.locator("#verdict-text").inner_text() == "Healthy"


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_axe_finds_no_barrier(live: Live, page: Any, scheme: str) -> None:
    if not AXE.exists():
        pytest.skip(f"axe-core is not at {AXE}; set AXE_PATH")
    page.emulate_media(color_scheme=scheme)
    open_full(page, live.url)
    page.wait_for_timeout(500)
    page.evaluate(AXE.read_text())  # evaluated by the debugger, which the page's CSP lets through
    found = page.evaluate(
        "axe.run().then(r => r.violations.map(v => [v.id, v.nodes.map(n => n.html)]))"
    )
    assert found == []
