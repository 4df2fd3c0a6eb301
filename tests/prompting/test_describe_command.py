"""samdpo_describe: what is asked, what is written, what happens when it is stopped or refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from endpoint import Endpoint, endpoint, fails, says
from waiting import PATIENCE

from samdpo.cli.describe import main
from samdpo.files import read_json
from samdpo.prompting.language_model import LanguageModel, short_text

KEY = "sk-test-0123456789abcdef"
DATASET = "Dataset905_Abdomen"
STRUCTURES = ["liver", "spleen", "mass 1", "aorta"]


@pytest.fixture(autouse=True)
def _no_waiting_between_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("INITIAL_RETRY_DELAY", "MAX_RETRY_DELAY"):
        monkeypatch.setattr(f"openai._base_client.{name}", 0.0)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with endpoint() as running:
        monkeypatch.setenv("OPENAI_BASE_URL", running.url)
        monkeypatch.setenv("samdpo_llm_model", "some-model")
        yield running


@pytest.fixture
def file(roots) -> Path:
    """The file of a dataset whose 'aorta' is described in dataset.json and whose 'mass 1' has a phrase."""
    folder = roots.raw / DATASET
    folder.mkdir()
    content = {
        "channel_names": {"0": "CT"}, "numTraining": 1, "file_ending": ".nii.gz",
        "labels": {"background": 0, **{name: i for i, name in enumerate(STRUCTURES, start=1)}},
        "samdpo": {"structures": {"aorta": {"description": "A round tube."}, "mass 1": {"phrase": "kidney tumor"}}},
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    return roots.preprocessed / DATASET / "descriptions.json"


@pytest.fixture
def describe(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Run the command in this process: exit code and everything it said."""

    def run(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["samdpo_describe", "905", *words])
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        out, said = capfd.readouterr()
        return code, out + said

    return run


def start(more: dict[str, str] | None = None, **options) -> subprocess.Popen:
    program = "import sys; sys.argv[1:] = ['905']; from samdpo.cli.describe import main; main()"
    return subprocess.Popen([sys.executable, "-c", program], env={**os.environ, **(more or {})}, **options)


def texts(file: Path) -> dict[str, str]:
    return {name: entry["text"] for name, entry in read_json(file)["descriptions"].items()}


def test_it_sends_names_and_modality_and_writes_what_comes_back(served, file, describe):
    served.reply = lambda body: says(f"Text {len(served.bodies)}.")
    code, said = describe()
    assert code == 0
    assert texts(file) == {"liver": "Text 1.", "spleen": "Text 2.", "mass 1": "Text 3."}
    assert [("liver" in q, "kidney tumor" in q, "CT images" in q) for q in served.questions] == [
        (True, False, True), (False, False, True), (False, True, True)
    ]
    assert all(header["authorization"] == f"Bearer {KEY}" for header in served.headers)
    assert "3 of 4 descriptions were written" in said and str(file) in said
    assert "samdpo_plan_and_preprocess -d 905" in said and "samdpo_prompt 905 0" in said
    assert read_json(file)["descriptions"]["liver"]["source"] == "some-model, not checked by a person"


def test_edits_stay_and_overwrite_asks_again(served, file, describe):
    describe()
    content = read_json(file)
    content["descriptions"]["liver"] = "My own words."
    del content["descriptions"]["spleen"]
    file.write_text(json.dumps(content))
    served.reply = lambda body: says("Second.")
    describe()
    assert texts(file) == {"liver": "My own words.", "spleen": "Second.", "mass 1": "It is round."}
    describe("--overwrite", "--model", "another", "--base_url", served.url)
    assert set(texts(file).values()) == {"Second."} and served.bodies[-1]["model"] == "another"


def test_a_text_in_the_raw_folder_is_not_asked_for(served, file, describe, roots):
    (roots.raw / DATASET / "descriptions.json").write_text('{"descriptions": {"liver": "Shared."}}')
    describe()
    assert "liver" not in texts(file) and len(served.bodies) == 2


def test_the_key_is_in_no_file_and_no_message(served, file, describe, roots, monkeypatch):
    monkeypatch.setenv("samdpo_debug", "1")
    describe()
    monkeypatch.delenv("samdpo_debug")
    said = ""
    for status in (401, 403, 404, 418):
        served.reply = lambda body, status=status: fails(status, f"Incorrect API key provided: {KEY}.")
        code, more = describe("--overwrite")
        assert code == 2
        said += more
    assert KEY not in said and "rejects the key" in said
    written = [path for path in roots.raw.parent.rglob("*") if path.is_file()]
    assert file in written and not any(KEY.encode() in path.read_bytes() for path in written)


