from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

from samdpo.drawing import (
    STRUCTURE_COLOURS,
    fullest_slice,
    save_overlay,
    to_display,
)
from samdpo.errors import DatasetError
from samdpo.evaluation.figures import DemoRow, demo_figure
from samdpo.evaluation.overlay_folder import plot_overlays
from samdpo.training.progress import progress_figure


def disc(row: float, column: float, radius: float = 15, size: int = 64) -> np.ndarray:
    axis = np.arange(size)
    return (axis[:, None] - row) ** 2 + (axis[None] - column) ** 2 < radius**2


def demo_row(image: np.ndarray, boxes: np.ndarray, points: np.ndarray) -> DemoRow:
    saliency = np.random.default_rng(0).normal(size=(16, 16))
    return DemoRow("case", image, saliency, disc(30, 30), boxes, points, disc(31, 30), disc(30, 31), disc(30, 30))


def test_the_demo_figure_has_one_row_a_case_and_takes_grey_and_colour_images(tmp_path):
    grey = np.random.default_rng(0).normal(size=(64, 64))
    box, points = np.array([[15.0, 15, 45, 45]]), np.array([[30.0, 30], [25, 35]])
    rows = [demo_row(grey, box, points), demo_row(np.stack([grey] * 3), np.zeros((0, 4)), np.zeros((0, 2)))]
    demo_figure(rows[:1], tmp_path / "one.png")
    demo_figure(rows, tmp_path / "two.png")
    one, two = iio.imread(tmp_path / "one.png"), iio.imread(tmp_path / "two.png")
    assert two.shape[1] == one.shape[1] and two.shape[0] > one.shape[0] + 200


def test_a_case_in_which_nothing_was_found_is_drawn_too(tmp_path):
    empty = np.zeros((64, 64), bool)
    row = DemoRow("empty", np.zeros((64, 64)), np.zeros((8, 8)), empty, np.zeros((0, 4)), np.zeros((0, 2)),
                  empty, empty, empty)
    demo_figure([row], tmp_path / "empty.png")
    assert (tmp_path / "empty.png").is_file()


@pytest.mark.parametrize(
    "history",
    [
        {"loss": [1.0], "lr": [1e-4], "epoch_seconds": [2.0]},
        {"loss": [1.0, float("nan")], "rewards/margins": [0.1], "rewards/accuracies": [0.5], "val_dice": [0.5, 0.6]},
        {"train_losses": [1.0] * 40, "val_losses": [1.1] * 40, "mean_fg_dice": [0.5] * 40, "lrs": [1e-3] * 40,
         "epoch_start_timestamps": list(range(40)), "epoch_end_timestamps": list(range(1, 41))},
        {"train_dice": [float("nan")], "epoch_seconds": [1.0]},
    ],
)
def test_the_progress_figure_draws_what_was_logged(tmp_path, history):
    progress_figure(history, tmp_path / "progress.png")
    assert iio.imread(tmp_path / "progress.png").shape[0] > 300


def test_a_history_without_anything_to_draw_writes_nothing(tmp_path):
    progress_figure({"loss": []}, tmp_path / "progress.png")
    assert not list(tmp_path.iterdir())


def test_an_overlay_is_as_wide_as_its_image_and_shows_the_structures_colour(tmp_path):
    image = np.zeros((64, 64))
    labels = disc(30, 30).astype(int)
    save_overlay(tmp_path / "overlay.png", image, labels, {"lung": 1}, truth=disc(32, 30).astype(int),
                 boxes=np.array([[10, 10, 50, 50]]), points=np.array([[30, 30]]), fill=1.0, title="case")
    drawn = iio.imread(tmp_path / "overlay.png")[..., :3]
    assert drawn.shape[:2] == (990, 900)
    colour = [int(STRUCTURE_COLOURS[0][i : i + 2], 16) for i in (1, 3, 5)]
    assert (np.abs(drawn.astype(int) - colour).max(-1) <= 2).mean() > 0.08


