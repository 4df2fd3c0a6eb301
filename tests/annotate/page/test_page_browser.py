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
from ranking_people import judgement

from samdpo.annotate.database.database import PreferenceDatabase
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


# Keys of ten cases, and what each means for the candidates.
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
    for given, (_, answer) in zip(judgements[:9], TEN):
        if isinstance(answer, str):
            assert (given.verdict, given.ranks) == (answer, None)
        else:
            assert (given.verdict, given.ranks) == ("ranked", tuple(answer))
    assert judgements[9].ranks == (1, 1, 2, 3)
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
    assert judgement.ranks == (2, 1, 3, 4)


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
    assert first.ratings == (4, 3, 2, 1)
    assert second.ratings == (3, 4, 1, 2)
    assert screen.faults == []


# Keys, or a selector that is clicked, and the candidate that they call right.
ACCEPTING = [
    ("Space", 0),  # the first, at a glance
    ("Enter", 0),
    ("3 Space", 2),
    ("ArrowRight ArrowRight Space", 2),
    ("ArrowLeft Space", 0),  # all together: the first is in question again
    (".candidate:nth-child(4) .right", 3),
    ("2 1 1 Space", 1),  # placed, and taken back
    ("[data-action=next]", 0),
]


def test_one_key_accepts_the_first_and_two_another_one(browser, page, stored, url) -> None:
    screen = Screen(browser, page.address)
    for number, (how, _) in enumerate(ACCEPTING):
        screen.wait_for_item(stored.items[number].case)
        assert screen.text("[data-action=next] span") == "1 is right"
        screen.seen()
        if how[0] in ".[":
            screen.page.click(how)
        else:
            screen.press(how)
    screen.wait_for_item(stored.items[len(ACCEPTING)].case)
    assert [(j.verdict, j.best, j.ranks) for j in held(url)] == [("accepted", best, None) for _, best in ACCEPTING]
    screen.press("u")
    screen.wait_for_item(stored.items[len(ACCEPTING) - 1].case)
    assert screen.text(".candidate:nth-child(1) .mark") == "right"
    assert screen.faults == []


def test_candidates_in_no_order_are_compared_before_one_is_called_right(browser, stored, url) -> None:
    with running_page(stored.folder, url, ordered=False) as page:
        screen = Screen(browser, page.address)
        screen.seen()
        screen.press("Space")  # says nothing: none of them is in question
        assert screen.text("#hint") == "Which one is best?" and held(url) == []
        screen.press("3 Space")
        screen.wait_for_item(stored.items[1].case)
    assert [(judgement.verdict, judgement.best) for judgement in held(url)] == [("accepted", 2)]
    assert screen.faults == []


def test_a_key_that_is_pressed_twice_does_not_accept_what_nobody_has_seen(browser, page, stored, url) -> None:
    screen = Screen(browser, page.address)
    screen.seen()
    screen.page.evaluate("""() => {
      const press = () => window.dispatchEvent(new KeyboardEvent("keydown", { key: " " }));
      const next = new MutationObserver(() => document.body.classList.contains("busy") || press());
      next.observe(document.body, { attributes: true, attributeFilter: ["class"] });
      press();
    }""")
    screen.wait_for_item(stored.items[1].case)
    screen.seen()
    assert len(held(url)) == 1 and screen.text("#case") == stored.items[1].case


def place_of(screen: Screen, x: float, y: float) -> tuple[float, float]:
    """Where on the screen a pixel's corner of the 64 x 64 slice is."""
    box = screen.page.locator("#image").bounding_box()
    scale = min(box["width"], box["height"]) / 64
    return (box["x"] + box["width"] / 2 + (x - 32) * scale, box["y"] + box["height"] / 2 + (y - 32) * scale)


def drag(screen: Screen, start: tuple[float, float], end: tuple[float, float]) -> None:
    mouse = screen.page.mouse
    mouse.move(*place_of(screen, *start))
    mouse.down()
    mouse.move(*place_of(screen, *end), steps=4)
    mouse.up()


def click(screen: Screen, x: float, y: float) -> None:
    screen.page.mouse.click(*place_of(screen, x, y))