def test_a_traceback_does_not_show_the_key(served, file, roots):
    served.reply = lambda body: fails(401, f"Incorrect API key provided: {KEY}.")
    process = start({"samdpo_debug": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    out, said = process.communicate(timeout=PATIENCE)
    assert "Traceback" in said and KEY not in out + said


def test_a_killed_run_goes_on_where_it_was(served, file, describe):
    third, go_on = threading.Event(), threading.Event()

    def reply(body):
        if len(served.bodies) == 3:
            third.set()
            go_on.wait(PATIENCE)
        return says(f"Text {len(served.bodies)}.")

    served.reply = reply
    process = start(stderr=subprocess.DEVNULL)
    assert third.wait(PATIENCE)
    process.send_signal(signal.SIGKILL)
    process.wait(PATIENCE)
    go_on.set()
    assert texts(file) == {"liver": "Text 1.", "spleen": "Text 2."}
    assert not list(file.parent.glob(".tmp*"))
    describe()
    assert texts(file) == {"liver": "Text 1.", "spleen": "Text 2.", "mass 1": "Text 4."}


@pytest.mark.parametrize(
    ("reply", "reason"),
    [(says(None, refusal="I cannot."), "refused: I cannot."), (says("  "), "empty answer"),
     (says("x", finish="content_filter"), "refused"), (says("<think>Well"), "no text")],
)
def test_a_refusal_costs_one_description_only(served, file, describe, reply, reason):
    served.reply = lambda body: reply if "spleen" in body["messages"][-1]["content"] else says("It is round.")
    code, said = describe()
    assert code == 0 and set(texts(file)) == {"liver", "mass 1"}
    assert "spleen: " in said and reason in said and f"into {file} yourself" in said


def test_a_server_that_is_busy_is_asked_again(served):
    def reply(body):
        return fails(503, "busy") if len(served.bodies) < 3 else says("It is round.")

    served.reply = reply
    assert LanguageModel().ask("system", "question") == "It is round."


def test_a_model_that_wants_the_newer_limit_gets_it(served):
    served.reply = lambda body: (
        fails(400, "Unsupported parameter: max_tokens") if "max_tokens" in body else says("It is round.")
    )
    assert LanguageModel().ask("system", "question") == "It is round."
    assert "max_completion_tokens" in served.bodies[-1] and "temperature" not in served.bodies[-1]


@pytest.mark.parametrize(
    ("status", "said"), [(401, "rejects the key"), (404, "does not know the model 'some-model'"), (422, "an error")]
)
def test_errors_are_sentences_that_name_the_endpoint(served, file, describe, status, said):
    served.reply = lambda body: fails(status, "No.")
    code, message = describe()
    assert code == 2 and said in message and served.url in message and "Traceback" not in message


def test_a_server_that_is_not_there_is_named_without_what_its_url_hides(file, describe, monkeypatch):
    monkeypatch.setenv("samdpo_llm_model", "some-model")
    code, said = describe("--base_url", "http://me:password@127.0.0.1:9/v1")
    assert code == 2 and "http://127.0.0.1:9/v1 cannot be reached" in said and "password" not in said


def test_a_server_that_is_slow_is_not_waited_for(served):
    given_up = threading.Event()
    served.reply = lambda body: (given_up.wait(PATIENCE), says("Late."))[1]
    try:
        with pytest.raises(Exception, match="no answer in time"):
            LanguageModel(timeout=0.2, retries=0).ask("system", "question")
    finally:
        given_up.set()


def test_what_answers_something_else_is_not_an_endpoint(served):
    served.reply = lambda body: (200, {"status": "ok"})
    with pytest.raises(Exception, match="not answer as an OpenAI-compatible endpoint"):
        LanguageModel().ask("system", "question")


def test_what_is_not_set_is_said(file, describe, monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "samdpo_llm_model"):
        monkeypatch.delenv(name, raising=False)
    assert "export samdpo_llm_model=NAME" in describe()[1]
    assert "export OPENAI_API_KEY" in describe("--model", "gpt-4")[1]
    assert "--timeout is 0" in describe("--timeout", "0")[1]
    assert not file.exists()


def test_texts_are_one_plain_line_of_whole_sentences():
    assert short_text("**The liver**\n- is large.\n\n1. It is dark.") == "The liver is large. It is dark."
    assert short_text("<think>Hm.</think>\n\"It is round.\"") == "It is round."
    assert short_text("One two three. Four five six. Seven.", most=20) == "One two three."
