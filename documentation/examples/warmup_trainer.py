"""Stage 1 with a gentle start: one hook is overridden."""

from samdpo.training.finetune import FinetuneTrainer


class WarmupTrainer(FinetuneTrainer):
    """The learning rates rise over the first three epochs."""

    def on_epoch_start(self, epoch: int) -> None:
        """As the base's, then a third of the rates, two thirds, all of them."""
        super().on_epoch_start(epoch)
        for group in self.optimizer.param_groups:
            group["lr"] *= min(1.0, (epoch + 1) / 3)
