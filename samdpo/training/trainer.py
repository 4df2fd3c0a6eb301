"""The trainer base: nnU-Net's hooks, one concern each; ``run_training`` is the whole loop."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from samdpo.errors import TrainingError
from samdpo.extensions import OURS, full_name, name_to_type
from samdpo.files import copy_file, write_json
from samdpo.model.places import decode_places
from samdpo.model.views import IDENTITY, View, draw_view
from samdpo.networks.freezing import parameter_counts
from samdpo.networks.precision import autocast, fast_matrix_products, gradient_scaler, memory_format, resolve_precision
from samdpo.networks.published.loading import load_file
from samdpo.networks.registry import build_network
from samdpo.networks.sam import SamNetwork
from samdpo.networks.weights import save_weights
from samdpo.paths import LATEST_STAGES, number_of, plans_option
from samdpo.plans import NetworkPlan, Plans
from samdpo.schema import to_dict
from samdpo.training import checkpoints, manifest
from samdpo.training.batches import Batch, EpochSlices
from samdpo.training.budget import Budget
from samdpo.training.confidence import confidence_thresholds
from samdpo.training.description import cost_of, describe_fold
from samdpo.training.distributed import Replica, join
from samdpo.training.fold_data import FoldData
from samdpo.training.held_back import best_cut, dice_at_cuts, nan_mean
from samdpo.training.loading import Loader, number_of_workers
from samdpo.training.memory import saying_what_to_make_smaller
from samdpo.training.resume import load_state, made_of, save_state
from samdpo.training.run_log import RunLog, Stopwatch, peak_memory_gib, write_debug
from samdpo.training.slice_labels import SliceKey, known_part

log = logging.getLogger(__name__)
Metrics = dict[str, float | torch.Tensor]


class Trainer:
    """Base of every stage. A variant overrides one hook; see ``documentation/training.md``.

    Order of the hooks: ``initialize`` (``build_network_architecture``, ``load_initial_weights``,
    ``configure_trainable``, ``configure_optimizers``), then ``run_training``: ``on_train_start``; per epoch
    ``on_epoch_start``, ``train_batches``, ``train_step``, ``validation_step``, ``on_epoch_end``; ``on_train_end``.
    ``perform_actual_validation`` predicts the fold's validation cases.

    Args:
        data: the fold: plans, splits, slices, prompts.
        stage: name of the plan's configuration, for example ``finetune``.
        folder: the model folder ``TRAINER__PLANS__STAGE``; the fold writes to ``folder/fold_X``.
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps`` or ``auto``.
        pretrained_weights: file of weights, ours or as published, that replaces the published ones.
    """

    feeds_by_workers = True  # whether batches may be made in worker processes
    objectives: tuple[str, ...] = ("supervised",)  # values of the plan's 'objective' that it learns by
    uses_prompts = True  # whether prompts are made before training and a prompter is kept with the model

    def __init__(
        self,
        data: FoldData,
        stage: str,
        folder: Path,
        device: str = "auto",
        pretrained_weights: Path | None = None,
    ) -> None:
        self.data, self.plans = data, data.plans
        self.stage_name, self.stage = stage, data.plans.stage(stage)
        self.folder, self.fold_folder = folder, folder / f"fold_{data.fold}"
        self.pretrained_weights = pretrained_weights
        self.processes = join(device)
        self.device = self.processes.device
        self.precision = resolve_precision(self.stage.precision, self.device)
        self.scaler = gradient_scaler(self.device, self.precision)
        fast_matrix_products(self.device)
        self.num_epochs, self.current_epoch = self.stage.epochs, 0
        self.mask_cut, self.best_metric = self.stage.mask_cut, -1.0
        self.stopwatch, self.budget = Stopwatch(), Budget(self.stage.minutes, self.device)
        self.samples = data.samples(self.stage.augmentation)
        workers = number_of_workers(data.workers, self.device, self.processes.world)
        self.loader = Loader(workers, self.device)
        self.epoch_slices = EpochSlices(self.stage, self.processes.world)
        self.begun: manifest.MadeOf | None = None  # what the training started from
        self.train_keys: list[SliceKey] = []
        self.held_back_keys: list[SliceKey] = []
        self.network: SamNetwork
        self.optimizer: torch.optim.Optimizer
        self.run_log: RunLog
        self._replica: Replica | None = None
        self._averaged = False  # whether the gradients of this step are those of all processes already

    @classmethod
    def check_prerequisites(cls, plans: Plans, stage: str, fold: int | str) -> None:
        """Raise before any long work starts if the stage cannot run."""

    # ---- set-up -------------------------------------------------------------------------------------------------

    def initialize(self) -> None:
        """Build the network, load weights, choose what trains, make the optimiser, split off held-back cases."""
        torch.manual_seed(self.stage.seed)
        self.network = self.build_network_architecture(self.starting_plan())
        if self.pretrained_weights:
            manifest.check_weights(self.pretrained_weights)
        self.load_initial_weights()
        self.place(self.network)
        self.configure_trainable()
        self.optimizer = self.configure_optimizers()
        train, held_back = self.do_split()
        self.train_keys, self.held_back_keys = self.samples.keys(train), self.samples.keys(held_back)
        if not self.train_keys:
            raise TrainingError(
                f"No labelled slice of fold {self.data.fold} of {self.plans.dataset_name} has a structure in it, so "
                "there is nothing to learn from. Check the labels with: samdpo_plan_and_preprocess "
                "--verify_dataset_integrity"
            )

    def place(self, network: SamNetwork) -> SamNetwork:
        """Move a network to the device, in the memory layout that is fastest there."""
        network.decoder_precision = self.precision
        return network.to(self.device, memory_format=memory_format(self.device))

    @staticmethod
    def build_network_architecture(plan: NetworkPlan) -> SamNetwork:
        """The network with its published weights. Override to change the architecture."""
        return build_network(plan, pretrained=True)

    def starting_plan(self) -> NetworkPlan:
        """The network to build: without published weights where a file's replace all of them."""
        return replace(self.plans.network, pretrained=False) if self.pretrained_weights else self.plans.network

    def load_initial_weights(self) -> None:
        """``-pretrained_weights``, if given; strict on every key and shape."""
        if self.pretrained_weights:
            load_file(self.network, self.pretrained_weights)

    def configure_trainable(self) -> None:
        """Set ``requires_grad``."""
        raise NotImplementedError

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam (paper Sec. 4) with one rate for the encoder and one for the rest."""
        encoder = [p for p in self.network.image_encoder.parameters() if p.requires_grad]
        rest = [p for n, p in self.network.named_parameters() if p.requires_grad and not n.startswith("image_encoder")]
        groups = [{"params": rest, "lr": self.stage.lr}, {"params": encoder, "lr": self.stage.encoder_lr}]
        return torch.optim.Adam([g for g in groups if g["params"]])

    def do_split(self) -> tuple[list[str], list[str]]:
        """Labelled cases to train on, and those held back to choose the mask cut and the best epoch."""
        return self.data.hold_back(self.stage.held_back, self.stage.seed)

    # ---- the loop -----------------------------------------------------------------------------------------------

    def run_training(self) -> None:
        """Train from ``current_epoch`` to the last one. Can be stopped at any moment and continued with ``--c``."""
        self.on_train_start()
        for epoch in range(self.current_epoch, self.num_epochs):
            if not self.has_time():
                log.info("The %g minutes of the plan are spent after %d of %d epochs.", self.budget.minutes, epoch,
                         self.num_epochs)
                break
            self.on_epoch_start(epoch)
            with saying_what_to_make_smaller(self.stage):
                steps = [self.timed_train_step(b) for b in takewhile(self.has_time, self.train_batches(epoch))]
                outputs = self.fetched(steps)
                validation = [self.validation_step(batch) for batch in self.validation_batches()]
            # Of all processes, so that all of them choose the same mask cut and the same best epoch, and stop together.
            outputs = self.processes.gather(outputs)
            self.check_finite(epoch, outputs)
            self.check_agreement()
            self.on_epoch_end(epoch, outputs, self.processes.gather(validation))
        self.on_train_end()

    def on_train_start(self) -> None:
        """Write what describes the model, open the logs, start TensorBoard."""
        if not hasattr(self, "run_log"):
            self.run_log = RunLog(self.fold_folder, writes=self.processes.is_main)
        counts = parameter_counts(self.network)
        if self.processes.is_main:
            if not (self.folder / manifest.PLANS).is_file():  # else that of finished folds, until this one is
                self.data.write_description(self.folder)
            manifest.warn_of_other_plans(self.folder, self.data.fold, self.plans)
            write_debug(
                self.fold_folder / "debug.json",
                {"trainer": type(self).__qualname__, "stage": self.stage_name, "settings": to_dict(self.stage),
                 "device": str(self.device), "processes": self.processes.world, "precision": self.precision,
                 "parameters": counts, "train_slices": self.train_keys, "held_back_slices": self.held_back_keys},
            )
        log.info(
            "%s on %s, fold %s: %d labelled slices to train on, %d held back; %s; %s, %s%s",
            type(self).__name__, self.plans.dataset_name, self.data.fold, len(self.train_keys),
            len(self.held_back_keys), counts, self.device, self.precision,
            f", {self.processes.world} processes" if self.processes.world > 1 else "",
        )

    def on_epoch_start(self, epoch: int) -> None:
        """Halve the rates every ``lr_halving_epochs`` (paper Sec. 4); seed by epoch, so that a resume is exact."""
        factor = 0.5 ** (epoch // self.stage.lr_halving_epochs)
        for group in self.optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
            group["lr"] = group["initial_lr"] * factor
        # Dropout differs between processes, as it does between the slices of a batch.
        torch.manual_seed(self.stage.seed + 7919 * (epoch + 1) + 104729 * self.processes.rank)
        self.network.train()
        self._epoch_started = time.perf_counter()

    def generator(self, epoch: int, *salt: int) -> torch.Generator:
        """Random numbers that depend on seed, epoch and ``salt`` alone."""
        seed = np.random.SeedSequence([self.stage.seed, epoch, *salt]).generate_state(1)[0]
        return torch.Generator().manual_seed(int(seed))

    def train_batches(self, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch, made from its :meth:`recipes`, on the device."""
        for batch in self.made(self.sharded(self.recipes(epoch))):
            yield batch.to(self.device)

    def made(self, recipes: Iterable[Any], start: bool = True) -> Iterator[Any]:
        """The batches of some recipes, by workers where there are any; see :meth:`Loader.batches`."""
        if not self.feeds_by_workers or type(self).make_batch is not Trainer.make_batch:
            return map(self.make_batch, recipes)
        return self.loader.batches(recipes, self.maker(), start)

    def recipes(self, epoch: int) -> Iterable[Any]:
        """What each step of an epoch learns from, drawn from its generator: shuffled labelled slices in fresh views."""
        generator = self.generator(epoch)
        return [
            [(key, view) for key, view in zip(keys, self.draw_views(len(keys), generator))]
            for keys in self.epoch_slices.batches(self.train_keys, epoch, generator)
        ]

    def draw_views(self, count: int, generator: torch.Generator) -> list[View]:
        """``count`` views of training slices."""
        return [draw_view(self.stage.augmentation, generator) for _ in range(count)]

    def maker(self) -> Callable[[Any], Any]:
        """What reads a recipe. Nothing is drawn there, so that it may happen in any order and in any process: it is
        picklable, without the trainer, and equal to another one that reads the same."""
        return self.samples.batch

    def make_batch(self, recipe: Any) -> Batch:
        """Read what a recipe names, in this process. A trainer that overrides it goes without workers."""
        return self.maker()(recipe)

    def sharded(self, recipes: Iterable[Any]) -> Iterator[Any]:
        """This process's :meth:`share` of each recipe, with a progress bar."""
        bar = tqdm(recipes, desc=f"epoch {self.current_epoch + 1}/{self.num_epochs}", leave=False, unit="step",
                   disable=None if self.processes.is_main else True)
        yield from map(self.share, bar)

    def share(self, recipe: Any) -> Any:
        """This process's part of a step: of the ``batch_size`` items for each process that a recipe has."""
        return self.processes.share(recipe)

    def has_time(self, batch: Batch | None = None) -> bool:
        """Whether the plan's ``minutes`` leave time for one more step; all processes stop at the same one."""
        return self.budget.minutes == 0 or not self.processes.any(self.budget.spent)

    def timed_train_step(self, batch: Batch) -> Metrics:
        """``train_step`` with its seconds per image noted."""
        started = time.perf_counter()
        with self.budget:
            metrics = self.train_step(batch)
        self.stopwatch.add("train", time.perf_counter() - started, len(batch))
        return metrics

    def train_step(self, batch: Batch) -> Metrics:
        """One optimiser step; returns numbers to log, ``loss`` among them.

        Numbers may be tensors without a dimension: they are fetched once an epoch, so that no step waits for the
        device. A loss that is computed through :meth:`replicated` has its gradients averaged over processes while
        backward runs; that of another one in :meth:`apply_gradients`.
        """
        raise NotImplementedError

    def replicated(
        self, compute: Callable[..., tuple[torch.Tensor, Any]], *arguments: Any, last: bool = True
    ) -> tuple[torch.Tensor, Any]:
        """``compute(*arguments)``, a loss and more, in such a way that its gradients are those of all processes.

        Args:
            compute: uses the network. So that the loss is a mean over all processes, it divides by
                ``self.processes.divisor``.
            arguments: for it.
            last: False for a part of a step that is followed by others.
        """
        if self.processes.world == 1:
            return compute(*arguments)
        if self._replica is None:
            self._replica = self.processes.replicate(self.network)
        self._averaged |= last
        return self._replica(compute, *arguments, last=last)

    def fetched(self, steps: list[Metrics]) -> list[dict[str, float]]:
        """The numbers of an epoch's steps, brought from the device at once."""
        started = time.perf_counter()
        tensors = [value.detach() for step in steps for value in step.values() if isinstance(value, torch.Tensor)]
        numbers = iter(torch.stack([t.to(self.device, torch.float32) for t in tensors]).tolist() if tensors else [])
        fetched = [
            {name: next(numbers) if isinstance(value, torch.Tensor) else float(value) for name, value in step.items()}
            for step in steps
        ]
        if tensors and self.device.type != "cpu":  # a GPU has been computing these steps until now
            self.stopwatch.add("train", time.perf_counter() - started, 0)
        return fetched

    def check_finite(self, epoch: int, outputs: Sequence[Mapping[str, float]]) -> None:
        """Stop where a loss or a weight is not a number, before it is averaged, chosen or saved.

        With float16 a step may overflow: its gradients are then left out and the scale is halved, so that only an
        epoch without any finite loss stops the training.

        Args:
            epoch: that has just ended, from 0.
            outputs: what each step of all processes logged, process after process.

        Raises:
            TrainingError: names the epoch, and step and parts of the loss, or the weight.
        """
        wrong = [i for i, output in enumerate(outputs) if not math.isfinite(output.get("loss", 0.0))]
        if wrong and not (self.scaler.is_enabled() and len(wrong) < len(outputs)):
            steps = max(1, len(outputs) // self.processes.world)
            parts = ", ".join(f"{name} {value:g}" for name, value in outputs[wrong[0]].items() if "loss" in name)
            raise TrainingError(
                f"The loss of step {wrong[0] % steps + 1} of epoch {epoch + 1} is not a number ({parts}), nor are the "
                f"weights since. {self._where_numbers_end()}"
            )
        trained = (item for item in self.network.named_parameters() if item[1].requires_grad)
        for name, tensor in (*trained, *self.network.named_buffers()):
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise TrainingError(
                    f"In epoch {epoch + 1} the weight {name!r} has become infinite or no number, though no loss has. "
                    f"{self._where_numbers_end()}"
                )

    def _where_numbers_end(self) -> str:
        kept = sorted((self.fold_folder / checkpoints.LATEST).glob("epoch_*"))
        last = f"The checkpoint after epoch {int(kept[-1].name[6:])}, from before, is kept. " if kept else ""
        precision = "" if self.precision == "fp32" else " or precision=fp32"
        return (
            f"{last}Train anew with a lower rate{precision}, for example: --set lr={self.stage.lr / 10:g} "
            f"encoder_lr={self.stage.encoder_lr / 10:g}{' precision=fp32' if precision else ''}. If that does not "
            "help, look for images or labels with infinite values: samdpo_plan_and_preprocess "
            "--verify_dataset_integrity"
        )

    def check_agreement(self) -> None:
        """Refuse a step of one's own that leaves every process with another network.

        Raises:
            TrainingError: the weights differ between processes.
        """
        if self.processes.world == 1:
            return
        trained = [p.detach().double().abs().sum() for p in self.network.parameters() if p.requires_grad]
        sums = self.processes.gather([float(torch.stack(trained).sum())])
        if not np.allclose(sums, sums[0], rtol=1e-6, atol=0):
            raise TrainingError(
                f"After epoch {self.current_epoch + 1} the {self.processes.world} processes have networks that differ: "
                f"{type(self).__name__}.train_step steps with gradients of its own process. Call self.optimizer_step("
                "loss) in it, or self.apply_gradients() after backward."
            )

    def optimizer_step(self, loss: torch.Tensor) -> None:
        """Backward, then :meth:`apply_gradients`."""
        self.optimizer.zero_grad(set_to_none=True)
        if loss.requires_grad:  # not without any prompt
            self.backward(loss)
        self.apply_gradients()

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of ``loss``, scaled where float16 needs it."""
        self.scaler.scale(loss).backward()

    def apply_gradients(self) -> None:
        """Average gradients over processes where backward has not done so already, clip, step."""
        if not self._averaged:
            self.processes.average_gradients([p for p in self.network.parameters() if p.requires_grad])
        self._averaged = False
        trained = [p for p in self.network.parameters() if p.requires_grad and p.grad is not None]
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(trained, self.stage.grad_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def validation_batches(self) -> Iterator[Batch]:
        """This process's share of the held-back labelled slices, as they are."""
        keys, size = self.held_back_keys, self.stage.inference_batch_size
        recipes = [[(key, IDENTITY) for key in keys[start : start + size]] for start in range(0, len(keys), size)]
        yield from self.made(recipes[self.processes.rank :: self.processes.world], start=False)

    @torch.no_grad()
    def validation_step(self, batch: Batch) -> np.ndarray:
        """Dice of each prompt of the batch at each of ``CUTS``: (N, len(CUTS))."""
        return dice_at_cuts(known_part(self.probabilities(batch).cpu(), batch.counted), batch.truth)

    @torch.no_grad()
    def probabilities(self, batch: Batch) -> torch.Tensor:
        """What the network says now of each prompt of a batch, as in prediction: (N, H, W) in [0, 1]."""
        self.network.eval()
        places = decode_places(self.network, self.embeddings(batch), [s.prompts for s in batch.samples], self.plans)
        return places.at(places.chosen).sigmoid()

    def embeddings(self, batch: Batch) -> torch.Tensor:
        """Image embeddings (B, C, h, w) of a batch, float32."""
        with autocast(self.device, self.precision):
            return self.network.encode_image(batch.images.to(self.device)).float()

    def confidence_keys(self) -> list[SliceKey]:
        """The slices on which the network's confidence is measured after training."""
        return self.epoch_slices.seen(self.train_keys)

    def on_epoch_end(self, epoch: int, outputs: list[Metrics], validation: list[np.ndarray]) -> None:
        """Log means, draw, keep the best epoch of the held-back cases, write the resumable checkpoint."""
        names = dict.fromkeys(name for output in outputs for name in output)
        metrics = {name: nan_mean([output.get(name, np.nan) for output in outputs]) for name in names}
        metrics["lr"] = self.optimizer.param_groups[0]["lr"]
        if validation:
            metrics["held_back_dice"], cut = best_cut(np.concatenate(validation))
        metrics["epoch_seconds"] = time.perf_counter() - self._epoch_started
        self.current_epoch = epoch + 1
        self.run_log.add_epoch(metrics)
        best = bool(validation) and metrics["held_back_dice"] > self.best_metric
        if best:
            self.best_metric, self.mask_cut = metrics["held_back_dice"], cut
        if not self.processes.is_main:
            return
        log.info("epoch %d/%d: %s", epoch + 1, self.num_epochs, ", ".join(f"{k} {v:.4g}" for k, v in metrics.items()))
        if best:
            save_weights(self.network.state_dict(), self.fold_folder / checkpoints.LATEST / checkpoints.BEST)
        if self.current_epoch % self.stage.save_every == 0 and self.current_epoch < self.num_epochs:
            self.save_checkpoint()
        self.run_log.draw()

    def on_train_end(self) -> None:
        """Write the final weights and the fold's own description, which take the place of what was there before."""
        if self.processes.is_main:
            with manifest.trained(self.fold_folder, made_of(self)) as folder:
                if self.data.prompter is not None:
                    self.data.prompter.save(folder / "prompter")
                write_json(folder / "model.json", self.describe())
                write_json(folder / "cost.json", cost_of(self))
                save_weights(self.network.state_dict(), folder / checkpoints.FINAL)
                self.describe_data(folder)
            log.info("Seconds per image: %s. Peak memory %.2f GiB.", self.stopwatch.summary(),
                     peak_memory_gib(self.device))
        self.run_log.close()

    def describe(self) -> dict[str, Any]:
        """What prediction needs to know of this fold beyond the plans; see :func:`describe_fold`."""
        return describe_fold(self, self.has_own_architecture())

    def has_own_architecture(self) -> bool:
        """Whether prediction needs this class to build the network."""
        return type(self).build_network_architecture is not Trainer.build_network_architecture

    def describe_data(self, folder: Path) -> None:
        """The plan, dataset.json and the fingerprint, into the folder of :func:`samdpo.training.manifest.trained`."""
        self.data.write_description(manifest.shared(folder))
        copy_file(manifest.shared(folder) / manifest.PLANS, folder / manifest.PLANS)

    def starting_file(self) -> Path | None:
        """The file of weights that training starts from; None where they are published or drawn."""
        return self.pretrained_weights

    def measure_confidence(self) -> dict[str, float]:
        """Of each structure the confidence below which a person should look at a mask."""
        return confidence_thresholds(self, self.confidence_keys())

    # ---- stop and continue --------------------------------------------------------------------------------------

    def save_checkpoint(self) -> None:
        """Write a checkpoint from which ``--c`` goes on bit for bit (on CPU)."""
        save_state(self)

    def settings(self) -> dict[str, Any]:
        """Everything of the plan that a continued run must share with the one it continues."""
        shared = {"network": to_dict(self.plans.network), "prompting": to_dict(self.plans.prompting)}
        return {**to_dict(self.stage), **shared}

    def load_checkpoint(self) -> bool:
        """Go on from the newest checkpoint of the fold; False when there is none.

        Raises:
            TrainingError: the checkpoint was made with other settings.
        """
        return load_state(self)

    def prediction_command(self) -> str:
        """What to type to predict with the trained fold; of several stages, ``samdpo_predict`` takes the latest."""
        option = "" if self.stage_name in LATEST_STAGES else f" -c {self.stage_name}"
        if self.has_own_architecture() and type(self).__name__ not in OURS["trainer"]:  # found only where it is named
            option += f" -tr {name_to_type(full_name(type(self)))}"
        option, number = plans_option(self.plans.plans_name) + option, number_of(self.plans.dataset_name)
        return f"samdpo_predict -i IMAGES -o MASKS -d {number} -f {self.data.fold}{option}"

    # ---- validation ---------------------------------------------------------------------------------------------

    def perform_actual_validation(self, save_probabilities: bool = False) -> dict[str, Any]:
        """Predict the fold's validation cases in native size and write ``validation/summary.json``."""
        from samdpo.training.validation import validate_fold  # the one import against the data flow, as in nnU-Net

        return validate_fold(self.folder, self.data, str(self.device), save_probabilities)
