"""Case-level work on a Dask cluster: as with processes here, and nothing is lost with a worker or the scheduler."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from case_work import begun, deadly_five, killed_once, refuse_three, square

import samdpo
from samdpo.errors import ConfigurationError, DatasetError
from samdpo.files import read_json
from samdpo.parallel import map_cases

distributed = pytest.importorskip("distributed")
import dask  # noqa: E402

from samdpo import dask_cluster  # noqa: E402
from samdpo.dask_cluster import DaskCluster, identity  # noqa: E402

HERE = Path(__file__).parent


def process_of(_: int) -> int:
    time.sleep(0.05)
    return os.getpid()


def slow(n: int) -> int:
    time.sleep(0.3)
    return n


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory):
    """Two worker processes with a nanny each, which starts another one where one is killed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("dask"))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")]))
        with dask.config.set({"distributed.scheduler.allowed-failures": 1}), distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
        ) as made:
            yield made


@pytest.fixture
def workers(cluster):
    with DaskCluster(cluster.scheduler_address) as made:
        yield made


def test_results_come_in_the_order_of_the_items_from_both_workers(workers) -> None:
    assert list(map_cases(square, range(50), workers, "Squares")) == [n * n for n in range(50)]
    processes = set(map_cases(process_of, range(20), workers, "Processes", per_process=1))
    assert len(processes) == 2 and os.getpid() not in processes


def test_a_sentence_from_a_worker_arrives_as_it_is(workers) -> None:
    with pytest.raises(DatasetError, match="case 3 is damaged"):
        list(map_cases(refuse_three, range(20), workers, "Checks"))


def test_only_a_few_items_are_under_way_however_many_there_are(workers, tmp_path) -> None:
    work = map_cases(partial(begun, tmp_path), range(1000), workers, "Begun", per_process=1)
    assert next(work) == 0
    time.sleep(1)  # nobody asks for more
    assert len(list(tmp_path.iterdir())) <= 6
    work.close()


def test_a_killed_worker_costs_its_case_only(workers, tmp_path) -> None:
    assert list(map_cases(partial(killed_once, tmp_path), range(24), workers, "Work", 1)) == list(range(24))
    again = {file.name for file in tmp_path.iterdir() if not file.name.endswith("_0")}
    assert "5_1" in again and len(again) <= 4, "only what was with that worker is done again"


def test_a_case_that_kills_each_worker_is_named(workers, tmp_path) -> None:
    with pytest.raises(ConfigurationError, match=r"worked on 5 was killed.*memory ran out"):
        list(map_cases(partial(deadly_five, tmp_path), range(24), workers, "Work"))
    assert {str(n) for n in range(5)} <= {file.name for file in tmp_path.iterdir()}


def test_another_version_or_another_folder_of_a_worker_is_told_before_work(cluster, monkeypatch) -> None:
    monkeypatch.setattr(samdpo, "__version__", "9.9")
    with pytest.raises(ConfigurationError, match=r"worker tcp://.* has samdpo .*, this machine 9\.9"):
        DaskCluster(cluster.scheduler_address)
    monkeypatch.undo()
    monkeypatch.setenv("nnUNet_raw", "/somewhere/else")
    with pytest.raises(ConfigurationError, match=r"has nnUNet_raw=\(not set\), this machine /somewhere/else"):
        DaskCluster(cluster.scheduler_address)


def test_a_worker_that_comes_later_is_checked_too(workers, monkeypatch) -> None:
    monkeypatch.setattr(dask_cluster, "identity", lambda: {**identity(), "version": "9.9"})
    with pytest.raises(ConfigurationError, match="this machine 9.9"):
        list(map_cases(square, range(4), workers, "Squares"))


