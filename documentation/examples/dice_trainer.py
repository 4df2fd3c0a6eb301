"""Stage 1 with another loss: Dice alone."""

from samdpo.training.finetune import FinetuneTrainer


def dice_loss(logits, truth, counted):
    """1 - soft Dice of each mask: (N, H, W) logits and truth -> (N,)."""
    found = logits.sigmoid()
    return 1 - (2 * (found * truth).sum((1, 2)) + 1) / (found.sum((1, 2)) + truth.sum((1, 2)) + 1)


class DiceTrainer(FinetuneTrainer):
    """Learns by Dice alone."""

    def build_loss(self):
        return dice_loss
