"""How time and memory grow with the number of cases: planning, preprocessing, and training up to its first step.

    python benchmarks/scale.py                                   # 1,000 and 2,000 pictures of 96 x 96
    python benchmarks/scale.py --cases 1000 5000 --volumes 6 12  # others, and CT-like volumes of 256 x 256 x 100

Every command runs in a process of its own. Memory is the largest resident set of any process of a command. Time to the
first step is that of ``samdpo_train`` from its start, with prompts made before, the small network ``tiny_sam`` and
towers fitted in few steps, since only what grows with the number of cases is of interest; it is extrapolated linearly.
Data are drawn anew and thrown away.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

NUMBER, NAME = 901, "Dataset901_Scale"
GOAL = 27_000  # cases to which the time to the first step is extrapolated
VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


def main() -> None:
    """Measure and print the table."""
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--cases", nargs=2, type=int, default=[1000, 2000], metavar="N", help="of pictures")
    command.add_argument("--size", type=int, default=96, help="side of a picture in pixels")
    command.add_argument("--volumes", nargs=2, type=int, default=None, metavar="N", help="two numbers of volumes")
    command.add_argument("--volume_size", nargs=3, type=int, default=[100, 256, 256], metavar=("Z", "Y", "X"))
    command.add_argument("--no_training", action="store_true", help="planning and preprocessing only")
    command.add_argument("-np", type=int, default=os.cpu_count(), help="processes")
    command.add_argument("--folder", type=Path, default=None, help="where to write; default: a temporary folder")
    command.add_argument("--step", choices=("prompts", "train"), help=argparse.SUPPRESS)
    args = command.parse_args()
    if args.step:
        {"prompts": make_prompts, "train": first_step}[args.step]()
        return
    print(f"{os.cpu_count()} cores, {args.np} processes, pictures of {args.size} x {args.size}")
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        report_cases("pictures", [
            measure(Path(folder) / str(n), n, (1, args.size, args.size), args.np, not args.no_training)
            for n in args.cases
        ])
    if args.volumes:
        print(f"volumes of {' x '.join(map(str, args.volume_size))}")
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            report_cases("volumes", [
                measure(Path(folder) / str(n), n, tuple(args.volume_size), args.np, False) for n in args.volumes
            ])


def measure(folder: Path, cases: int, shape: tuple[int, int, int], processes: int, training: bool) -> dict[str, float]:
    """Cost of the commands on a dataset of ``cases`` cases of ``shape`` (Z, Y, X)."""
    roots = {name: folder / name for name in VARIABLES}
    for root in roots.values():
        root.mkdir(parents=True)
    draw(roots["nnUNet_raw"] / NAME, cases, shape)
    environment = {**os.environ, **{name: str(root) for name, root in roots.items()}}
    program = "import sys; sys.argv[0] = 'samdpo'; from samdpo.cli.plan_and_preprocess import main; main()"
    planned = run([sys.executable, "-c", program, "-d", str(NUMBER), "-np", str(processes)], environment)
    found = {"cases": cases, **{f"planning_{key}": value for key, value in planned.items()}}
    if training:
        shrink_network(roots["nnUNet_preprocessed"] / NAME / "samdpoPlans.json")
        run([sys.executable, __file__, "--step", "prompts"], environment)
        found |= {f"training_{key}": value for key, value in
                  run([sys.executable, __file__, "--step", "train"], environment).items()}
    return found


def draw(folder: Path, cases: int, shape: tuple[int, int, int]) -> None:
    """Noise with a bright ellipse that the label shows, as PNG or, of several slices, as NIfTI in Hounsfield units."""
    from samdpo.dataset.images import write_label
    from samdpo.files import write_json

    volume = shape[0] > 1
    ending = ".nii.gz" if volume else ".png"
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    write_json(folder / "dataset.json", {
        "channel_names": {"0": "CT" if volume else "X-ray"}, "labels": {"background": 0, "organ": 1},
        "numTraining": cases, "file_ending": ending,
    })
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape[1:]), indexing="ij"))
    generator = np.random.default_rng(0)
    for number in range(cases):
        centre, radii = generator.uniform(-0.4, 0.4, 2), generator.uniform(0.2, 0.5, 2)
        inside = (((grid - centre[:, None, None]) / radii[:, None, None]) ** 2).sum(0) < 1
        label = np.broadcast_to(inside, shape).astype(np.uint8)
        noise = generator.integers(0, 60, shape, dtype=np.int16)
        image = noise - 60 + 120 * label.astype(np.int16) if volume else (noise + 120 * label).astype(np.uint8)
        write(image, folder / "imagesTr" / f"case_{number:05d}_0000{ending}")
        if volume:
            write(label, folder / "labelsTr" / f"case_{number:05d}{ending}")
        else:
            write_label(label.astype(np.int16), folder / "labelsTr" / f"case_{number:05d}{ending}", {})


def write(array: np.ndarray, file: Path) -> None:
    """(Z, Y, X) as a picture or a volume of 1 x 1 x 3 mm."""
    import SimpleITK

    image = SimpleITK.GetImageFromArray(array if array.shape[0] > 1 else array[0])
    if array.shape[0] > 1:
        image.SetSpacing((1.0, 1.0, 3.0))
    SimpleITK.WriteImage(image, str(file), useCompression=True, compressionLevel=1)


def shrink_network(file: Path) -> None:
    """The smallest network and a short fit: neither depends on the number of cases."""
    from samdpo.files import read_json, write_json

    plan = read_json(file)
    plan["network"] |= {"backbone": "tiny_sam", "frozen_stages": 0}
    plan["prompting"] |= {"tower_steps": 5, "cross_fit_folds": 2, "answers": "none"}
    plan["prompting"]["crf"] = {**plan["prompting"].get("crf", {}), "enabled": False}
    write_json(file, plan)


def run(command: list[str], environment: dict[str, str]) -> dict[str, float]:
    """Wall and CPU seconds of a command, and the largest resident set of its processes in MiB."""
    program = (
        "import json, resource, subprocess, sys, time\n"
        "start = time.perf_counter()\n"
        "done = subprocess.run(sys.argv[1:], capture_output=True, text=True)\n"
        "if done.returncode: sys.exit(done.stderr[-3000:])\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(json.dumps({'seconds': time.perf_counter() - start, 'cpu': used.ru_utime + used.ru_stime,\n"
        "                  'mib': used.ru_maxrss / 1024, 'said': done.stdout.splitlines()[-1:]}))\n"
    )
    environment = {**environment, "scale_began": str(time.time())}
    done = subprocess.run([sys.executable, "-c", program, *command], env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    found = json.loads(done.stdout.splitlines()[-1])
    said = found.pop("said")
    return {**found, **(json.loads(said[0]) if said and said[0].startswith("{") else {})}


def make_prompts() -> None:
    """As ``samdpo_prompt 901 0``."""
    from samdpo.paths import preprocessed_folder
    from samdpo.plans import load_plans
    from samdpo.prompting import making

    plans = load_plans(preprocessed_folder(NAME) / "samdpoPlans.json")
    making.make_prompts(plans, 0, "cpu")


def first_step() -> None:
    """As ``samdpo_train 901 finetune 0``, ended by its first step; prints the seconds since the process began."""
    from samdpo.training.finetune import FinetuneTrainer
    from samdpo.training.get_trainer import get_trainer

    def stop(self: FinetuneTrainer, batch: object) -> None:
        done = FinetuneTrainer.train_step_of_all(self, batch)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        seconds = time.time() - float(os.environ["scale_began"])
        print(json.dumps({"to_first_step": seconds, "step_mib": memory, "loss": float(done["loss"])}))
        sys.stdout.flush()
        os._exit(0)

    FinetuneTrainer.train_step_of_all, FinetuneTrainer.train_step = FinetuneTrainer.train_step, stop
    get_trainer(NUMBER, "finetune", 0, device="cpu").train()


def report_cases(kind: str, found: list[dict[str, float]]) -> None:
    """The table, and how much a thousand more cases cost."""
    small, large = found
    thousands = (large["cases"] - small["cases"]) / 1000
    print(f"{'':<44}{small['cases']:>10,.0f}{large['cases']:>10,.0f}{'per 1,000 more':>16}")
    rows = [("plan and preprocess, wall seconds", "planning_seconds"),
            ("plan and preprocess, CPU seconds", "planning_cpu"),
            ("plan and preprocess, largest process, MiB", "planning_mib"),
            ("train: to the first step, seconds", "training_to_first_step"),
            ("train: memory at the first step, MiB", "training_step_mib")]
    for title, key in rows:
        if key in small:
            slope = (large[key] - small[key]) / thousands
            print(f"{title:<44}{small[key]:>10.1f}{large[key]:>10.1f}{slope:>16.2f}")
    if "training_to_first_step" in small:
        slope = (large["training_to_first_step"] - small["training_to_first_step"]) / thousands
        print(f"{'to the first step with 27,000, extrapolated':<44}"
              f"{large['training_to_first_step'] + slope * (GOAL - large['cases']) / 1000:>10.1f}")


if __name__ == "__main__":
    main()
