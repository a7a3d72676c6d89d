"""The status page in a real browser, from a real Envoy: what it shows, and what it asks for."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from harness.chromium import Chromium
from harness.config import bootstrap
from harness.envoy import Envoy
from harness.wait import until, until_all


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    with Chromium() as browser:
        yield browser


@pytest.fixture
def browser(chromium: Chromium) -> Chromium:
    chromium.open("about:blank")
    chromium.requests.clear()
    chromium.errors.clear()
    return chromium


@pytest.fixture
def shown(policy):
    policy["probes"]["status"] = {"path": "/statusz"}
    return policy


def opened(browser: Chromium, envoy: Envoy) -> str:
    url = f"http://127.0.0.1:{envoy.port()}/statusz"
    browser.open(url)
    until(lambda: "Upstreams" in browser.text(), 20, "the page's first data")
    return url


def rows(browser: Chromium) -> dict[str, str]:
    """Returns the text of each row, by its first line."""
    listed = browser.evaluate("[...document.querySelectorAll('tbody tr')].map(row => row.innerText)")
    return {text.split()[0]: " ".join(text.split()) for text in listed}


def test_the_page_shows_each_upstream_and_changes_by_itself_after_an_outage(start, shown, browser, v2):
    envoy = start(shown)
    url = opened(browser, envoy)
    until(lambda: "all 2 upstreams ready" in browser.text(), 20, "two upstreams")
    assert "ready" in rows(browser)["reviews-v1"]
    assert {"v1", "v2", "reviews-v1", "reviews-v2"} <= set(rows(browser))
    v2.answer(500, path="/healthz")
    until(lambda: "not ready" in rows(browser).get("reviews-v2", ""), 20, "the outage on the page")
    assert "check-failed status 500" in rows(browser)["reviews-v2"]
    assert "1 of 2 upstreams not ready" in browser.text()
    assert browser.evaluate("document.title").startswith("(1) reviews")
    v2.answer(200, path="/healthz")
    until(lambda: "all 2 upstreams ready" in browser.text(), 20, "the end of the outage on the page")
    origins = {urlsplit(asked).netloc for asked in browser.requests if not asked.startswith("data:")}
    assert origins == {urlsplit(url).netloc}
    assert {asked for asked in browser.requests if not asked.startswith("data:")} == {url, f"{url}?format=json"}
    assert browser.errors == []


def test_the_page_keeps_the_last_data_with_a_note_while_the_proxy_is_away(shown, browser, v1, v2):
    ports = {"reviews-v1": v1.port, "reviews-v2": v2.port}
    with Envoy(bootstrap(shown, ports)) as envoy:
        opened(browser, envoy)
    until(lambda: "The proxy cannot be read" in browser.text(), 20, "the note")
    assert "What follows is of" in browser.text()
    assert "reviews-v1" in rows(browser)


def test_names_are_text_and_never_markup(start, shown, browser):
    cluster = "<img src=x onerror=alert(1)>"
    shown["upstreams"]["odd"] = {"cluster": cluster}
    opened(browser, start(shown))
    assert cluster in rows(browser)["odd"]
    assert browser.evaluate("document.querySelectorAll('img').length") == 0
    assert browser.errors == []


def test_the_page_fits_a_phone_and_both_colour_schemes(start, shown, browser, v2):
    v2.answer(500, path="/healthz")
    envoy = start(shown)
    colours = set()
    for width, dark in ((1000, False), (1000, True), (360, False)):
        browser.look(width=width, dark=dark)
        opened(browser, envoy)
        assert browser.evaluate("document.documentElement.scrollWidth") <= width
        colours.add(browser.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(colours) == 2
    until_all(lambda: "not ready" in rows(browser)["reviews-v2"], 20, "the outage", times=2)
    assert browser.evaluate("getComputedStyle(document.querySelector('thead')).display") == "none"


def test_a_source_that_is_not_allowed_gets_the_reason_as_text(start, shown, browser):
    shown["probes"]["status"]["from"] = ["127.0.0.2"]
    envoy = start(shown)
    browser.open(f"http://127.0.0.1:{envoy.port()}/statusz")
    until(lambda: "status refused" in browser.text(), 20, "the refusal")
