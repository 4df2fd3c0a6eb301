"""The page in a real browser: what is pressed, clicked or touched is what the database holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import drawn
import pytest
from browser import Screen, chromium
from page_client import TOKEN
from page_process import PageProcess, running_page

from samdpo.annotate.database.database import PreferenceDatabase
from samdpo.annotate.page.item_views import display_order, to_stored
from samdpo.preferences.records import Judgement
from samdpo.preferences.stored_candidates import StoredCandidates

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as launched:
        yield launched


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'preferences.sqlite'}"


@pytest.fixture
def stored(tmp_path: Path) -> StoredCandidates:
    return drawn.draw(tmp_path / "set", n_items=12, size=64)


@pytest.fixture
def page(stored: StoredCandidates, url: str, request: pytest.FixtureRequest) -> Iterator[PageProcess]:
    """A page in ranking mode, or in the mode of an indirect parameter."""
    with running_page(stored.folder, url, mode=getattr(request, "param", "ranking")) as running:
        yield running


def held(url: str) -> list[Judgement]:
    """What the database holds now."""
    database = PreferenceDatabase.open(url)
    judgements = database.judgements()
    database.close()
    return judgements


def stored_ranks(item: int, shown: list[int], name: str = "anna") -> tuple[int, ...]:
    """Ranks as shown on a person's screen -> of the stored candidates."""
    return tuple(to_stored(shown, display_order("drawn", item, name, 4)))


# Keys of ten cases, and what each means for the candidates as shown.
TEN = [
    ("1 2 3 4", [1, 2, 3, 4]),
    ("4 3 2 1", [4, 3, 2, 1]),
    ("2 1 4", [2, 1, 4, 3]),  # the last finds its place by itself
    ("3 = 1 2 4", [1, 2, 1, 3]),
    ("1 = 2 = 3 = 4", [1, 1, 1, 1]),
    ("2 4 = 1 3", [2, 1, 3, 2]),
    ("1 2 2 3 2 4", [1, 3, 2, 4]),  # 2 was taken back and placed again
    ("0", "none_acceptable"),
    ("s", "skipped"),
    ("4 1 = 2 3", [2, 2, 3, 1]),
]


def test_ten_cases_ranked_by_keyboard_one_undone_and_a_reload(browser, page, stored, url) -> None:
    screen = Screen(browser, page.address)
    for number, (keys, answer) in enumerate(TEN):
        screen.wait_for_item(stored.items[number].case)
        screen.press(keys)
        if answer != "skipped":
            screen.press("Enter")
    screen.wait_for_item(stored.items[10].case)
    screen.press("u")
    screen.wait_for_item(stored.items[9].case)
    assert [screen.text(f".candidate:nth-child({i}) .mark") for i in (1, 2, 3, 4)] == ["2nd =", "2nd =", "3rd", "1st"]
    screen.press("4 4 Enter")  # 4, taken back and placed again, is last now
    screen.wait_for_item(stored.items[10].case)
    screen.page.reload()
    screen.wait_for_item(stored.items[10].case)
    assert screen.text("#judged") == "9"
    assert screen.text("#left") == "2"

    judgements = held(url)
    assert [judgement.item for judgement in judgements] == [item.id for item in stored.items[:10]]
    for judgement, (_, answer) in zip(judgements[:9], TEN):
        if isinstance(answer, str):
            assert (judgement.verdict, judgement.ranks) == (answer, None)
        else:
            assert (judgement.verdict, judgement.ranks) == ("ranked", stored_ranks(judgement.item, answer))
    assert judgements[9].ranks == stored_ranks(judgements[9].item, [1, 1, 2, 3])
    assert all(0 < judgement.seconds < 60 for judgement in judgements)
    assert screen.faults == []


def test_a_judgement_given_without_network_is_stored_once_it_is_back(browser, page, stored, url) -> None:
    screen = Screen(browser, page.address)
    screen.context.set_offline(True)
    screen.press("2 1 3 4 Enter")
    screen.page.wait_for_selector("#stored[data-state=waiting]")
    assert "Not stored yet" in screen.text("#stored")
    assert held(url) == []
    screen.context.set_offline(False)
    screen.wait_for_item(stored.items[1].case)
    assert screen.text("#stored") == "Stored"
    (judgement,) = held(url)
    assert judgement.ranks == stored_ranks(stored.items[0].id, [2, 1, 3, 4])


def test_a_judgement_survives_closing_the_page_without_network(browser, page, stored, url) -> None:
    screen = Screen(browser, page.address)
    screen.page.route("**/api/judgements", lambda route: route.abort())
    screen.press("1 2 3 4 Enter")
    screen.page.wait_for_selector("#stored[data-state=waiting]")
    screen.page.close(run_before_unload=False)
    again = screen.context.new_page()
    again.goto(page.address)
    again.locator("#case", has_text=stored.items[1].case).wait_for()
    assert len(held(url)) == 1


