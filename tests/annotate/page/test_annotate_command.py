"""``samdpo_annotate`` as typed: what it refuses, what it prints, and what it says at the end."""

from __future__ import annotations

import re
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


@contextmanager
def typed(phantoms, *words: str) -> Iterator[tuple[str, str, list[str]]]:
    """``samdpo_annotate 901 0 WORDS`` until Ctrl-C: its address, its token, and what it says, whole at the end."""
    port = free_port()
    process = phantoms.start("annotate", "901", "0", "--port", str(port), "--no_browser", "-device", "cpu", *words)
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


@pytest.mark.slow
def test_what_is_pressed_in_a_browser_is_what_align_learns(finetuned) -> None:
    with chromium() as browser, typed(finetuned, "--max_slices", "4") as (address, token, said):
        screen = Screen(browser, address, token=token)
        for number in range(1, 5):
            screen.wait_for_item()
            screen.press("2 1 4 3 Enter")
            screen.page.locator("#judged", has_text=str(number)).wait_for()
    assert "Judgements stored this time: 4" in "".join(said)
    settings = ("epochs=5", "lr=0.0005", "loss.anchor_weight=0", "labelled_per_step=0")
    trainer = finetuned.train("align", "annotator.kind=recorded", *settings)
    margins = trainer.run_log.history["rewards/margins"]
    assert all(later > earlier for earlier, later in pairwise(margins)), margins


def test_the_command_says_what_training_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["3", "0", "-p", "mine", "--stage", "align_sum", "--database", "postgresql://me:secret@there/db",
             "--set", "candidates.count=3"]
    args = annotate.arguments().parse_args(words)
    assert annotate.training_command(args, 3) == (
        "samdpo_train 3 align_sum 0 --annotator recorded -p mine --database URL --set candidates.count=3"
    )
