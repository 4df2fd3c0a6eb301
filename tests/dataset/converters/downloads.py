"""Tiny downloads in the exact layouts of the published ones, as folders, zips and tars."""

from __future__ import annotations

import json
import tarfile
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image

AFFINE = np.diag([-0.8, -0.8, 5.0, 1.0])


def picture(seed: int = 0, shape: tuple[int, int] = (24, 20)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def square(value: int = 255, shape: tuple[int, int] = (24, 20), at: int = 4) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    mask[at:at + 6, at:at + 6] = value
    return mask


def save(values: np.ndarray, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=2)


def rgba(grey: np.ndarray) -> np.ndarray:
    return np.dstack([rgb(grey), np.full_like(grey, 255)])


def scan(path: Path, seed: int = 0, channels: int = 0) -> Path:
    """A NIfTI image of 6 x 5 x 4 voxels; 4D where ``channels`` is given."""
    shape = (6, 5, 4, channels) if channels else (6, 5, 4)
    values = np.random.default_rng(seed).integers(-900, 900, shape).astype(np.int16)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values, AFFINE), path)
    return path


def segmentation(path: Path, values: tuple[int, ...] = (0, 1)) -> Path:
    drawn = np.resize(np.array(values, np.uint8), (6, 5, 4))
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(drawn, AFFINE), path)
    return path


def amos_download(folder: Path) -> Path:
    """Two CT and one MR for training, one CT each for validation and test; Mac's junk beside."""
    root = folder / "amos22"
    for part, numbers in {"Tr": (1, 4, 507), "Va": (8, 600)}.items():
        for number in numbers:
            scan(root / f"images{part}" / f"amos_{number:04d}.nii.gz", number)
            segmentation(root / f"labels{part}" / f"amos_{number:04d}.nii.gz", tuple(range(16)))
    scan(root / "imagesTs" / "amos_0002.nii.gz", 2)
    (root / "imagesTr" / "._amos_0001.nii.gz").write_bytes(b"junk")
    (folder / "__MACOSX" / "amos22" / "imagesTr").mkdir(parents=True)
    (folder / "__MACOSX" / "amos22" / "imagesTr" / "._amos_0001.nii.gz").write_bytes(b"junk")
    return root


def busi_download(folder: Path) -> Path:
    """Three benign (one with two masks), two malignant (one the twin of benign 1), one normal."""
    root = folder / "Dataset_BUSI_with_GT"
    for number in (1, 2, 3):
        save(rgb(picture(number)), root / "benign" / f"benign ({number}).png")
    save(square().astype(bool), root / "benign" / "benign (1)_mask.png")
    save(rgba(square()), root / "benign" / "benign (2)_mask.png")
    save(rgb(square()), root / "benign" / "benign (3)_mask.png")
    save(square(at=12), root / "benign" / "benign (3)_mask_1.png")
    save(rgb(picture(1)), root / "malignant" / "malignant (1).png")
    save(square(), root / "malignant" / "malignant (1)_mask.png")
    callipers = rgb(picture(5))
    callipers[0, :5] = (255, 255, 0)
    save(callipers, root / "malignant" / "malignant (2).png")
    save(square(), root / "malignant" / "malignant (2)_mask.png")
    save(rgb(picture(6)), root / "normal" / "normal (1).png")
    save(square(0), root / "normal" / "normal (1)_mask.png")
    return root


def udiat_download(folder: Path) -> Path:
    root = folder / "UDIAT"
    for number in (1, 2):
        save(picture(10 + number), root / "original" / f"{number:06d}.png")
        save(square(), root / "GT" / f"{number:06d}.png")
    return root


def covid_download(folder: Path) -> Path:
    """One image a part and class; the infection part, with the same folders, beside."""
    seed = 0
    for kind, inner in (("Lung Segmentation Data", ("lung masks",)), (
        "Infection Segmentation Data", ("lung masks", "infection masks"),
    )):
        root = folder / kind / kind
        for part in ("Train", "Val", "Test"):
            for group in ("COVID-19", "Non-COVID", "Normal"):
                seed += 1
                save(picture(seed), root / part / group / "images" / "image (1).png")
                for masks in inner:
                    save(square(), root / part / group / masks / "image (1).png")
    return folder / "Lung Segmentation Data" / "Lung Segmentation Data"