def test_a_restart_of_the_server_is_not_noticed(browser, stored, url) -> None:
    with running_page(stored.folder, url) as page:
        screen = Screen(browser, page.address)
        screen.press("1 2 3 4")
    screen.press("Enter")
    screen.page.wait_for_selector("#stored[data-state=waiting]")
    with running_page(stored.folder, url, port=int(page.address.rpartition(":")[2])):
        screen.wait_for_item(stored.items[1].case)
    assert len(held(url)) == 1


@pytest.mark.parametrize("page", ["rating"], indirect=True)
def test_stars_by_keyboard_and_mouse(browser, page, stored, url) -> None:
    screen = Screen(browser, page.address)
    screen.press("4 3 2 1 Enter")  # the next one without stars is chosen by itself
    screen.wait_for_item(stored.items[1].case)
    screen.press("c 1")
    screen.page.click(".candidate:nth-child(1) .star:nth-child(3)")
    screen.page.hover(".candidate:nth-child(4) canvas")
    screen.press("2")
    screen.press("b 4 Enter")
    screen.wait_for_item(stored.items[2].case)
    first, second = held(url)
    assert first.ratings == stored_ranks(first.item, [4, 3, 2, 1])
    assert second.ratings == stored_ranks(second.item, [3, 4, 1, 2])
    assert screen.faults == []


@pytest.mark.parametrize("page", ["best"], indirect=True)
def test_the_best_takes_one_key(browser, page, stored, url) -> None:
    screen = Screen(browser, page.address)
    for number, key in enumerate(["3", "1", "0"]):
        screen.wait_for_item(stored.items[number].case)
        screen.press(key)
    screen.wait_for_item(stored.items[3].case)
    judgements = held(url)
    expected = [display_order("drawn", j.item, "anna", 4)[place] for j, place in zip(judgements, (2, 0))]
    assert [judgement.best for judgement in judgements] == [*expected, None]
    assert judgements[2].verdict == "none_acceptable"


def test_by_touch_on_an_upright_tablet(browser, page, stored, url) -> None:
    screen = Screen(browser, page.address, width=820, height=1180, has_touch=True, is_mobile=True)
    screen.page.tap(".candidate:nth-child(3) .small-view")  # looks, does not place
    assert screen.text("#shown") == "Candidate 3 alone"
    for place in (3, 1, 4):
        screen.page.tap(f".candidate:nth-child({place}) .place")
    screen.page.tap("[data-action=next]")
    screen.wait_for_item(stored.items[1].case)
    assert held(url)[0].ranks == stored_ranks(stored.items[0].id, [2, 4, 1, 3])
    sizes = screen.page.eval_on_selector_all(
        "button", "all => all.map(b => b.getBoundingClientRect()).filter(b => b.width).map(b => [b.width, b.height])"
    )
    assert min(min(size) for size in sizes) >= 44
    assert screen.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert screen.faults == []


def test_window_and_zoom_by_mouse_and_a_double_click_puts_them_back(browser, page) -> None:
    screen = Screen(browser, page.address)
    mouse, box = screen.page.mouse, screen.page.locator("#image").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    mouse.move(x, y)
    mouse.down()
    mouse.move(x + 100, y + 50, steps=5)
    mouse.up()
    assert screen.text("#window").startswith("window 7")  # narrower than 100 %
    mouse.wheel(0, -600)
    screen.page.wait_for_selector("#image.zoomed")
    mouse.dblclick(x, y)
    screen.page.wait_for_selector("#image:not(.zoomed)")
    assert screen.text("#window") == ""
    assert screen.faults == []


def test_everything_can_be_done_and_named_without_a_mouse(browser, page) -> None:
    screen = Screen(browser, page.address)
    named = screen.page.eval_on_selector_all(
        "button, canvas:not([aria-hidden]), progress",
        "all => all.filter(e => e.offsetParent).map(e => (e.getAttribute('aria-label') || e.textContent).trim())",
    )
    assert all(named)
    reached = set()
    for _ in range(30):
        screen.press("Tab")
        reached.add(screen.page.evaluate("(document.activeElement.getAttribute('aria-label') || document.activeElement"
                                         ".textContent).trim()"))
    assert {"Candidate 1", "Candidate 4", "Candidate 2: show it alone"} <= reached
    screen.press("?")
    assert screen.page.locator("#help").is_visible()
    screen.press("Escape")
    screen.press("ArrowRight")
    assert "alone" in screen.text("#shown")


def test_a_session_that_ends_is_told_and_loses_nothing(browser, page, url) -> None:
    screen = Screen(browser, page.address)
    screen.press("1 2 3 4")
    screen.context.clear_cookies()
    screen.press("Enter")
    screen.page.wait_for_selector("#notice[open]")
    assert "signed out" in screen.text("#notice-title")
    screen.page.click("#notice-button")
    screen.page.fill("#name", "anna")
    screen.page.fill("#token", TOKEN)
    screen.page.click("button[type=submit]")
    screen.wait_for_item()
    assert len(held(url)) == 1
