"""Whether two versions of samdpo give the same bits: slices, prompts, weights and masks, on CPU.

    python benchmarks/same_masks.py -o before.json                     # with the one version installed
    python benchmarks/same_masks.py -o after.json --against before.json  # with the other: lists what differs
    python benchmarks/same_masks.py -o real.json --raw ../shared/data -d 101 102 103 --cases 8

Phantoms of three kinds (X-ray, ultrasound, CT-like volumes) go through the commands as a user types them: plan and
preprocess, ``finetune``, ``align``, ``unet``, ``mean_teacher``, prediction of unseen images with one fold, all in one
thread, with the small network ``tiny_sam`` and few steps. With ``--raw`` some cases of real datasets do, with the
backbone of the plan and one epoch. Nothing is compared that names the version or a time.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PHANTOMS = {
    "xray": ["--labelled", "10", "--unlabelled", "2", "--test", "2", "--size", "96", "112"],
    "ultrasound": ["--labelled", "10", "--unlabelled", "2", "--test", "2", "--size", "96", "112"],
    "ct": ["--labelled", "6", "--unlabelled", "1", "--test", "1", "--size", "12", "64", "64"],
}
NUMBERS = {"xray": 901, "ultrasound": 902, "ct": 903}
STAGES = ("finetune", "align", "unet", "mean_teacher")
SMALL = ["network.backbone=tiny_sam", "network.frozen_stages=0", "prompting.tower_steps=10",
         "prompting.cross_fit_folds=2", "epochs=2", "lr=3e-3", "batch_size=2"]
OF_STAGES = {"finetune": [*SMALL, "encoder_lr=3e-3"], "unet": ["epochs=2", "slices_per_epoch=8"]}  # others: SMALL
BINARY = (".safetensors", ".npz", ".b2nd", ".png", ".gz", ".tif")
FIGURES = ("progress.png", "places.png")
DESCRIBING = ("summary.json", "splits_final.json", "model.json")
SETTINGS = ("plans.json", "predict_from_raw_data_args.json")
NEVER_THE_SAME = {  # keys of JSON files
    "version", "samdpo", "seconds", "made_by", "date", "time", "host", "folder", "image_files", "label_file",
    "python", "torch", "trainer",
}


def main() -> None:
    """Run the commands, hash what they wrote, compare."""
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("-o", dest="output", type=Path, required=True, help="hashes, as JSON")
    command.add_argument("--against", type=Path, help="hashes of another version; ends with code 1 where bits differ")
    command.add_argument("--kinds", nargs="+", choices=tuple(PHANTOMS), default=list(PHANTOMS))
    command.add_argument("--stages", nargs="+", default=list(STAGES))
    command.add_argument("--raw", type=Path, help="folder of real raw datasets, instead of phantoms")
    command.add_argument("-d", dest="datasets", nargs="+", type=int, default=[101, 102, 103])
    command.add_argument("--cases", type=int, default=8, help="first cases of a real dataset that are used")
    command.add_argument("--keep", type=Path, help="folder in which everything stays")
    args = command.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = (args.keep or Path(temporary)).resolve()
        for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            os.environ[variable] = str(root / variable)
            (root / variable).mkdir(parents=True, exist_ok=True)
        os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        if args.raw:
            found = {k: v for n in args.datasets for k, v in real(root, args.raw, n, args.cases).items()}
        else:
            found = {k: v for kind in args.kinds for k, v in phantoms(root, kind, args.stages).items()}
    args.output.write_text(json.dumps(found, indent=1, sort_keys=True))
    print(f"{len(found)} hashes in {args.output}")
    if args.against:
        sys.exit(compare(found, json.loads(args.against.read_text())))


def compare(found: dict[str, str], before: dict[str, str]) -> int:
    """Print what differs; 1 where anything does."""
    both = found.keys() & before.keys()
    differ = sorted(name for name in both if found[name] != before[name])
    for name in differ:
        print("differs:", name)
    for name in sorted(before.keys() - found.keys()):
        print("is no longer written:", name)
    print(f"{len(both) - len(differ)} of {len(both)} files have the same content; {len(found.keys() - both)} are new")
    return int(bool(differ))


def phantoms(root: Path, kind: str, stages: list[str]) -> dict[str, str]:
    """Hashes of all that a phantom dataset becomes."""
    number = NUMBERS[kind]
    typed("make_phantoms", kind, "-d", number, "--seed", 1, *PHANTOMS[kind])
    typed("plan_and_preprocess", "-d", number, "--labelled", 0.4, "-np", 1)
    raw = next((root / "nnUNet_raw").glob(f"Dataset{number}_*"))
    for stage in stages:
        typed("train", number, stage, 0, "-np", 1, "--set", *OF_STAGES.get(stage, SMALL))
        typed("predict", "-i", raw / "imagesTs", "-o", root / "predicted" / kind / stage, "-d", number, "-c", stage,
              "-f", 0, "--save_probabilities")
    return hashes(root, raw.name) | hashes_of(root / "predicted" / kind, f"{kind}/predicted")


def real(root: Path, data: Path, number: int, cases: int) -> dict[str, str]:
    """Hashes of what the first cases of a real dataset become, the last of them predicted."""
    source = next(data.glob(f"Dataset{number}_*"))
    raw = root / "nnUNet_raw" / source.name
    content = json.loads((source / "dataset.json").read_text())
    ending = content["file_ending"]
    labels = sorted((source / "labelsTr").glob(f"*{ending}"))[: cases + 1]
    for folder in ("imagesTr", "labelsTr", "imagesTs"):
        (raw / folder).mkdir(parents=True, exist_ok=True)
    for label in labels[:-1]:
        shutil.copyfile(label, raw / "labelsTr" / label.name)
    for label in labels:
        for image in (source / "imagesTr").glob(f"{label.name[: -len(ending)]}_[0-9]*{ending}"):
            shutil.copyfile(image, raw / ("imagesTs" if label == labels[-1] else "imagesTr") / image.name)
    (raw / "dataset.json").write_text(json.dumps({**content, "numTraining": len(labels) - 1}))
    typed("plan_and_preprocess", "-d", number, "--labelled", 0.4, "-np", 1)
    for stage in ("finetune", "align"):
        typed("train", number, stage, 0, "-np", 1, "--set", "prompting.tower_steps=20", "prompting.cross_fit_folds=2",
              "epochs=1", "slices_per_epoch=4", "prompt_rounds=0", "network.input_size=256")
        typed("predict", "-i", raw / "imagesTs", "-o", root / "predicted" / source.name / stage, "-d", number,
              "-c", stage, "-f", 0)
    return hashes(root, source.name) | hashes_of(root / "predicted" / source.name, f"{source.name}/predicted")


def typed(command: str, *words: object) -> None:
    """A command as typed, in a process of its own."""
    program = f"import sys; from samdpo.cli.{command} import main; sys.exit(main())"
    said = subprocess.run([sys.executable, "-c", program, *map(str, words)], capture_output=True, text=True)
    if said.returncode:
        sys.exit(f"samdpo_{command} {' '.join(map(str, words))} ended with {said.returncode}:\n{said.stderr[-3000:]}")


def hashes(root: Path, dataset: str) -> dict[str, str]:
    """Of what stands in a dataset's preprocessed and results folders."""
    preprocessed, results = root / "nnUNet_preprocessed" / dataset, root / "nnUNet_results" / dataset
    return hashes_of(preprocessed, f"{dataset}/preprocessed") | hashes_of(results, f"{dataset}/results")