def msd_download(folder: Path, channels: int = 0) -> Path:
    root = folder / ("Task01_BrainTumour" if channels else "Task09_Spleen")
    for number in (2, 3):
        scan(root / "imagesTr" / f"case_{number}.nii.gz", number, channels)
        segmentation(root / "labelsTr" / f"case_{number}.nii.gz")
    scan(root / "imagesTs" / "case_1.nii.gz", 1, channels)
    (root / "imagesTr" / "._case_2.nii.gz").write_bytes(b"junk")
    names = ["FLAIR", "T1w"][:channels] if channels else ["CT"]
    (root / "dataset.json").write_text(json.dumps({
        "name": "Spleen", "description": "Tiny", "licence": "CC-BY-SA 4.0",
        "modality": {str(i): name for i, name in enumerate(names)},
        "labels": {"0": "background", "1": "edema" if channels else "spleen"},
        "numTraining": 2, "numTest": 1, "training": [], "test": [],
    }))
    return root


def acdc_download(folder: Path, patients: tuple[int, ...] = (1, 21, 28, 99), test: tuple[int, ...] = (101,)) -> Path:
    """The release: two annotated frames a patient, the whole cine beside, and its two parts."""
    root = folder / "ACDC" / "database"
    for part, numbers in (("training", patients), ("testing", test)):
        for number in numbers:
            name = f"patient{number:03d}"
            for frame in (1, 12):
                scan(root / part / name / f"{name}_frame{frame:02d}.nii.gz", number + frame)
                segmentation(root / part / name / f"{name}_frame{frame:02d}_gt.nii.gz", (0, 1, 2, 3))
            scan(root / part / name / f"{name}_4d.nii.gz", number, 3)
            (root / part / name / "Info.cfg").write_text("ED: 1\nES: 12\nGroup: DCM\n")
    return folder / "ACDC"


def btcv_download(folder: Path) -> Path:
    """RawData as Synapse gives it: two for training, one for testing."""
    root = folder / "Abdomen" / "RawData"
    for number in (1, 10):
        scan(root / "Training" / "img" / f"img{number:04d}.nii.gz", number)
        segmentation(root / "Training" / "label" / f"label{number:04d}.nii.gz", tuple(range(14)))
    scan(root / "Testing" / "img" / "img0061.nii.gz", 61)
    return folder / "Abdomen"


def chest_download(folder: Path, side: int = 8) -> Path:
    """Two X-rays of Montgomery, two of Shenzhen (one without mask), two of JSRT; lungs at both sides."""
    for number in (1, 2):
        name = f"MCUCXR_{number:04d}_0.png"
        save(picture(number).astype(np.uint16) * 16, folder / "MontgomerySet" / "CXR_png" / name)
        for kind, at in (("leftMask", 12), ("rightMask", 2)):
            save(square(at=at).astype(bool), folder / "MontgomerySet" / "ManualMask" / kind / name)
        save(rgb(picture(10 + number)), folder / "ChinaSet_AllFiles" / "CXR_png" / f"CHNCXR_{number:04d}_1.png")
    save(square(), folder / "mask" / "mask" / "CHNCXR_0001_1_mask.png")
    for fold, name in ((1, "JPCLN001"), (2, "JPCNN002")):
        raw = np.arange((2 * side) ** 2, dtype=">u2").reshape(2 * side, 2 * side)
        (folder / "All247images").mkdir(exist_ok=True)
        (folder / "All247images" / f"{name}.IMG").write_bytes(raw.tobytes())
        for lung, at in (("left lung", 2), ("right lung", 0), ("heart", 1)):
            mask = np.zeros((side, side), np.uint8)
            mask[at:at + 2, at:at + 2] = 255
            save(mask, folder / "scratch" / f"fold{fold}" / "masks" / lung / f"{name}.gif")
    return folder


def zipped(folder: Path, archive: Path) -> Path:
    """Everything below ``folder``, which must not hold the archive: it would swallow itself until the disk is full."""
    assert folder not in archive.parents
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(folder.rglob("*")):
            file.write(path, path.relative_to(folder).as_posix())
    return archive


def tarred(folder: Path, archive: Path, mode: str = "w") -> Path:
    assert folder not in archive.parents
    with tarfile.open(archive, mode) as file:
        for path in sorted(folder.iterdir()):
            file.add(path, f"./{path.name}")
    return archive


def files_of(folder: Path) -> list[str]:
    """Every file below a folder, hidden ones too."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