def test_a_wrong_address_and_a_missing_scheduler_file_are_sentences(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(dask_cluster, "_TO_ANSWER", 1.0)
    with pytest.raises(ConfigurationError, match="No Dask scheduler answers at 'tcp://127.0.0.1:9'"):
        DaskCluster("tcp://127.0.0.1:9")
    with pytest.raises(ConfigurationError, match="no scheduler file"):
        DaskCluster(str(tmp_path / "scheduler.json"))


def test_without_dask_the_sentence_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ConfigurationError, match=r'pip install "samdpo\[dask\]"'):
        DaskCluster("tcp://nowhere:1")


def test_a_cluster_without_workers_is_a_sentence(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(dask_cluster, "_TO_ANSWER", 3.0)
    with started_scheduler(tmp_path) as (file, _), pytest.raises(ConfigurationError, match="has no workers"):
        DaskCluster(str(file))


@contextmanager
def running(program: str, *paths: Path) -> Iterator[subprocess.Popen]:
    """A Python program in a process of its own, which Ctrl-C ends even where the tests run in the background."""
    program = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n{program}"
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [*paths, HERE, HERE.parent]))},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextmanager
def started_scheduler(folder: Path) -> Iterator[tuple[Path, subprocess.Popen]]:
    """A scheduler file and the process of its scheduler."""
    file = folder / "scheduler.json"
    program = (
        "import asyncio\nfrom distributed import Scheduler\n"
        "async def main():\n"
        f"    file = {str(file)!r}\n"
        "    async with Scheduler(host='127.0.0.1', port=0, dashboard=False, scheduler_file=file) as scheduler:\n"
        "        await scheduler.finished()\n"
        "asyncio.run(main())\n"
    )
    with running(program) as process:
        until = time.monotonic() + 60
        while not file.is_file() and time.monotonic() < until:
            time.sleep(0.05)
        yield file, process


WORKER = """
import asyncio
from distributed import Worker
async def main():
    async with Worker({address!r}, nthreads=1, dashboard=False) as worker:
        await worker.finished()
if __name__ == "__main__":
    asyncio.run(main())
"""


def test_a_scheduler_that_goes_away_is_a_sentence(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with (
        started_scheduler(tmp_path) as (file, process),
        running(WORKER.format(address=read_json(file)["address"])),
        DaskCluster(str(file)) as workers,
    ):
        work = map_cases(slow, range(200), workers, "Slow", per_process=1)
        assert next(work) == 0
        process.kill()
        with pytest.raises(ConfigurationError, match="is gone. What was finished is kept"):
            list(work)


COMMAND = """
from test_dask_cases import slow
from samdpo.cli.common import run_command
from samdpo.dask_cluster import DaskCluster
from samdpo.parallel import map_cases
def body():
    with DaskCluster({address!r}) as workers:
        for number in map_cases(slow, range(200), workers, "Slow", 1):
            print(number, flush=True)
run_command(body)
"""


def test_ctrl_c_ends_with_one_sentence_and_the_workers_are_free_again(cluster, tmp_path) -> None:
    with running(COMMAND.format(address=cluster.scheduler_address)) as process:
        assert [process.stdout.readline().strip() for _ in range(2)] == ["0", "1"]
        os.killpg(process.pid, signal.SIGINT)
        output, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.strip().splitlines()[-1].startswith("Error: Stopped by Ctrl-C") and "Traceback" not in said
    assert len(output.splitlines()) < 100, "it did not go on to the end"
    with DaskCluster(cluster.scheduler_address) as workers:
        started = time.monotonic()
        assert list(map_cases(square, range(4), workers, "Squares", 1)) == [0, 1, 4, 9]
        assert time.monotonic() - started < 25, "nobody waits for the rest of the 200, which are 30 s of both workers"


@contextmanager
def stopped_by_ctrl_c() -> Iterator[None]:
    """This process is, also where the tests run in the background, whose Ctrl-C is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def test_what_outlives_the_cluster_was_let_go_before(cluster, monkeypatch) -> None:
    """A future that goes after its client raises in the client's loop, which prints a traceback."""
    left, leave = [], dask_cluster.leave

    def leaving(client) -> None:
        until = time.monotonic() + 10
        while any(client.refcount.values()) and time.monotonic() < until:
            time.sleep(0.01)
        left.append(dict(client.refcount))
        leave(client)

    monkeypatch.setattr(dask_cluster, "leave", leaving)
    with DaskCluster(cluster.scheduler_address) as workers:
        held = [workers._submit(square, [number], "Squares") for number in range(3)]  # as in the frames of a traceback
        assert held[2].result() == [4]
    assert len(left) == 1 and not any(left[0].values())


def test_ctrl_c_while_work_is_handed_over_leaves_no_half_made_future(cluster, monkeypatch) -> None:
    made = []
    with DaskCluster(cluster.scheduler_address) as workers:
        submit = workers.client.submit

        def interrupted(*arguments, **options):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0)  # where Python would raise it
            made.append(submit(*arguments, **options))
            return made[-1]

        monkeypatch.setattr(workers.client, "submit", interrupted)
        with stopped_by_ctrl_c(), pytest.raises(KeyboardInterrupt):
            list(map_cases(square, range(4), workers, "Squares", 1))
        assert [future.result() for future in made] == [[0]], "one was handed over whole, and no other begun"
        monkeypatch.undo()
        assert list(map_cases(square, range(4), workers, "Squares", 1)) == [0, 1, 4, 9]


