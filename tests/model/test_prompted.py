"""A person's prompts: one structure where a point, a box or a mask shows it, in pixels of the image as it was given."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from samdpo.dataset.images import read_image
from samdpo.dataset.orientation import Turn
from samdpo.errors import ConfigurationError, DatasetError
from samdpo.model.given_prompts import Plane, read_prompts
from samdpo.model.predictor import Predictor
from samdpo.networks import frozen_encoder
from samdpo.networks.frozen_encoder import FrozenEncoder
from samdpo.preprocessing.slicing import SliceGeometry

BOX = [[10.0, 20.0, 60.0, 80.0]]
ACROSS, DOWN = 256 / 112, 256 / 96  # pixels of the slice for one of the image


@pytest.fixture
def predictor(finetuned, monkeypatch):
    monkeypatch.setattr(FrozenEncoder, "_kept", frozen_encoder.kept_activations(64 * 1024**2))  # nothing of other tests
    return Predictor.from_model_folder(finetuned.finetuned, device="cpu")


@pytest.fixture
def picture(finetuned):
    return finetuned.raw / "imagesTs" / "xray_ts_001_0000.png"


def encoded(predictor):
    """How many slices the trained encoder of the first fold has seen; a list that grows."""
    seen = []
    predictor.folds[0].network.image_encoder.neck.register_forward_hook(lambda _, inputs, __: seen.extend(inputs[0]))
    return seen


def test_a_box_is_answered_in_the_images_own_size_with_its_structures_label_alone(predictor, picture):
    predictor.set_image(picture)
    prediction = predictor.predict(boxes=BOX, structure="lung")
    assert prediction.segmentation.shape == (1, 96, 112) and prediction.probabilities.shape == (1, 1, 96, 112)
    assert set(np.unique(prediction.segmentation)) <= {0, 1}
    lung = prediction.report["structures"]["lung"]
    assert lung["pixels"] == np.count_nonzero(prediction.segmentation)
    assert lung["prompts"][0]["boxes"][0] == pytest.approx([10 * ACROSS, 20 * DOWN, 60 * ACROSS, 80 * DOWN])
    assert lung["prompts"][0]["text"]


def test_after_the_image_is_set_prompts_cost_no_pass_of_the_encoder(predictor, picture, monkeypatch):
    seen = encoded(predictor)
    predictor.set_image(picture)
    assert len(seen) == 1
    monkeypatch.setattr(predictor.folds[0].prompter, "prompt", None)
    answers = [
        predictor.predict(boxes=BOX), predictor.predict(points=[[30, 50]]), predictor.predict(mask=np.ones((24, 28))),
        predictor.predict(points=[[30, 50], [90, 10]], labels=[1, 0], boxes=BOX),
    ]
    assert len(seen) == 1
    masks = {answer.probabilities.tobytes() for answer in answers}
    assert len(masks) == len(answers), "each prompt is heeded"


def test_a_point_beside_the_structure_is_another_prompt_than_one_on_it(predictor, picture):
    predictor.set_image(picture)
    on, beside = (predictor.predict(points=[[30, 50]], labels=[label]).probabilities for label in (1, 0))
    assert not np.array_equal(on, beside)
    np.testing.assert_array_equal(on, predictor.predict(points=[[30, 50]]).probabilities)


def test_the_prompt_free_answer_stays_as_it_is_before_and_after_prompts(predictor, picture):
    predictor.set_image(picture)
    before = predictor.predict()
    predictor.predict(boxes=BOX)
    after = predictor.predict()
    np.testing.assert_array_equal(before.probabilities, after.probabilities)
    assert before.report == after.report


def test_what_a_prompt_says_is_what_the_network_decodes(predictor, picture):
    predictor.set_image(picture)
    answer = predictor.predict(points=[[30, 50]], boxes=BOX, labels=[1])
    fold, seen = predictor.folds[0], predictor._cut.seen
    plane = Plane(predictor._cut.geometry, predictor._cut.turn)
    batch = read_prompts([[30, 50]], [1], BOX, None, plane).batch(256, seen.prompts[0][0].text_embedding, 384)
    assert batch.points[0, 0].tolist() == pytest.approx([30.5 * ACROSS - 0.5, 50.5 * DOWN - 0.5])
    with torch.no_grad():
        expected = fold.network.decode(seen.embeddings[0], batch)[0].sigmoid().numpy()[None]
    np.testing.assert_array_equal(answer.probabilities, predictor._cut.geometry.to_native(expected))


def test_of_a_volume_one_slice_is_prompted_on_and_it_alone_is_encoded(predictor, picture):
    data = read_image([picture]).data[0, 0]
    predictor.set_image(data)
    alone = predictor.predict(boxes=BOX)
    seen = encoded(predictor)
    predictor.set_image(np.stack([data[:, ::-1], data, data[::-1]])[None])
    assert not seen, "a volume's slices are encoded when they are asked for"
    answer = predictor.predict(boxes=BOX, slice_index=1)
    assert answer.segmentation.shape == (1, 96, 112)
    # Not to the last bit: three slices are normalised together.
    np.testing.assert_allclose(answer.probabilities, alone.probabilities, atol=0.02)
    count = len(seen)
    predictor.predict(points=[[30, 50]], slice_index=1)
    assert len(seen) == count
    with pytest.raises(ConfigurationError, match=r"has 3 slices; say on which one .* slice_index=0 to 2"):
        predictor.predict(boxes=BOX)
    with pytest.raises(ConfigurationError, match="slice_index is 3; the image has the slices 0 to 2"):
        predictor.predict(boxes=BOX, slice_index=3)


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 1, 0), (2, 0, 1), (1, 2, 0), (0, 2, 1)])
@pytest.mark.parametrize("flips", [(), (0,), (1, 2), (0, 1, 2)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_prompts_land_where_a_turned_volume_shows_the_same_voxels(order, flips, axis):
    turn, shape = Turn(order, flips), (6, 10, 14)
    plane = Plane(SliceGeometry(axis, tuple(shape[of] for of in order), 64), turn)
    rows, columns = plane.shape
    index = 2
    volume = np.zeros(shape)
    of_plane = np.moveaxis(volume, plane.axis, 0)[index]
    assert of_plane.shape == (rows, columns)
    of_plane[1:4, 2:5] = 1
    cut = np.moveaxis(turn.apply(volume), axis, 0)
    number = plane.cut_index(index)
    assert cut[number].any() and not np.delete(cut, number, 0).any()
    ys, xs = np.nonzero(cut[number])
    height, width = cut.shape[1:]
    wanted = np.array([xs.min() / width, ys.min() / height, (xs.max() + 1) / width, (ys.max() + 1) / height]) * 64
    given = read_prompts([[3, 2]], None, [[2, 1, 5, 4]], of_plane, plane)
    assert given.boxes[0].tolist() == pytest.approx(wanted.tolist(), abs=1e-4)
    middle = [(xs.mean() + 0.5) / width * 64, (ys.mean() + 0.5) / height * 64]
    assert (given.points[0] + 0.5).tolist() == pytest.approx(middle)
    x, y = (given.points[0] + 0.5).astype(int)
    assert given.mask[y, x] == given.mask.max() > 0


@pytest.mark.parametrize(
    ("prompts", "sentence"),
    [
        ({"boxes": [[200, 20, 260, 80]]}, r"The box \(200, 20, 260, 80\) lies outside .* 112 x 96 pixels"),
        ({"boxes": [[10, 20, 113, 80]]}, "lies outside"),
        ({"boxes": [[60, 20, 10, 80]]}, r"The box \(60, 20, 10, 80\) has no area; expected x0 < x1"),
        ({"boxes": [[10, 20, 10, 80]]}, "has no area"),
        ({"boxes": [[10, 20, 30]]}, r"boxes must be \(N, 4\) numbers, x0, y0, x1, y1 each"),
        ({"points": [[112, 5]]}, r"The point \(112, 5\) lies outside"),
        ({"points": [[np.nan, 5]]}, r"points must be \(N, 2\) numbers, x, y each"),
        ({"points": "here"}, "points must be"),
        ({"points": [[5, 5]], "labels": [1, 0]}, "each of the 1 points 1 .* or 0"),
        ({"points": [[5, 5]], "labels": [2]}, "each of the 1 points 1 .* or 0"),
        ({"points": np.zeros((0, 2))}, "There is no point and no box among the prompts"),
        ({"mask": np.zeros((3, 4, 5))}, r"The mask must be \(h, w\) finite logits .* found the shape \(3, 4, 5\)"),
        ({"mask": np.full((4, 4), np.inf)}, "with infinite values"),
        ({"boxes": BOX, "structure": "liver"}, "There is no structure 'liver'; this model knows structure='lung'"),
        ({"structure": "lung"}, "structure is given .* without a point, a box or a mask"),
        ({"labels": [1]}, "labels is given"),
    ],
)
def test_what_is_no_prompt_is_a_sentence(predictor, picture, prompts, sentence):
    predictor.set_image(picture)
    with pytest.raises(ConfigurationError, match=sentence):
        predictor.predict(**prompts)


def test_prompts_need_an_image(predictor):
    with pytest.raises(DatasetError, match="call set_image first"):
        predictor.predict(boxes=BOX)


def test_of_several_structures_a_person_says_which():
    two = SimpleNamespace(plans=SimpleNamespace(structures={"liver": None, "spleen": None}), _takes_prompts=True)
    with pytest.raises(ConfigurationError, match="Say of which structure .* structure='liver' or 'spleen'"):
        Predictor._structure(two, None)
    assert Predictor._structure(two, "spleen") == "spleen"


def test_a_network_without_prompts_refuses_them(planned):
    trainer = planned.train("unet", "epochs=1", "slices_per_epoch=4")
    predictor = Predictor.from_model_folder(trainer.folder, device="cpu")
    predictor.set_image(planned.raw / "imagesTs" / "xray_ts_001_0000.png")
    with pytest.raises(ConfigurationError, match=r"\(UNet\) takes no prompts; call predict without points"):
        predictor.predict(boxes=BOX)
    assert predictor.predict().segmentation.shape == (1, 96, 112)
