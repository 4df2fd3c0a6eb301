"""Calibrated saliency of one structure on one slice to its prompt: CRF, components, boxes, points, sentence."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.special import expit
from skimage.transform import resize

from samdpo.plans import CrfPlan, PromptingPlan, StructurePlan
from samdpo.prompting.answers.measured import measured_answer
from samdpo.prompting.calibration import StructureCalibration, presence_score
from samdpo.prompting.descriptions import describe, is_described
from samdpo.prompting.prompt import StructurePrompt
from samdpo.prompting.regions import (
    box_hypotheses,
    boxes_of,
    largest_components,
    least_mask,
    most_salient_component,
    points_in,
)
from samdpo.prompting.text_encoder import TextEncoder

_EPSILON = 1e-8  # MedCLIP-SAM's guard of the logarithm


def assemble_prompt(
    structure: str,
    plan: StructurePlan,
    prompting: PromptingPlan,
    calibration: StructureCalibration,
    image: np.ndarray,
    logits: np.ndarray,
    generator: np.random.Generator,
    present: bool | None = None,
) -> StructurePrompt:
    """Everything of a prompt but its text embedding, which is empty.

    Args:
        structure: its name.
        plan: its part of the plan.
        prompting: CRF, components and counts.
        calibration: its cut, least area and presence threshold.
        image: (3, H, W) in [0, 1].
        logits: (64, 64) calibrated saliency logits.
        generator: of the points.
        present: whether the structure is there, where it was decided over a volume; None: by the presence score.

    Returns:
        The prompt; an absent structure's has neither regions, boxes, points, hypotheses nor an answer.
    """
    size = image.shape[-2:]
    score = presence_score(logits)
    if present is None:
        present = not plan.may_be_absent or score >= calibration.presence_threshold
    regions = np.zeros(size, np.uint8)
    hypotheses, hypothesis_scores = np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
    if present:
        full = resize(logits.astype(np.float32), size, order=1, mode="edge", anti_aliasing=False)
        shifted = calibration.mask_probability(full)
        mask = refine(image, shifted, prompting.crf) >= 0.5
        if not mask.any():
            # Nothing passed the cut, yet the structure is there: its most salient pixels are the best guess.
            mask = least_mask(shifted, max(calibration.least_area, 1 / mask.size))
        if plan.components == 1:
            regions = most_salient_component(mask, shifted, prompting.min_component_share)
        else:
            regions = largest_components(mask, plan.components, prompting.min_component_share)
        hypotheses, hypothesis_scores = box_hypotheses(
            expit(full), regions, plan.components, prompting.n_hypotheses
        )
    name = plan.phrase or structure
    return StructurePrompt(
        structure=structure,
        label=plan.label,
        present=present,
        score=score,
        saliency=logits.astype(np.float16),
        regions=regions,
        boxes=boxes_of(regions),
        points=points_in(regions, prompting.n_points, generator),
        hypotheses=hypotheses,
        hypothesis_scores=hypothesis_scores,
        answer=measured_answer(name, regions) if prompting.use_answers and prompting.answers == "measured" else "",
        description=_description(structure, plan) if prompting.use_descriptions else "",
        text_embedding=np.zeros(0, np.float32),
    )


def prompt_at(
    prompt: StructurePrompt,
    mask: np.ndarray,
    saliency: np.ndarray,
    plan: StructurePlan,
    prompting: PromptingPlan,
    generator: np.random.Generator,
    confidence: float = 1.0,
) -> StructurePrompt:
    """A prompt that points at a mask: its box, points in it, its logits as mask prompt, a sentence measured on it.

    Args:
        prompt: of the saliency; presence, score and description stay.
        mask: (H, W) bool, not empty.
        saliency: (64, 64) logits of the mask.
        plan: of the structure.
        prompting: counts and switches.
        generator: of the points.
        confidence: that the structure is there.

    Returns:
        The prompt, without a text embedding and without hypotheses: nobody is to look elsewhere.
    """
    regions = largest_components(mask, plan.components, prompting.min_component_share)
    boxes = boxes_of(regions)
    asks = prompting.use_answers and prompting.answers == "measured"
    return replace(
        prompt, saliency=np.asarray(saliency, np.float16), regions=regions, boxes=boxes,
        points=points_in(regions, prompting.n_points, generator), hypotheses=boxes[:0],
        hypothesis_scores=np.zeros(0, np.float32),
        answer=measured_answer(plan.phrase or prompt.structure, regions) if asks else prompt.answer,
        text_embedding=np.zeros(0, np.float32), place_confidence=float(confidence),
    )


def with_text_embeddings(prompts: list[StructurePrompt], encoder: TextEncoder) -> list[StructurePrompt]:
    """The prompts with their texts embedded; a prompt without any text gets the zero vector."""
    texts = sorted({prompt.text for prompt in prompts} - {""})
    embeddings = {"": np.zeros(encoder.dim, np.float32), **dict(zip(texts, encoder.encode(texts)))}
    return [replace(prompt, text_embedding=embeddings[prompt.text]) for prompt in prompts]


def _description(structure: str, plan: StructurePlan) -> str:
    # The phrase is the better name where the label's own ("mass 1") says nothing.
    name = structure if is_described(structure) or not is_described(plan.phrase) else plan.phrase
    return describe(name, plan.description)


def refine(image: np.ndarray, probability: np.ndarray, plan: CrfPlan) -> np.ndarray:
    """Sharpen a saliency along the image's edges.

    The unaries are MedCLIP-SAM's, U(a) = -log(a + e) / (tau sigmoid(a)), from the raw map: a coloured overlay
    would mix the image into the unary.

    Args:
        image: (3, H, W) in [0, 1].
        probability: (H, W) foreground probability.
        plan: constants; with ``enabled`` false the input comes back.

    Returns:
        (H, W) float32 foreground probability.
    """
    probability = np.clip(probability.astype(np.float32), 0.0, 1.0)
    if not plan.enabled:
        return probability
    import pydensecrf.densecrf as dense_crf

    height, width = probability.shape
    both = np.stack([1 - probability, probability])
    unary = -np.log(both + _EPSILON) / (plan.tau / (1 + np.exp(-both)))
    picture = np.ascontiguousarray((image.transpose(1, 2, 0) * 255).clip(0, 255).astype(np.uint8))
    crf = dense_crf.DenseCRF2D(width, height, 2)
    crf.setUnaryEnergy(np.ascontiguousarray(unary.reshape(2, -1), dtype=np.float32))
    crf.addPairwiseGaussian(sxy=plan.gaussian_sxy, compat=plan.gaussian_compat)
    crf.addPairwiseBilateral(
        sxy=plan.bilateral_sxy, srgb=plan.bilateral_srgb, rgbim=picture, compat=plan.bilateral_compat
    )
    return np.asarray(crf.inference(plan.iterations), np.float32).reshape(2, height, width)[1]
