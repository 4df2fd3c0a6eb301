"""Stage 2 that asks about other proposals: masks decoded from boxes of several sizes."""

import dataclasses

import torch

from samdpo.align.proposer import Origin, Proposals, Proposer
from samdpo.align.trainer import AlignTrainer
from samdpo.model.batches import prompt_tensors

SCALES = (0.7, 0.9, 1.1, 1.4)


def scaled(prompt, scale):
    """A prompt with its boxes grown or shrunk around their centres, and no points."""
    centre = (prompt.boxes[:, [0, 1, 0, 1]] + prompt.boxes[:, [2, 3, 2, 3]]) / 2
    return dataclasses.replace(prompt, boxes=centre + scale * (prompt.boxes - centre), points=prompt.points[:0])


class BoxSizeProposer(Proposer):
    """Proposes what the finetuned network makes of the prompt's box at each of four sizes."""

    @torch.no_grad()
    def propose(self, slices, generator):
        masks = []
        for scale in SCALES:
            prompts = [[scaled(prompt, scale) for prompt in sample.prompts] for sample in slices.batch.samples]
            tensors = prompt_tensors(prompts, self.plans).to(slices.embeddings.device)
            masks.append(slices.reference.network.decode(slices.embeddings, tensors)[0] > 0)
        origins = [[Origin("box size", scaled(prompt, s).boxes[0]) for s in SCALES] for prompt in slices.prompts]
        return Proposals(torch.stack(masks, 1), origins)

    def settings(self):
        return {"scales": SCALES}


class BoxSizeTrainer(AlignTrainer):
    """Learns which size of the box is right."""

    def build_proposer(self):
        return BoxSizeProposer(self.plans, self.stage.candidates)