def test_the_commands_give_on_a_cluster_what_they_give_here(cluster, finetuned, tmp_path, monkeypatch) -> None:
    """Slices, prompts, masks and measures of the four commands, by workers that share the folders."""
    import shutil

    import numpy as np
    from trained_models import NUMBER

    from samdpo.dataset.images import read_label
    from samdpo.evaluation.summary import evaluate_folder
    from samdpo.inference.predict_folder import predict_folder
    from samdpo.planning.plan_and_preprocess import extract, preprocess_planned
    from samdpo.plans import load_plans
    from samdpo.prompting.making import make_prompts

    variables = finetuned.environment()

    def told(dask_worker=None) -> None:
        os.environ.update(variables)

    plans = load_plans(finetuned.preprocessed / "samdpoPlans.json")
    slices = preprocess_planned(NUMBER)
    before = {case: slices.image(case, 0) for case in slices.cases()}
    fingerprint = extract(NUMBER, clean=True)
    prompts = make_prompts(plans, 0, "cpu")
    of_case = {case: prompts.get(case, 0) for case in prompts.cases()}
    with distributed.Client(cluster.scheduler_address, set_as_default=False) as client:
        client.run(told)
    with DaskCluster(cluster.scheduler_address) as workers:
        assert extract(NUMBER, workers, clean=True) == fingerprint
        again = preprocess_planned(NUMBER, processes=workers, clean=True)
        assert again.cases() == list(before)
        assert all(np.array_equal(again.image(case, 0), image) for case, image in before.items())
        shutil.rmtree(prompts.folder)
        made = make_prompts(plans, 0, "cpu", workers)
        assert made.cases() == list(of_case)
        for case, expected in of_case.items():
            for one, other in zip(made.get(case, 0), expected, strict=True):
                assert np.allclose(one.boxes, other.boxes) and one.present == other.present
                assert np.allclose(one.saliency, other.saliency, atol=1e-2)
        assert {f.name for f in made.folder.iterdir() if f.is_dir()} == {"prompter"}, "no prompter is left behind"
        images = finetuned.raw / "imagesTs"
        here = predict_folder(images, tmp_path / "here", finetuned.finetuned, device="cpu")
        there = predict_folder(images, tmp_path / "there", finetuned.finetuned, device="cpu", executor=workers)
        assert [mask.name for mask in here] == [mask.name for mask in there]
        assert all(np.mean(read_label(a) != read_label(b)) < 1e-3 for a, b in zip(here, there))
        measured = [
            evaluate_folder(finetuned.raw / "labelsTs", tmp_path / "there", finetuned.raw / "dataset.json",
                            tmp_path / "summary.json", processes)
            for processes in (1, workers)
        ]
        assert repr(measured[0]) == repr(measured[1])
