from __future__ import annotations

import math

import numpy as np
import pytest

from samdpo.evaluation.metrics import METRICS, evaluate_case

PICTURE = (999.0, 1.0, 1.0)


def square(row: int, column: int, side: int, shape=(1, 40, 48), label: int = 1) -> np.ndarray:
    labels = np.zeros(shape, np.int16)
    labels[:, row : row + side, column : column + side] = label
    return labels


def test_counts_dice_and_iou_are_those_of_the_confusion_table():
    metrics = evaluate_case(square(10, 10, 10), square(10, 15, 10), {"a": 1}, PICTURE)[1]
    assert tuple(sorted(metrics)) == tuple(sorted(METRICS))
    assert (metrics["TP"], metrics["FP"], metrics["FN"], metrics["TN"]) == (50, 50, 50, 40 * 48 - 150)
    assert (metrics["n_pred"], metrics["n_ref"]) == (100, 100)
    assert metrics["Dice"] == pytest.approx(0.5) and metrics["IoU"] == pytest.approx(1 / 3)


def test_equal_masks_have_full_scores_and_no_distance():
    metrics = evaluate_case(square(5, 5, 12), square(5, 5, 12), {"a": 1}, PICTURE)[1]
    assert metrics["Dice"] == metrics["IoU"] == metrics["SurfaceDice"] == 1.0
    assert metrics["HD95"] == metrics["ASD"] == metrics["ASSD"] == 0.0


def test_a_structure_in_neither_map_has_no_score_and_one_predicted_for_nothing_has_zero():
    empty = np.zeros((1, 40, 48), np.int16)
    both = evaluate_case(empty, empty, {"a": 1}, PICTURE)[1]
    assert all(math.isnan(both[m]) for m in ("Dice", "IoU", "SurfaceDice", "HD95", "ASD", "ASSD"))
    for pred, ref in ((square(5, 5, 5), empty), (empty, square(5, 5, 5))):
        one = evaluate_case(pred, ref, {"a": 1}, PICTURE)[1]
        assert one["Dice"] == one["IoU"] == one["SurfaceDice"] == 0.0
        assert all(math.isnan(one[m]) for m in ("HD95", "ASD", "ASSD"))
        in_voxels = evaluate_case(pred, ref, {"a": 1}, PICTURE, voxels=True)[1]
        assert in_voxels["SurfaceDice"] == 0.0
        assert all(math.isnan(in_voxels[m]) for m in ("HD95", "ASD", "ASSD"))


def test_a_picture_is_measured_in_pixels_as_an_image_and_not_as_a_slice_999_mm_thick():
    metrics = evaluate_case(square(10, 13, 10), square(10, 10, 10), {"a": 1}, PICTURE)[1]
    assert metrics["HD95"] == pytest.approx(3.0, abs=0.1)
    assert 0.3 < metrics["SurfaceDice"] < 0.9  # of four sides the two that moved by 3 px are beyond 2 px
    nearer = evaluate_case(square(10, 12, 10), square(10, 10, 10), {"a": 1}, PICTURE)[1]
    assert nearer["SurfaceDice"] == pytest.approx(1.0)
    assert nearer["HD95"] == pytest.approx(2.0, abs=0.1)


def test_a_volume_is_measured_in_mm_with_a_tolerance_of_1_mm():
    shape = (12, 40, 48)
    pred, ref = square(10, 12, 10, shape), square(10, 10, 10, shape)
    pred[:2] = ref[:2] = pred[-2:] = ref[-2:] = 0
    fine = evaluate_case(pred, ref, {"a": 1}, (2.0, 0.5, 0.5))[1]
    coarse = evaluate_case(pred, ref, {"a": 1}, (2.0, 2.0, 2.0))[1]
    assert fine["SurfaceDice"] == pytest.approx(1.0) and coarse["SurfaceDice"] < 0.9
    assert fine["HD95"] == pytest.approx(1.0, abs=0.1) and coarse["HD95"] == pytest.approx(4.0, abs=0.1)


def test_a_single_slice_with_a_physical_size_is_measured_in_mm_within_its_plane():
    metrics = evaluate_case(square(10, 13, 10), square(10, 10, 10), {"a": 1}, (5.0, 0.3, 0.3))[1]
    assert metrics["HD95"] == pytest.approx(0.9, abs=0.05)
    assert metrics["SurfaceDice"] == pytest.approx(1.0)


def test_the_tolerance_can_be_set():
    moved = evaluate_case(square(10, 13, 10), square(10, 10, 10), {"a": 1}, PICTURE, tolerance=3)[1]
    assert moved["SurfaceDice"] == pytest.approx(1.0)


def test_structures_are_measured_apart_and_labels_not_asked_for_are_left_out():
    ref = square(2, 2, 8) + square(20, 20, 8, label=2) + square(20, 35, 5, label=3)
    pred = square(2, 2, 8) + square(20, 24, 8, label=2)
    metrics = evaluate_case(pred, ref, {"a": 1, "b": 2}, PICTURE)
    assert list(metrics) == [1, 2]
    assert metrics[1]["Dice"] == 1.0 and metrics[2]["Dice"] == pytest.approx(0.5)


def test_pixels_of_the_ignore_label_count_nowhere():
    ref, pred = square(10, 10, 10), square(10, 10, 10)
    ref[:, 30:] = 9
    pred[:, 30:] = 1
    metrics = evaluate_case(pred, ref, {"a": 1}, PICTURE, ignore_label=9)[1]
    assert metrics["Dice"] == 1.0 and metrics["FP"] == 0
    assert metrics["TN"] == 30 * 48 - 100