def test_where_none_is_right_a_box_or_a_click_says_where_it_is(browser, page, stored, url) -> None:
    screen = Screen(browser, page.address)
    outline = "#image[data-outline=drawn]"

    def ask(number: int) -> None:
        screen.wait_for_item(stored.items[number].case)
        screen.press("0")

    ask(0)  # two clicks on opposite corners, in any order
    assert screen.text("[data-action=next] span") == "I cannot say where"
    click(screen, 40, 50)
    screen.page.wait_for_selector(outline)
    click(screen, 10, 20)
    screen.page.wait_for_selector(outline)
    screen.press("Enter")
    ask(1)  # a drag, and a corner that is mended, and the whole box shifted
    drag(screen, (10, 10), (30, 40))
    drag(screen, (30, 40), (34, 44))
    drag(screen, (20, 20), (25, 18))
    screen.press("Enter")
    ask(2)  # one click
    click(screen, 12.5, 33.5)
    screen.press("Enter")
    ask(3)  # cannot be said
    screen.press("Enter")
    ask(4)  # a third click begins anew
    for at in ((5, 5), (20, 20), (50.5, 40.5)):
        click(screen, *at)
    screen.press("Enter")
    ask(5)  # taken back, and one of them is right after all
    click(screen, 5, 5)
    screen.press("Backspace")
    assert screen.text("[data-action=next] span") == "I cannot say where"
    screen.seen()
    screen.press("Escape Space")
    ask(6)  # keys alone: the cursor begins in the middle
    screen.press("Space Shift+ArrowLeft ArrowUp Space Shift+ArrowRight ArrowRight Shift+ArrowDown Space")
    screen.press("Enter")
    screen.wait_for_item(stored.items[7].case)
    judgements = held(url)
    assert [(j.box, j.point) for j in judgements] == [
        ((10, 20, 40, 50), None), ((15, 8, 39, 42), None), (None, (12, 33)), (None, None), (None, (50, 40)),
        (None, None), ((20, 30, 34, 42), None),
    ]
    assert [j.verdict for j in judgements] == ["none_acceptable"] * 5 + ["accepted", "none_acceptable"]
    screen.press("u")
    screen.wait_for_item(stored.items[6].case)
    screen.page.wait_for_selector(outline)  # the box is there again, with its outline
    screen.press("Enter")
    screen.wait_for_item(stored.items[7].case)
    assert held(url)[-1].box == (20, 30, 34, 42)
    assert screen.faults == []


def test_where_it_is_by_touch(browser, page, stored, url) -> None:
    screen = Screen(browser, page.address, width=820, height=1180, has_touch=True, is_mobile=True)
    screen.page.tap("[data-action=none]")
    for at in ((10, 20), (10, 20), (40, 50)):  # tapped twice: the view stays as it is
        screen.page.touchscreen.tap(*place_of(screen, *at))
    screen.page.tap("[data-action=next]")
    screen.wait_for_item(stored.items[1].case)
    assert held(url)[0].box == (10, 20, 40, 50)
    screen.page.tap("[data-action=none]")
    screen.page.tap("[data-action=back]")
    screen.seen()
    screen.page.tap(".candidate:nth-child(2) .right")
    screen.wait_for_item(stored.items[2].case)
    assert held(url)[1].best == 1
    assert screen.faults == []


def test_the_page_says_when_to_stop_and_what_to_type_then(browser, tmp_path, url) -> None:
    stored = drawn.draw(tmp_path / "many", n_items=22, size=32)
    database = PreferenceDatabase.open(url)
    database.add_candidate_set(stored.candidate_set, stored.items)
    for item in stored.items[:19]:
        database.record(judgement(item, "ben", verdict="accepted", best=0))
    database.close()
    with running_page(stored.folder, url) as page:
        screen = Screen(browser, page.address)
        assert "right in 19 of your dataset's last 19 answers" in screen.text(".side .outlook")
        assert not screen.page.locator(".side .stop").is_visible()
        screen.seen()
        screen.press("Space")
        screen.page.locator(".side .stop").wait_for()
        assert "It is time to stop" in screen.text(".side .stop")
        assert screen.text(".side code") == "samdpo_train 901 align 0 --annotator recorded"


@pytest.mark.parametrize("page", ["best"], indirect=True)
def test_the_best_takes_one_key(browser, page, stored, url) -> None:
    screen = Screen(browser, page.address)
    for number, keys in enumerate(["3", "1", "0 Enter", "ArrowRight Space"]):
        screen.wait_for_item(stored.items[number].case)
        screen.seen()
        screen.press(keys)
    screen.wait_for_item(stored.items[4].case)
    assert [(judgement.verdict, judgement.best) for judgement in held(url)] == [
        ("ranked", 2), ("ranked", 0), ("none_acceptable", None), ("accepted", 1),
    ]


def test_by_touch_on_an_upright_tablet(browser, page, stored, url) -> None:
    screen = Screen(browser, page.address, width=820, height=1180, has_touch=True, is_mobile=True)
    screen.page.tap(".candidate:nth-child(3) .small-view")  # looks, does not place
    assert screen.text("#shown") == "Candidate 3 alone"
    for place in (3, 1, 4):
        screen.page.tap(f".candidate:nth-child({place}) .place")
    screen.page.tap("[data-action=next]")
    screen.wait_for_item(stored.items[1].case)
    assert held(url)[0].ranks == (2, 4, 1, 3)
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