def hashes_of(folder: Path, name: str) -> dict[str, str]:
    """Content of slices, prompts, weights, masks and reports below a folder; not of logs, plans and what is a cache."""
    found = {}
    for file in sorted(f for f in folder.rglob("*") if f.is_file() and not f.name.startswith(".")):
        inner = f"{name}/{file.relative_to(folder).as_posix()}"
        if file.suffix in BINARY and file.name not in FIGURES:
            found[inner] = content_hash(file)
            continue
        described = file.name in DESCRIBING or ("predicted" in name and file.name not in SETTINGS)
        if file.suffix == ".json" and described:
            said = json.dumps(lasting(json.loads(file.read_text())), sort_keys=True)
            found[inner] = hashlib.sha256(said.encode()).hexdigest()
    return found


def content_hash(file: Path) -> str:
    """SHA-256 of a file; of the arrays in a ``.npz``, which holds the time at which it was written."""
    if file.suffix != ".npz":
        return hashlib.sha256(file.read_bytes()).hexdigest()
    import numpy as np

    digest = hashlib.sha256()
    with np.load(file, allow_pickle=False) as arrays:
        for key in sorted(arrays.files):
            digest.update(key.encode() + str(arrays[key].dtype).encode() + arrays[key].tobytes())
    return digest.hexdigest()


def lasting(content: Any) -> Any:
    """Without what says when and where."""
    if isinstance(content, dict):
        return {k: lasting(v) for k, v in content.items() if k not in NEVER_THE_SAME and not k.startswith("/")}
    if isinstance(content, list):
        return [lasting(of) for of in content]
    return "" if isinstance(content, str) and content.startswith("/") else content


if __name__ == "__main__":
    main()
