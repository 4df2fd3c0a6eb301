"""Memory and time of predicting one large CT, beyond what the model itself takes.

    python benchmarks/volume_memory.py [--slices 600] [--side 512] [--backbone tiny_sam]

Trains a model for one epoch on CT-like phantoms, writes a phantom of the wanted size as NIfTI, and predicts it in a
fresh process as ``samdpo_predict`` would. ``tiny_sam`` is quick and its masks mean nothing; the memory beyond the model
is the same for every backbone, but for the activations of four slices.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

GIB = 1024**3
NAME = "Dataset990_PhantomCT"


def main() -> None:
    """Prepare, then measure in a fresh process."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--slices", type=int, default=600)
    arguments.add_argument("--side", type=int, default=512)
    arguments.add_argument("--backbone", default="tiny_sam")
    arguments.add_argument("--measure", nargs=2, type=Path, help=argparse.SUPPRESS)
    args = arguments.parse_args()
    if args.measure:
        measure(*args.measure)
        return
    with tempfile.TemporaryDirectory() as folder:
        for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            (Path(folder) / variable).mkdir()
            os.environ[variable] = str(Path(folder) / variable)
        model = train(args.backbone)
        image = draw(Path(folder), args.slices, args.side)
        print(f"{args.slices} slices of {args.side} x {args.side}, {args.backbone}", flush=True)
        subprocess.run([sys.executable, __file__, "--measure", str(model), str(image)], check=True)


def train(backbone: str) -> Path:
    """A model folder, trained for an epoch."""
    from samdpo.dataset.phantoms import make_phantom_dataset
    from samdpo.planning.plan_and_preprocess import plan_and_preprocess
    from samdpo.training.get_trainer import get_trainer

    make_phantom_dataset("ct", Path(os.environ["nnUNet_raw"]) / NAME, 5, 0, 0, 0, (12, 64, 64))
    plan_and_preprocess(NAME)
    overrides = ["epochs=1", f"network.backbone={backbone}", "network.frozen_stages=0", "prompting.tower_steps=20"]
    trainer = get_trainer(NAME, "finetune", 0, overrides=overrides, device="cpu")
    trainer.initialize()
    trainer.run_training()
    return trainer.folder


def draw(folder: Path, slices: int, side: int) -> Path:
    """A phantom, repeated along z and enlarged in its plane, as int16 NIfTI."""
    import numpy as np
    import SimpleITK as sitk  # noqa: N813 (its own name for itself)

    case = next((Path(os.environ["nnUNet_raw"]) / NAME / "imagesTr").glob("*.nii.gz"))
    small = sitk.GetArrayFromImage(sitk.ReadImage(str(case)))
    factor = -(-side // small.shape[1])
    plane = np.kron(small, np.ones((1, factor, factor), small.dtype))[:, :side, :side]
    image = sitk.GetImageFromArray(np.resize(plane, (slices, side, side)).astype(np.int16))
    image.SetSpacing((0.8, 0.8, 1.0))
    path = folder / "large_0000.nii.gz"
    sitk.WriteImage(image, str(path))
    return path


def measure(model: Path, image: Path) -> None:
    """Load the model, predict something small, then the large volume; print seconds and peak memory."""
    import numpy as np

    from samdpo.model.export import write_prediction
    from samdpo.model.predictor import Predictor

    predictor = Predictor.from_model_folder(model, device="cpu")
    predictor.set_image(np.zeros((1, 4, 64, 64), np.float32))
    predictor.predict()  # loads every library and network
    before, started = resident(), time.perf_counter()
    predictor.set_image(image)
    prediction = predictor.predict(keep_probabilities=False)
    write_prediction(prediction, image.parent / "predicted", "large", predictor.plans)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    found = sum(structure["pixels"] > 0 for structure in prediction.report["structures"].values())
    print(f"{time.perf_counter() - started:.0f} s; {found} of {len(prediction.report['structures'])} structures found")
    print(f"resident: {before / GIB:.2f} GiB with the model, {peak / GIB:.2f} GiB at the peak, "
          f"{(peak - before) / GIB:.2f} GiB beyond the model")


def resident() -> int:
    """Bytes of memory that this process has now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
