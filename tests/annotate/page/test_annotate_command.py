"""``samdpo_annotate`` as typed: what it refuses, what it prints, and what it says at the end."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import httpx
import pytest
from browser import Screen, chromium
from page_process import free_port
from waiting import PATIENCE, wait_until

from samdpo.cli import annotate
from samdpo.dataset.images import read_label
from samdpo.files import read_json, write_json
from samdpo.inference.predict_folder import predict_folder


def refused(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, *words: str) -> str:
    monkeypatch.setattr(sys, "argv", ["samdpo_annotate", *words])
    monkeypatch.setattr("samdpo.cli.common.configure_logging", lambda: None)
    with pytest.raises(SystemExit) as stopped:
        annotate.main()
    assert stopped.value.code == 2
    return caplog.text


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--host", "0.0.0.0", "--token", "a-password"), "at least 128"),
        (("--address", "https://annotate.example.org", "--token", "a-password"), "at least 128"),
        (("--address", "annotate.example.org"), "--address is"),
        (("--token", "short"), "at least 8"),
        (("--token", "a-password", "--users", "file"), "both given"),
        (("--users", "no-such-file"), "cannot be read"),
        (("--overlap", "2"), "0 to 1"),
        (("--overlap", "0.5", "--overlap_people", "0"), "at least 1"),
        (("--lease", "0"), "--lease is 0"),
        (("--lease", "inf"), "--lease is inf"),
        (("--lease", "1e18"), "a week"),
        (("--lease", "nan"), "--lease is nan"),
        (("--overlap", "0.5", "--overlap_people", "9" * 30), "1000 at most"),
        (("--address", "https://user:pw@a.b"), "without a path or a user"),
        (("--host", "0.0.0.0", "--token", "correcthorsebatterystaple"), "at least 128"),
        (("--database", "sqlite:///file:x?mode=memory&uri=true"), "name of a file"),
        (("--max_slices", "0"), "--max_slices is 0"),
        (("--database", "mysql://here/there"), "sqlite or postgresql"),
        (("--stage", "nothing"), "no stage 'nothing'"),
        (("--host", "not.an.address.invalid"), "not an address"),
        (("--no_browser",), "samdpo_train 901 finetune 0"),
        (("-i", "images"), "belongs to --review"),
        (("--review", "."), "DATASET (901) means nothing beside --review"),
    ],
)
def test_bad_input_is_told_in_a_sentence_before_any_work(
    planned, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, words: tuple[str, ...], sentence: str
) -> None:
    assert sentence in refused(monkeypatch, caplog, "901", "0", *words)


def test_a_port_in_use_is_told_before_candidates_are_made(
    planned, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert f"port {port}" in refused(monkeypatch, caplog, "901", "0", "--port", str(port))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "expects DATASET and FOLD"), (("901",), "expects DATASET and FOLD"),
        (("--review", "nowhere"), "is not a folder"),
        (("--review", "empty"), "is not a folder that samdpo_predict wrote"),
        (("--review", "empty", "--mode", "best"), "--mode (best) means nothing"),
    ],
)
def test_what_is_to_be_looked_at_must_be_said(monkeypatch, caplog, tmp_path: Path, words, sentence: str) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert sentence in refused(monkeypatch, caplog, *words)
    assert list((tmp_path / "empty").iterdir()) == []


@contextmanager
def typed(phantoms, *words: str, of: tuple[str, ...] = ("901", "0")) -> Iterator[tuple[str, str, list[str]]]:
    """``samdpo_annotate 901 0 WORDS`` until Ctrl-C: its address, its token, and what it says, whole at the end."""
    port = free_port()
    process = phantoms.start("annotate", *of, "--port", str(port), "--no_browser", "-device", "cpu", *words)
    said: list[str] = []
    reader = threading.Thread(target=lambda: said.extend(process.stderr), daemon=True)
    reader.start()
    address = f"http://127.0.0.1:{port}"
    wait_until(lambda: any(line.startswith("Ctrl-C ends") for line in said), process, lambda: "".join(said))
    assert f"Open    {address}\n" in said
    token = next(line for line in said if line.startswith("Token")).split()[1]
    try:
        yield address, token, said
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=PATIENCE)
        reader.join(timeout=PATIENCE)
    assert process.returncode == 0, "".join(said)


def test_from_a_finetuned_model_to_stored_judgements(finetuned, tmp_path: Path) -> None:
    with (
        typed(finetuned, "--mode", "best", "--max_slices", "3") as (address, token, said),
        httpx.Client(base_url=address, headers={"origin": address}, follow_redirects=True, timeout=PATIENCE) as client,
    ):
        page = client.post("/sign-in", data={"name": "anna", "token": token}).text
        client.headers["x-csrf-token"] = re.search(r'csrf-token" content="(\w+)"', page)[1]
        first = client.post("/api/next", json={}).json()
        assert first["progress"]["left"] == 3
        shown = client.get(f"/api/items/{first['item']}").json()
        assert shown["aspect"] == pytest.approx(112 / 96)  # of the phantoms, before they were squashed
        reply = client.post("/api/judgements", json={
            "item": first["item"], "mode": "best", "verdict": "ranked", "best": 1, "seconds": 3,
            "client_key": "3c1c4bb6-6df5-4a4c-9a8b-0d4b3f6d2a11",
        })
        assert reply.status_code == 200
        second = reply.json()["item"]
        drawn = client.post(f"/api/items/{second}/segment", json={"box": [40, 40, 200, 220]})  # by the finetuned model
        assert drawn.status_code == 200 and drawn.json()["outline"]
        placed = {"item": second, "mode": "best", "verdict": "none_acceptable", "box": [40, 40, 200, 220], "seconds": 5,
                  "client_key": "3c1c4bb6-6df5-4a4c-9a8b-0d4b3f6d2a12"}
        assert client.post("/api/judgements", json=placed).status_code == 200
    text = "".join(said)
    assert "Judgements stored this time: 2; in all: 2 (anna 2)." in text
    assert "Next: samdpo_train 901 align 0 --annotator recorded" in text
    assert (finetuned.results / "preferences.sqlite").is_file()


@pytest.fixture
def predicted(finetuned, tmp_path: Path) -> Path:
    """Predictions of three images, of which two are to be looked at."""
    images = tmp_path / "images"
    images.mkdir()
    for file in sorted((finetuned.raw / "imagesTr").iterdir())[:3]:
        shutil.copy(file, images)
    masks = predict_folder(images, tmp_path / "predictions", finetuned.finetuned, device="cpu")
    for mask in masks:
        report = read_json(mask.with_suffix(".json"))
        looked = mask != masks[-1]
        write_json(mask.with_suffix(".json"), {**report, "look_at": looked, "reasons": ["lung: doubtful"] * looked})
    return tmp_path / "predictions"


def test_predictions_that_are_flagged_are_accepted_or_mended(finetuned, predicted: Path) -> None:
    masks = sorted(predicted.glob("*.png"))
    before = [mask.read_bytes() for mask in masks]
    with (
        typed(finetuned, of=("--review", str(predicted))) as (address, token, said),
        httpx.Client(base_url=address, headers={"origin": address}, follow_redirects=True, timeout=PATIENCE) as client,
    ):
        page = client.post("/sign-in", data={"name": "anna", "token": token}).text
        client.headers["x-csrf-token"] = re.search(r'csrf-token" content="(\w+)"', page)[1]
        first = client.post("/api/next", json={}).json()
        shown = client.get(f"/api/items/{first['item']}").json()
        assert (shown["note"], len(shown["candidates"]), first["progress"]["left"]) == ("lung: doubtful", 1, 2)
        assert f"{shown['case']}.png" == masks[0].name
        judgement = {"item": first["item"], "mode": "best", "verdict": "none_acceptable", "box": [60, 60, 190, 200],
                     "seconds": 4, "client_key": "3c1c4bb6-6df5-4a4c-9a8b-0d4b3f6d2a13"}
        second = client.post("/api/judgements", json=judgement).json()
        judgement |= {"item": second["item"], "verdict": "accepted", "best": 0,
                      "client_key": "3c1c4bb6-6df5-4a4c-9a8b-0d4b3f6d2a14"}
        del judgement["box"]
        assert client.post("/api/judgements", json=judgement).json()["item"] is None
    after = [mask.read_bytes() for mask in masks]
    assert after[0] != before[0] and after[1:] == before[1:]
    assert (predicted / "before_review" / masks[0].name).read_bytes() == before[0]
    assert read_label(masks[0]).shape == read_label(masks[1]).shape and read_label(masks[0]).any()
    assert [read_json(mask.with_suffix(".json"))["look_at"] for mask in masks] == [False] * 3
    assert "Of 2 cases 1 were mended" in "".join(said)
    answers = [json.loads(line) for line in (predicted / "review" / "answers.jsonl").read_text().splitlines()]
    assert [one["verdict"] for one in answers if one["kind"] == "judgement"] == ["none_acceptable", "accepted"]


@pytest.mark.slow
def test_a_review_in_a_browser(finetuned, predicted: Path) -> None:
    with (
        chromium() as browser,
        typed(finetuned, of=("--review", str(predicted))) as (address, token, _),
    ):
        screen = Screen(browser, address, token=token, ready="body:not(.busy) #note")
        screen.page.locator("#note", has_text="lung: doubtful").wait_for()
        assert not screen.page.locator(".candidate").first.is_visible()
        assert screen.text("[data-action=next] span") == "It is right"
        screen.press("0")
        assert screen.text("[data-action=next] span") == "It is not here"
        box = screen.page.locator("#image").bounding_box()
        screen.page.mouse.click(box["x"] + box["width"] / 2 - 60, box["y"] + box["height"] / 2 - 60)
        screen.page.mouse.click(box["x"] + box["width"] / 2 + 60, box["y"] + box["height"] / 2 + 60)
        screen.page.wait_for_selector("#image[data-outline=drawn]")
        screen.press("Enter")
        screen.page.locator("#judged", has_text="1").wait_for()
        screen.seen()
        screen.press("Space")
        screen.page.locator(".nothing-left").wait_for()
        assert screen.faults == []
    assert len(list((predicted / "before_review").glob("*.png"))) == 1


@pytest.mark.slow
def test_what_is_pressed_in_a_browser_is_what_align_learns(finetuned) -> None:
    words = ("--max_slices", "4", "--stage", "align_preferences")
    with chromium() as browser, typed(finetuned, *words) as (address, token, said):
        screen = Screen(browser, address, token=token)
        for number in range(1, 5):
            screen.wait_for_item()
            screen.press("2 1 4 3 Enter")
            screen.page.locator("#judged", has_text=str(number)).wait_for()
    assert "Judgements stored this time: 4" in "".join(said)
    settings = ("epochs=5", "lr=0.0005", "loss.anchor_weight=0", "labelled_per_step=0")
    trainer = finetuned.train("align_preferences", "annotator.kind=recorded", *settings)
    margins = trainer.run_log.history["rewards/margins"]
    assert all(later > earlier for earlier, later in pairwise(margins)), margins


def test_the_command_says_what_training_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["3", "0", "-p", "mine", "--stage", "align_sum", "--database", "postgresql://me:secret@there/db",
             "--set", "candidates.count=3"]
    args = annotate.arguments().parse_args(words)
    assert annotate.training_command(args, 3) == (
        "samdpo_train 3 align_sum 0 --annotator recorded -p mine --database URL --set candidates.count=3"
    )