def test_slices_with_a_structure_too_many_or_too_few_are_counted():
    shape = (6, 40, 48)
    pred, ref = square(10, 10, 10, shape), square(10, 30, 10, shape)
    pred[4:], ref[:1] = 0, 0
    metrics = evaluate_case(pred, ref, {"a": 1, "b": 2}, (2.0, 1.0, 1.0))
    assert (metrics[1]["FPSlices"], metrics[1]["FNSlices"]) == (1, 2)  # found elsewhere on a slice is no absence
    assert (metrics[2]["FPSlices"], metrics[2]["FNSlices"]) == (0, 0)


def test_average_distances_are_zero_on_sides_that_did_not_move_and_have_a_direction():
    shape = (12, 40, 48)
    pred, ref = square(10, 10, 10, shape), square(10, 10, 20, shape)  # a corner of a larger box
    metrics = evaluate_case(pred, ref, {"a": 1}, (1.0, 1.0, 1.0))[1]
    assert 0 < metrics["ASD"] < metrics["ASSD"], "nothing of the prediction is as far as the reference's far corner"
    turned = evaluate_case(ref, pred, {"a": 1}, (1.0, 1.0, 1.0))[1]
    assert turned["ASSD"] == pytest.approx(metrics["ASSD"])
    assert metrics["ASD"] + turned["ASD"] == pytest.approx(2 * metrics["ASSD"])


def test_three_pixels_in_voxels_by_hand():
    pred, ref = np.zeros((1, 3, 6), np.int16), np.zeros((1, 3, 6), np.int16)
    pred[0, 1, 0] = 1
    ref[0, 1, 3:5] = 1  # distances: 3 from the prediction, 3 and 4 from the reference
    metrics = evaluate_case(pred, ref, {"a": 1}, (8.0, 2.0, 2.0), voxels=True)[1]
    assert metrics["ASD"] == 3.0
    assert metrics["ASSD"] == (3 + 3.5) / 2
    assert metrics["HD95"] == pytest.approx(3.9)  # of 3, 3, 4
    assert metrics["SurfaceDice"] == 0.0
    wider = evaluate_case(pred, ref, {"a": 1}, (8.0, 2.0, 2.0), voxels=True, tolerance=3)[1]
    assert wider["SurfaceDice"] == pytest.approx(2 / 3)


def test_medpys_own_example_of_a_cross_and_a_square():
    cross, full = np.zeros((1, 5, 5), np.int16), np.zeros((1, 5, 5), np.int16)
    full[0, 1:4, 1:4] = cross[0, 2, 1:4] = cross[0, 1:4, 2] = 1
    metrics = evaluate_case(cross, full, {"a": 1}, PICTURE, voxels=True)[1]
    assert metrics["ASD"] == 0.0, "asd(cross, cube, connectivity=1) of its documentation"
    assert metrics["ASSD"] == 0.25, "the square's four corners are 1 away, its four other pixels 0"


def test_a_step_between_slices_is_one_voxel_whatever_the_spacing():
    shape = (12, 40, 48)
    pred, ref = square(10, 10, 1, shape), square(10, 10, 1, shape)
    pred[1:], ref[:3], ref[4:] = 0, 0, 0
    for spacing in ((8.0, 1.0, 1.0), (1.0, 1.0, 1.0)):
        metrics = evaluate_case(pred, ref, {"a": 1}, spacing, voxels=True)[1]
        assert (metrics["HD95"], metrics["ASD"], metrics["ASSD"]) == (3.0, 3.0, 3.0)
    assert evaluate_case(pred, ref, {"a": 1}, (8.0, 1.0, 1.0))[1]["HD95"] == pytest.approx(24.0, abs=1)


def test_distances_in_voxels_are_those_between_all_pairs_of_border_voxels():
    generator = np.random.default_rng(5)
    pred, ref = (generator.random((5, 9, 8)) > 0.6 for _ in range(2))
    pred[2:, 4:, :3] = ref[1:4, 2:6, 3:] = True  # with an inside, and both touch the edge of the image

    def border(mask: np.ndarray) -> np.ndarray:
        padded = np.pad(mask, 1)
        faces = [np.roll(padded, step, axis)[1:-1, 1:-1, 1:-1] for axis in range(3) for step in (1, -1)]
        return np.argwhere(mask & ~np.all(faces, axis=0))

    apart = np.linalg.norm(border(pred)[:, None] - border(ref)[None], axis=-1)
    assert len(border(pred)) < pred.sum() and len(border(ref)) < ref.sum()
    metrics = evaluate_case(pred.astype(int), ref.astype(int), {"a": 1}, (8.0, 1.0, 1.0), voxels=True)[1]
    from_pred, from_ref = apart.min(axis=1), apart.min(axis=0)
    assert metrics["ASD"] == pytest.approx(from_pred.mean())
    assert metrics["ASSD"] == pytest.approx((from_pred.mean() + from_ref.mean()) / 2)
    assert metrics["HD95"] == pytest.approx(np.percentile([*from_pred, *from_ref], 95))
    assert metrics["SurfaceDice"] == pytest.approx(np.mean(np.array([*from_pred, *from_ref]) <= 2))


def test_different_shapes_are_refused():
    with pytest.raises(ValueError, match="shape"):
        evaluate_case(square(1, 1, 3), square(1, 1, 3, (1, 20, 20)), {"a": 1}, PICTURE)
