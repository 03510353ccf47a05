"""The demo's pages in real tabs of a real browser."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from .running import FRIEND

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page

    from .running import Site

pytestmark = pytest.mark.browser

MOVING = ".tile[data-state=moving]"
WAITING = ".tile[data-state=waiting]"


def opened(context: BrowserContext, url: str) -> Page:
    page = context.new_page()
    page.goto(url)
    return page


def press(page: Page, button: str) -> None:
    """Click in a tab that is not in front, and so draws too seldom for `Page.click` to be quick."""
    page.dispatch_event(button, "click")


def wait_for_timestamps(page: Page, number: int) -> None:
    """Until so many more than now have come."""
    lines = page.locator("#events p")
    expect(lines.nth(lines.count() + number - 1)).to_be_attached()


# -- how many tabs there can be


def test_twenty_tabs_share_one_http2_connection_and_all_receive(
    context: BrowserContext, site: Site
) -> None:
    pages = [opened(context, f"{site.http2}/tabs/") for _ in range(20)]
    for page in pages:
        press(page, "[data-open='1']")
    tiles = [page.locator(f"#http2 {MOVING}") for page in pages]
    for tile in tiles:
        expect(tile).to_have_count(1)
    assert len({tile.inner_text() for tile in tiles}) == 1
    http2 = [tab for tab in site.tabs("tabs") if tab.protocol == "h2"]
    assert len(http2) == 20
    assert len({tab.connection for tab in http2}) == 1
    press(pages[7], "#publish")
    for page in pages:
        expect(page.locator("#http2 .tile[data-flash]")).to_have_count(1)


def test_over_http1_the_seventh_tab_waits_until_one_of_six_closes(
    context: BrowserContext, site: Site
) -> None:
    pages = [opened(context, f"{site.http2}/tabs/") for _ in range(7)]
    first, *_, seventh = pages
    for page in pages[:6]:
        press(page, "[data-open='1']")
        expect(page.locator(f"#http1 {MOVING}")).to_have_count(1)
    seventh.click("[data-open='1']")
    # Long enough for the page to call it stuck; over HTTP/2 the same tab moves all the while.
    expect(seventh.locator("#http1 .verdict")).to_contain_text("tab 1 waits")
    expect(seventh.locator(f"#http2 {MOVING}")).to_have_count(1)
    assert seventh.locator(f"#http1 {WAITING}").count() == 1
    http1 = [tab for tab in site.tabs("tabs") if tab.protocol == "http/1.1"]
    assert len(http1) == len({tab.connection for tab in http1}) == 6
    first.close()
    expect(seventh.locator(f"#http1 {MOVING}")).to_have_count(1)


def test_over_http1_the_seventh_tab_does_not_even_load(context: BrowserContext, site: Site) -> None:
    url = f"{site.http1}/timestamps/"
    pages = [opened(context, url) for _ in range(6)]
    for page in pages:
        expect(page.locator("#events p").first).to_be_visible()
    seventh = context.new_page()
    seventh.evaluate("url => { location.href = url }", url)
    # The others go on meanwhile.
    wait_for_timestamps(pages[1], 3)
    assert seventh.url == "about:blank"
    pages[0].close()
    seventh.wait_for_url(url)


# -- the five services


def test_switching_the_theme_in_one_tab_switches_all(context: BrowserContext, site: Site) -> None:
    # One more than could over HTTP/1.1.
    pages = [opened(context, f"{site.http2}/theme/") for _ in range(7)]
    for page in pages:
        expect(page.locator("#theme")).to_have_text("light")
    light = background(pages[0])
    for page, theme in ((pages[3], "dark"), (pages[6], "light")):
        press(page, "#switch")
        for each in pages:
            expect(each.locator("#theme")).to_have_text(theme)
            expect(each.locator("html")).to_have_attribute("data-theme", theme)
            assert (background(each) == light) == (theme == "light")


def background(page: Page) -> str:
    return str(page.evaluate("getComputedStyle(document.documentElement).backgroundColor"))


def test_the_clock_shows_each_second(context: BrowserContext, site: Site) -> None:
    page = opened(context, f"{site.http2}/clock/")
    clock = page.locator("#local_time")
    seen = set()
    for _ in range(2):
        expect(clock).to_have_text(re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"))
        now = clock.inner_text()
        seen.add(now)
        expect(clock).not_to_have_text(now)
    assert len(seen) == 2
    expect(page.locator("#last_id")).not_to_have_text("none")


def test_timestamps_come_until_the_button_closes_the_stream(
    context: BrowserContext, site: Site
) -> None:
    page, other = (opened(context, f"{site.http2}/timestamps/") for _ in range(2))
    lines = page.locator("#events p")
    expect(lines.nth(1)).to_be_attached()
    assert re.fullmatch(r"Received timestamp: [\d-]{10}T[\d:]{8}\.\d{3}Z", lines.first.inner_text())
    assert len(site.tabs("timestamps")) == 2
    page.click("#btn")
    expect(page.locator("#status")).to_have_text("closed")
    count = lines.count()
    wait_for_timestamps(other, 2)
    assert len(site.tabs("timestamps")) == 1
    assert lines.count() == count


def test_facts_reach_who_is_here_and_who_comes(context: BrowserContext, site: Site) -> None:
    one, two = (opened(context, f"{site.http2}/facts/") for _ in range(2))
    for page in (one, two):
        expect(page.locator("#status")).to_have_text("open")
    for text in ("Honey never spoils.", "<b>Venus</b> turns backwards."):
        one.fill("[name=info]", text)
        one.click("#form button")
        for page in (one, two):
            expect(page.locator("#facts li").first).to_have_text(text)
    late = opened(context, f"{site.http2}/facts/")
    expect(late.locator("#facts li")).to_have_text(
        ["<b>Venus</b> turns backwards.", "Honey never spoils."]
    )


def test_people_see_each_other_and_one_list(context: BrowserContext, site: Site) -> None:
    one, two = (opened(context, f"{site.http2}/people/") for _ in range(2))
    for page in (one, two):
        expect(page.locator("#clients li")).to_have_count(2)
        expect(page.locator("#people li")).to_have_text(["lzc20"])
    two.fill("[name=name]", "Ada")
    two.fill("[name=age]", "36")
    two.click("#form button")
    for page in (one, two):
        expect(page.locator("#people li")).to_have_text(["lzc20", "Ada36"])
    two.close()
    expect(one.locator("#clients li")).to_have_count(1)


def test_a_refused_post_is_explained(
    context: BrowserContext, site: Site, problems: list[str]
) -> None:
    page = opened(context, f"{site.http2}/facts/")
    page.route("**/facts/fact", lambda route: route.continue_(post_data="[]"))
    page.fill("[name=info]", "Anything.")
    page.click("#form button")
    expect(page.locator("#problem")).to_contain_text("body")
    [problem] = problems
    assert "422" in problem
    problems.clear()


# -- the articles' own code, with only the address changed, in pages of another origin


def article(context: BrowserContext, site: Site, body: str) -> Page:
    html = f"<!doctype html><link rel=icon href=data:,><body>{body.replace('SERVER', site.http2)}"
    # A public page must be allowed to reach this machine.
    context.grant_permissions(["local-network-access"])
    context.route(f"{FRIEND}/**", lambda route: route.fulfill(body=html, content_type="text/html"))
    return opened(context, FRIEND)


def test_the_theme_article(context: BrowserContext, site: Site) -> None:
    page = article(
        context,
        site,
        """<button id="switchThemeBtn"></button><p id="theme"></p><script>
        const changeTheme = (state) => { theme.textContent = state; };
        const evtSource = new EventSource("SERVER/theme/events");
        evtSource.addEventListener("theme-change", (e) => {
          changeTheme(e.data);
        });
        switchThemeBtn.addEventListener("click", () => {
          fetch("SERVER/theme/change-theme", {
            method: "post",
            data: JSON.stringify({ theme: "light" }),
          });
        });
        </script>""",
    )
    expect(page.locator("#theme")).to_have_text('{"theme": "light"}')
    page.click("#switchThemeBtn")
    expect(page.locator("#theme")).to_have_text('{"theme": "dark"}')


def test_the_clock_article_with_credentials(context: BrowserContext, site: Site) -> None:
    page = article(
        context,
        site,
        """<p id="local_time"></p><script>
        function main() {
            let url = 'SERVER/clock/stream'

            let evtSource = new EventSource(url, { withCredentials: true });
            evtSource.onmessage = function (e) {
                document.querySelector("#local_time").textContent = e.data
            }
            evtSource.onerror = function (e) {
                console.error('error', e);
                evtSource.close();
            }
        }
        main()
        </script>""",
    )
    expect(page.locator("#local_time")).to_have_text(re.compile(r"\d\d:\d\d:\d\d"))


def test_the_timestamps_article(context: BrowserContext, site: Site) -> None:
    page = article(
        context,
        site,
        """<div id="events"></div><button id="btn">close</button><script>
        const eventSource = new EventSource('SERVER/timestamps/events');
        eventSource.onmessage = (event) => {
          const newElement = document.createElement("p");
          const eventList = document.getElementById('events');

          newElement.innerHTML = "Received timestamp: " + event.data;
          eventList.appendChild(newElement);
        }

        const btn = document.getElementById('btn');
        btn.onclick = () => {
          eventSource.close();
        }
        </script>""",
    )
    other = opened(context, f"{site.http2}/timestamps/")
    expect(page.locator("#events p").nth(1)).to_be_attached()
    page.click("#btn")
    wait_for_timestamps(other, 2)
    assert len(site.tabs("timestamps")) == 1


def test_the_facts_article(context: BrowserContext, site: Site) -> None:
    page = article(
        context,
        site,
        """<p id="list"></p><button id="add"></button><script>
        let facts = [];
        const setFacts = (change) => {
          facts = change(facts);
          list.textContent = JSON.stringify(facts);
        };
        const events = new EventSource("SERVER/facts/events");

        events.onmessage = (event) => {
          const parsedData = JSON.parse(event.data);

          setFacts((facts) => facts.concat(parsedData));
        };
        add.onclick = async () => {
          const response = await fetch("SERVER/facts/fact", {
            method: "POST",
            headers: { "Content-Type": "application/json" },
            body: JSON.stringify({ info: "Honey never spoils." }),
          });
          const { r0, r1 } = await response.json();
          if (r0 !== 0 || r1 !== "") throw new Error(r1);
        };
        </script>""",
    )
    expect(page.locator("#list")).to_have_text("[]")
    page.click("#add")
    expect(page.locator("#list")).to_have_text('[{"info":"Honey never spoils."}]')


def test_the_people_article(context: BrowserContext, site: Site) -> None:
    page = article(
        context,
        site,
        """<p id="data">[]</p><p id="clients"></p><button id="add"></button><script>
        const querystring = { stringify: (params) => String(new URLSearchParams(params)) };
        function ajax(url, type, params){
            return new Promise((resolve, reject) => {
                let xhr = new XMLHttpRequest();
                xhr.onload = ()=>{
                    if(xhr.status === 200){
                        return resolve(xhr.response||xhr.responseText);
                    }
                    return reject('failed');
                }
                xhr.onerror = ()=>{
                    return reject('wrong');
                }
                xhr.open(type, url);
                xhr.setRequestHeader('Content-Type', 'application/x-www-form-urlencoded')
                xhr.send(params);
            })
        }
        const post = (path, params) => {
            const url = `SERVER/people${path}`
            return ajax(url, 'POST', querystring.stringify(params))
        }
        const evtSource = new EventSource('SERVER/people/connect');
        evtSource.onmessage = (event) => {
          data.textContent = event.data;
        };
        evtSource.addEventListener("client", function(event) {
          clients.textContent = JSON.parse(event.data).length;
        });
        add.onclick = () => { post('/addPerson', {name: 'lzc2', age: 22 }) };
        </script>""",
    )
    expect(page.locator("#clients")).to_have_text("1")
    opened(context, f"{site.http2}/people/")
    expect(page.locator("#clients")).to_have_text("2")
    page.click("#add")
    expect(page.locator("#data")).to_have_text(
        '[{"name": "lzc", "age": 20}, {"name": "lzc2", "age": "22"}]'
    )


# -- the tabs page


def test_the_tabs_page_shows_twenty_moving_beside_six(context: BrowserContext, site: Site) -> None:
    page = opened(context, f"{site.http2}/tabs/")
    page.click("[data-open='20']")
    http2, http1 = page.locator("#http2"), page.locator("#http1")
    expect(http2.locator(MOVING)).to_have_count(20)
    expect(http1.locator(MOVING)).to_have_count(6)
    expect(http1.locator(".verdict")).to_have_text(
        "The browser has 6 connections to this origin, all taken by event streams:"
        " tab 7 waits, and so does every other request to it."
    )
    [number] = {tab.connection for tab in site.tabs("tabs") if tab.protocol == "h2"}
    expect(http2.locator(".verdict")).to_have_text(
        f"20 tabs on connection {number}, and the server allows 236 more."
    )
    expect(http2.locator("[data-wire=protocol]")).to_have_text("h2")
    expect(http2.locator("[data-wire=connections]")).to_have_text(str(number))
    expect(http2.locator("[data-wire=limit]")).to_have_text("256 streams")
    assert http1.locator(WAITING).count() == 14
    page.click("#publish")
    expect(page.locator("#published")).to_contain_text("HTTP/2: 20 of 20 in")
    expect(page.locator("#published")).to_contain_text("HTTP/1.1: 6 of 20 in")
    page.click("[data-close='1']")
    expect(http2.locator(".tile")).to_have_count(19)
    expect(http1.locator(".tile")).to_have_count(19)
    expect(http1.locator(MOVING)).to_have_count(6)
    page.click("[data-close='300']")
    expect(page.locator(".side .tile")).to_have_count(0)


def test_the_tabs_page_names_the_servers_limit_when_it_is_reached(
    context: BrowserContext, site: Site
) -> None:
    page = opened(context, f"{site.http2}/tabs/")
    page.click("[data-open='300']")
    http2 = page.locator("#http2")
    expect(http2.locator(MOVING)).to_have_count(256)
    expect(http2.locator(".verdict")).to_contain_text("All 256 streams that the server allows")
    expect(http2.locator(".verdict")).to_contain_text("tab 257 waits")
    assert http2.locator(WAITING).count() == 44
    # The page can still be used: its POST takes a connection of its own.
    page.click("#publish")
    expect(page.locator("#published")).to_contain_text("HTTP/2: 256 of 300 in")


def test_the_tabs_page_says_how_to_accept_the_certificate(
    context: BrowserContext, site: Site, problems: list[str]
) -> None:
    page = opened(context, f"{site.http2}/tabs/")
    page.route(f"{site.http1}/**", lambda route: route.abort("failed"))
    page.click("[data-open='1']")
    problem = page.locator("#http1 .problem")
    expect(problem).to_contain_text("accept the certificate there")
    expect(problem.get_by_role("link")).to_have_attribute("href", site.http1)
    expect(page.locator("#http2 .problem")).to_be_hidden()
    assert all("ERR_FAILED" in each for each in problems)
    problems.clear()
    page.unroute(f"{site.http1}/**")
    expect(page.locator(f"#http1 {MOVING}")).to_have_count(1)
    expect(problem).to_be_hidden()


@pytest.mark.parametrize(
    "path", ["/", "/tabs/", "/theme/", "/clock/", "/timestamps/", "/facts/", "/people/"]
)
def test_pages_fit_a_phone(context: BrowserContext, site: Site, path: str) -> None:
    page = context.new_page()
    page.set_viewport_size({"width": 360, "height": 780})
    page.goto(site.http2 + path)
    expect(page.locator("h1")).to_be_visible()
    for dark in (False, True):
        page.emulate_media(color_scheme="dark" if dark else "light")
        assert page.evaluate("document.documentElement.scrollWidth") == 360