def test_an_overlay_without_any_structure_says_so_and_is_drawn(tmp_path):
    save_overlay(tmp_path / "none.png", np.ones((20, 90)), np.zeros((20, 90), int), {"lung": 1})
    assert (tmp_path / "none.png").is_file()


def test_images_of_any_layout_and_range_become_rgb_between_0_and_1():
    image = np.random.default_rng(0).normal(500, 100, (30, 40))
    for layout in (image, image[None], np.stack([image] * 3), np.stack([image] * 3, -1), np.full((30, 40), 7)):
        shown = to_display(layout)
        assert shown.shape == (30, 40, 3) and shown.min() >= 0 and shown.max() <= 1


def test_the_fullest_slice_has_the_most_foreground():
    labels = np.zeros((5, 10, 10), int)
    assert fullest_slice(labels) == 2
    labels[3, :5] = 2
    labels[1, :2] = 1
    assert fullest_slice(labels) == 3


def test_figures_leave_pyplot_alone():
    code = (
        "import sys, numpy as np; from samdpo.drawing import new_figure, draw_image;"
        "draw_image(new_figure(1, 1).add_axes((0, 0, 1, 1)), np.zeros((4, 4)));"
        "assert 'matplotlib.pyplot' not in sys.modules and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A raw dataset of two 2D cases."""
    folder = tmp_path / "Dataset007_Two"
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    for case in ("a", "b"):
        iio.imwrite(folder / "imagesTr" / f"{case}_0000.png", (disc(30, 30) * 200).astype(np.uint8))
        iio.imwrite(folder / "labelsTr" / f"{case}.png", disc(30, 30).astype(np.uint8))
    (folder / "dataset.json").write_text(
        '{"channel_names": {"0": "X-ray"}, "labels": {"background": 0, "lung": 1}, "numTraining": 2, '
        '"file_ending": ".png"}'
    )
    return folder


def test_every_labelled_case_of_a_dataset_is_drawn(raw, tmp_path):
    assert [p.name for p in plot_overlays(raw, tmp_path / "out")] == ["a.png", "b.png"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.png", "b.png"]


def test_predictions_are_drawn_where_there_are_some(raw, tmp_path):
    predictions = tmp_path / "predictions"
    predictions.mkdir()
    with pytest.raises(DatasetError, match="no label map"):
        plot_overlays(raw, tmp_path / "out", predictions=predictions)
    iio.imwrite(predictions / "b.png", disc(33, 30).astype(np.uint8))
    written = plot_overlays(raw, tmp_path / "out", predictions=predictions, images=raw / "imagesTr")
    assert [p.name for p in written] == ["b.png"]


def test_a_channel_that_there_is_not_and_a_label_of_another_size_get_a_sentence(raw, tmp_path):
    with pytest.raises(DatasetError, match="-channel_idx 1"):
        plot_overlays(raw, tmp_path / "out", channel=1)
    iio.imwrite(raw / "labelsTr" / "a.png", np.ones((8, 8), np.uint8))
    with pytest.raises(DatasetError, match=r"a\.png has the size 8 x 8, but its image .* has 64 x 64"):
        plot_overlays(raw, tmp_path / "out")


@pytest.mark.parametrize("name", ["evaluate_folder", "plot_overlay_pngs"])
def test_help_imports_nothing_heavy(name):
    code = (
        f"import sys; from samdpo.cli.{name} import build_parser; build_parser().format_help();"
        "assert not {'torch', 'numpy', 'matplotlib', 'nnunetv2'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_overlay_command_draws_and_says_what_it_wrote(raw, tmp_path, monkeypatch, capsys):
    from samdpo.cli import plot_overlay_pngs

    monkeypatch.setenv("nnUNet_raw", str(raw.parent))
    arguments = ["-d", "7", "-o", str(tmp_path / "out"), "-np", "1", "-overlay_intensity", "0.5"]
    monkeypatch.setattr("sys.argv", ["samdpo_plot_overlay_pngs", *arguments])
    plot_overlay_pngs.main()
    assert "2 PNGs" in capsys.readouterr().out
