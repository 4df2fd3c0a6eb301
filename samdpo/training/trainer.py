"""The trainer base: nnU-Net's hooks, one concern each; ``run_training`` is the whole loop."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from samdpo.errors import ModelFolderError, TrainingError
from samdpo.extensions import OURS, full_name, name_to_type
from samdpo.files import content_hash, copy_file, hash_of, write_json
from samdpo.model.batches import AsNew, Batch
from samdpo.model.description import DESCRIPTION, PLANS, check_weights, prompts_of, settings_of
from samdpo.model.folder import FoldModel
from samdpo.model.masks import confidence_of
from samdpo.model.places import decode_places
from samdpo.model.predictor import Predictor
from samdpo.model.slice_labels import known_part
from samdpo.model.views import FLIPPED, IDENTITY, View, draw_view
from samdpo.networks.device import hand_back_memory
from samdpo.networks.freezing import parameter_counts
from samdpo.networks.precision import autocast, fast_matrix_products, gradient_scaler, memory_format, resolve_precision
from samdpo.networks.published.loading import load_file
from samdpo.networks.registry import build_network
from samdpo.networks.sam import SamNetwork
from samdpo.networks.weights import load_into, save_weights
from samdpo.paths import LATEST_STAGES, number_of, plans_option
from samdpo.plan_sections import LATER_STAGE_KEYS
from samdpo.plans import NetworkPlan, Plans, PromptingPlan
from samdpo.preferences.losses import segmentation_loss
from samdpo.preprocessing.store import SliceKey
from samdpo.prompting.prompt_store import PromptStore
from samdpo.schema import keys_where, to_dict
from samdpo.training import checkpoints, manifest
from samdpo.training.budget import Budget, beside_the_steps, in_a_step
from samdpo.training.distributed import Replica, join, on_this_machine
from samdpo.training.fold_data import FoldData, data_hashes, own_prompts
from samdpo.training.kept_features import FeatureCache
from samdpo.training.loading import EpochSlices, Loader, number_of_workers
from samdpo.training.measures import best_cut, confidence_thresholds, dice_at_cuts, evenly, nan_mean
from samdpo.training.run_log import RunLog, Stopwatch, peak_memory_gib, write_debug
from samdpo.training.validation import validate_fold

log = logging.getLogger(__name__)
Metrics = dict[str, float | torch.Tensor]
SegmentationLoss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]
_SURELY_NOT = -30.0  # the logit of a pixel that is background beyond doubt
MOST_SLICES = 64  # on which confidence is measured; the percentile hardly moves with more


class Trainer:
    """Base of every stage. A variant overrides one hook; see ``documentation/training.md``.

    Order of the hooks: ``initialize`` (``build_network_architecture``, ``load_initial_weights``,
    ``configure_trainable``, ``configure_optimizers``), then ``run_training``: ``on_train_start``; per epoch
    ``on_epoch_start``, ``train_batches``, ``train_step``, ``validation_step``, ``on_epoch_end``; ``on_train_end``.
    ``perform_actual_validation`` predicts the fold's validation cases. ``build_loss`` is asked for the loss against a
    mask, which every stage takes through :meth:`loss`.

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
        self.warm_steps = 0  # of the warm-up, that the optimiser has taken
        self.mask_cut, self.best_metric = self.stage.mask_cut, -1.0
        self.stopwatch, self.budget = Stopwatch(), Budget(self.stage.minutes, self.device)
        self.samples = data.samples(self.stage.augmentation)
        workers = number_of_workers(data.workers, self.device, on_this_machine(self.processes.world))
        self.loader = Loader(workers, self.device)
        self.epoch_slices = EpochSlices(self.stage, self.processes.world)
        self.begun: manifest.MadeOf | None = None  # what the training started from
        self.description: dict[str, Any] | None = None  # of the trained network, once it is in memory
        self.train_keys: list[SliceKey] = []
        self.held_back_keys: list[SliceKey] = []
        self.network: SamNetwork
        self.optimizer: torch.optim.Optimizer
        self.run_log: RunLog
        self._loss: SegmentationLoss | None = None
        self._replica: Replica | None = None
        self._averaged = False  # whether the gradients of this step are those of all processes already

    @classmethod
    def check_prerequisites(cls, plans: Plans, stage: str, fold: int | str) -> None:
        """Raise before any long work starts if the stage cannot run."""

    # ---- the whole way ------------------------------------------------------------------------------------------

    def train(self, resume: bool = False, only_validate: bool = False, save_probabilities: bool = False) -> None:
        """Train (or continue, or only validate) and predict the fold's validation cases.

        Raises:
            ConfigurationError: another process trains or validates this fold.
            TrainingError: there is nothing to validate, or not what these settings make.
        """
        fold, processes = self.fold_folder, self.processes
        final = fold / checkpoints.FINAL
        with ExitStack() as held:
            finished = processes.once(lambda: held.enter_context(manifest.owned(fold)))
            if only_validate:
                if not final.is_file():
                    raise TrainingError(
                        f"--val: {final} does not exist; this fold is not trained yet. Train it without --val."
                    )
                if not finished:
                    raise TrainingError(
                        f"--val: a training of {fold} was begun anew and has not finished. Go on with it with --c "
                        f"instead of --val; to stay with the model of before, remove {fold / checkpoints.LATEST}."
                    )
            elif resume and finished:
                self._check_settings_of_finished()
                log.info("%s is finished already; nothing to continue. Train it anew by leaving out --c.", fold)
            else:
                with beside_the_steps(self.stage, "--c"):
                    self._train(resume)
            # Nothing is computed together any more, and the others need not wait for the predictions.
            processes.leave()
            if processes.is_main:
                self._check_own_prompts()
                with beside_the_steps(self.stage, "--val"):
                    self.perform_actual_validation(save_probabilities)
                log.info("The model is in %s\n%s", self.folder, self.next_step())

    def _train(self, resume: bool) -> None:
        self.initialize()
        if resume and (begun := self.processes.once(lambda: manifest.begun(self.fold_folder))) is not None:
            self.check_begun(begun)
            self.begun = begun
        if not (resume and self.load_checkpoint()):
            if resume:
                log.info("There is no checkpoint to continue from; starting at the beginning.")
            self.begun = None
            self.begun = self.made_of()
            self.processes.meet()  # nobody looks for a checkpoint any more
            if self.processes.is_main:
                manifest.begin(self.fold_folder, self.begun)
        with self.loader:  # its workers end with the training, however that ends
            self.run_training()

    def _check_settings_of_finished(self) -> None:
        """A finished fold is the end of another training than the one that ``--c`` asks for where settings differ."""
        before = settings_of(self.fold_folder)
        if before is not None and (changed := self.changed_settings(before, every=False)):
            raise TrainingError(
                f"{self.fold_folder} is finished, and was trained with other settings ({', '.join(changed)}). Train it "
                "anew with these by leaving out --c, or name the settings it was trained with."
            )

    def _check_own_prompts(self) -> None:
        """A fold's own prompts may be those of a training that was begun anew and given up."""
        own, known = own_prompts(self.fold_folder), prompts_of(self.fold_folder)
        if known is not None and own.is_dir() and any(
            one.key != known for one in PromptStore(own).summaries().values()
        ):
            raise TrainingError(
                f"{own} holds prompts of another training than the one whose weights are there, so they cannot be "
                "validated together. Train the fold anew."
            )

    def next_step(self) -> str:
        """What a user would type next."""
        number, fold = number_of(self.plans.dataset_name), self.data.fold
        following = [
            name for name, stage in self.plans.configurations.items() if stage.previous_stage == self.stage_name
        ]
        lines, option = ["Next:"], plans_option(self.plans.plans_name)
        if following and self.data.split.unlabelled:
            command = f"samdpo_train {number} {following[0]} {fold}{option}"
            lines.append(f"  {command}      learn from preferences on unlabelled images")
        lines.append(f"  {self.prediction_command()}")
        return "\n".join(lines)

    # ---- set-up -------------------------------------------------------------------------------------------------

    def initialize(self) -> None:
        """Build the network, load weights, choose what trains, make the optimiser, split off held-back cases."""
        torch.manual_seed(self.stage.seed)
        self.network = self.build_network_architecture(self.starting_plan())
        if self.pretrained_weights:
            check_weights(self.pretrained_weights)
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
        groups = [{"params": rest, "lr": self.stage.lr}, {"params": encoder, "lr": self.encoder_rate[1]}]
        return torch.optim.Adam([g for g in groups if g["params"]])

    @property
    def encoder_rate(self) -> tuple[str, float]:
        """The key of the stage that gives the image encoder's learning rate, and what it is."""
        return "encoder_lr", self.stage.encoder_lr

    def build_loss(self) -> SegmentationLoss:
        """What the stage compares a mask with the truth by, wherever it does: focal and Dice (paper Sec. 4).

        Override to change it, in every stage and on labelled and unlabelled slices alike: see :meth:`loss`, which calls
        it. It takes logits (N, H, W) before the sigmoid, truth (N, H, W) bool and ``counted`` (N, H, W) bool, False on
        pixels that say nothing, or None; it gives one loss a mask, (N,).
        """
        return lambda logits, truth, counted: segmentation_loss(logits, truth, self.stage.segmentation_loss, counted)

    def loss(self, logits: torch.Tensor, truth: torch.Tensor, counted: torch.Tensor | None = None) -> torch.Tensor:
        """Losses (N,) by :meth:`build_loss`, whatever that is made to be.

        Pixels that do not count are shown to it as background that is surely found, and give no gradient, also where it
        does not look at ``counted``. It gives one loss a mask, so that a step which runs in parts, or on several
        devices, is the same step: sums and means are taken by whoever asks.

        Args:
            logits: (N, H, W), before the sigmoid.
            truth: (N, H, W) bool, on the device of the logits.
            counted: (N, H, W) bool, pixels that count; by default all.

        Raises:
            TrainingError: the loss gives another shape.
        """
        if self._loss is None:
            self._loss = self.build_loss()
        if counted is not None:
            counted = counted.to(logits.device)
            logits, truth = logits.masked_fill(~counted, _SURELY_NOT), truth & counted
        losses = self._loss(logits, truth, counted)
        if losses.shape != (len(logits),):
            raise TrainingError(
                f"{type(self).__name__}.build_loss gives a loss of the shape {tuple(losses.shape)} for {len(logits)} "
                f"masks; expected one loss a mask, ({len(logits)},). Leave its mean over the batch out: it is taken "
                "over all parts of a step."
            )
        return losses

    def do_split(self) -> tuple[list[str], list[str]]:
        """Labelled cases to train on, and those held back to choose the mask cut and the best epoch."""
        return self.data.hold_back(self.stage.held_back, self.stage.seed)

    # ---- the loop -----------------------------------------------------------------------------------------------

    def run_training(self) -> None:
        """Train from ``current_epoch`` to the last one. Can be stopped at any moment and continued with ``--c``."""
        self.on_train_start()
        hand_back_memory()  # that features and prompts took
        for epoch in range(self.current_epoch, self.num_epochs):
            if not self.has_time():
                log.info("The %g minutes of the plan are spent after %d of %d epochs.", self.budget.minutes, epoch,
                         self.num_epochs)
                break
            self.on_epoch_start(epoch)
            with in_a_step(self.stage):
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
            if not (self.folder / PLANS).is_file():  # else that of finished folds, until this one is
                self.data.write_description(self.folder, self.stage_name)
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
        trained = [name for name, parameter in self.network.named_parameters() if parameter.requires_grad]
        of_encoder = any(name.startswith("image_encoder") for name in trained)
        rates = [("lr", self.stage.lr), *([self.encoder_rate] if of_encoder else [])]
        settings = [f"{key}={rate / 10:g}" for key, rate in rates]
        precision = "" if self.precision == "fp32" else " or precision=fp32"
        return (
            f"{last}Train anew with a lower rate{precision}, for example: --set {' '.join(settings)}"
            f"{' precision=fp32' if precision else ''}. If that does not help, look for images or labels with infinite "
            "values: samdpo_plan_and_preprocess --verify_dataset_integrity"
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
        """Average gradients over processes where backward has not done so already, clip, step.

        The first ``lr_warm_up_steps`` are smaller ones: with few gradients to average, Adam moves every weight by the
        whole rate, whatever its gradient.
        """
        if not self._averaged:
            self.processes.average_gradients([p for p in self.network.parameters() if p.requires_grad])
        self._averaged = False
        trained = [p for p in self.network.parameters() if p.requires_grad and p.grad is not None]
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(trained, self.stage.grad_clip)
        rates = [group["lr"] for group in self.optimizer.param_groups]
        warms_up = self.warm_steps < self.stage.lr_warm_up_steps
        scale = self.scaler.get_scale() if warms_up else 0.0  # to ask for it is to wait for the GPU
        for group in self.optimizer.param_groups:
            group["lr"] *= min(1.0, (self.warm_steps + 1) / max(1, self.stage.lr_warm_up_steps))
        self.scaler.step(self.optimizer)
        for group, rate in zip(self.optimizer.param_groups, rates):
            group["lr"] = rate
        self.scaler.update()
        if warms_up:
            self.warm_steps += self.scaler.get_scale() >= scale  # else it was left out, since float16 has overflown

    def validation_batches(self) -> Iterator[Batch]:
        """This process's share of the held-back labelled slices, as they are and prompted as new cases are."""
        keys, size = self.held_back_keys, self.stage.inference_batch_size
        recipes = [AsNew((key, IDENTITY) for key in keys[start : start + size]) for start in range(0, len(keys), size)]
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
            self.description = self.describe()
            with manifest.trained(self.fold_folder, self.made_of()) as folder:
                if self.data.prompter is not None:
                    self.data.prompter.save(folder / "prompter")
                write_json(folder / DESCRIPTION, self.description)
                write_json(folder / "cost.json", self.cost())
                save_weights(self.network.state_dict(), folder / checkpoints.FINAL)
                self.describe_data(folder)
            log.info("Seconds per image: %s. Peak memory %.2f GiB.", self.stopwatch.summary(),
                     peak_memory_gib(self.device))
        self.run_log.close()

    def describe(self) -> dict[str, Any]:
        """What prediction needs to know of this fold beyond the plans, and what a comparison of folds needs."""
        return {
            "trainer": full_name(type(self)),
            "custom_architecture": self.has_own_architecture(),
            "stage": self.stage_name,
            "mask_cut": self.mask_cut,
            "confidence_threshold": self.measure_confidence(),
            "seed": self.stage.seed,
            "epochs": self.current_epoch,
            "held_back_dice": self.best_metric if self.held_back_keys else None,
            "labelled_cases": sorted({case for case, _ in self.train_keys}),
            "data": data_hashes(self.data.split),
        }

    def cost(self) -> dict[str, Any]:
        """What the training cost, for ``cost.json``: unlike ``model.json`` it is never the same twice."""
        watch = self.stopwatch
        per_image = {step: seconds / max(watch.images[step], 1) for step, seconds in watch.seconds.items()}
        return {
            "train_minutes": round(self.budget.seconds / 60, 3),
            "minutes_allowed": self.budget.minutes,
            "seconds_per_image": per_image,
            "images": watch.images,
            "peak_memory_gib": round(peak_memory_gib(self.device), 3),
        }

    def has_own_architecture(self) -> bool:
        """Whether prediction needs this class to build the network."""
        return type(self).build_network_architecture is not Trainer.build_network_architecture

    def describe_data(self, folder: Path) -> None:
        """The plan, dataset.json and the fingerprint, into the folder of :func:`samdpo.training.manifest.trained`."""
        self.data.write_description(manifest.shared(folder), self.stage_name)
        copy_file(manifest.shared(folder) / PLANS, folder / PLANS)

    def starting_file(self) -> Path | None:
        """The file of weights that training starts from; None where they are published or drawn."""
        return self.pretrained_weights

    @torch.no_grad()
    def measure_confidence(self, keys: Sequence[SliceKey] | None = None) -> dict[str, float]:
        """Of each structure the confidence below which a person should look at a mask.

        Args:
            keys: slices to measure it on, by default :meth:`confidence_keys`; up to 64, evenly chosen, are looked at,
                prompted as new cases are, averaged with their mirror image where prediction does so.

        Returns:
            structure -> the 10th percentile of its confidence; a structure of which nothing was found is left out.
        """
        chosen = evenly(self.confidence_keys() if keys is None else keys, MOST_SLICES)
        found: dict[str, list[float]] = {}
        batch_size = self.stage.inference_batch_size
        for start in range(0, len(chosen), batch_size):
            of_views, chunk = [], chosen[start : start + batch_size]
            for view in (IDENTITY, FLIPPED) if self.plans.inference.mirror else (IDENTITY,):
                seen = [self.samples.sample(key, view, with_truth=False, as_new=True) for key in chunk]
                batch = self.samples.collate(seen)
                of_views.append(self.probabilities(batch))
            views = [of_views[0], *(probabilities.flip(-1) for probabilities in of_views[1:])]
            mean = torch.stack(views).mean(0).cpu().numpy()
            for name, probability in zip(self.structures_of(batch), mean):
                if (confidence := confidence_of(probability, self.mask_cut)) > 0:
                    found.setdefault(name, []).append(confidence)
        return confidence_thresholds(found)

    def structures_of(self, batch: Batch) -> list[str]:
        """The structure of each row of a batch's :meth:`probabilities`."""
        return [prompt.structure for sample in batch.samples for prompt in sample.prompts]

    def feature_cache(self, n_stages: int) -> FeatureCache:
        """What the frozen leading stages of the encoder make of this fold's slices, kept; -1 is the whole encoder."""
        return FeatureCache(self.network, n_stages, self.data, self.stage_name, self.precision, self.processes,
                            self.stage.inference_batch_size, self.stopwatch)

    # ---- stop and continue --------------------------------------------------------------------------------------

    def settings(self) -> dict[str, Any]:
        """Everything of the plan that a continued run must share with the one it continues."""
        shared = {"network": to_dict(self.plans.network), "prompting": to_dict(self.plans.prompting)}
        return {**self.stage.settings(), **shared}

    def changed_settings(self, before: Mapping[str, Any], every: bool = True) -> list[str]:
        """Names of the settings that were others before; see :func:`samdpo.training.checkpoints.changed_settings`.

        What the stage does not read is left out; older versions kept it. Keys of the network and of the prompts that
        they had not count as at their defaults where ``every`` key does, since these mean what there was before.
        """
        usual = {"network": to_dict(NetworkPlan()), "prompting": to_dict(PromptingPlan())} if every else {}
        whole = {name: {**usual.get(name, {}), **value} if name in usual else value for name, value in before.items()}
        read = keys_where({**LATER_STAGE_KEYS, **_as_json(whole)}, self.stage.reads)
        now = keys_where({**LATER_STAGE_KEYS, **_as_json(self.settings())}, self.stage.reads)
        return checkpoints.changed_settings(read, now, every)

    def check_settings(self, before: Mapping[str, Any]) -> None:
        """Refuse to continue with other settings than those a checkpoint was made with.

        Raises:
            TrainingError: names the settings that differ.
        """
        if changed := self.changed_settings(before):
            raise TrainingError(
                f"The checkpoint in {self.fold_folder} was made with other settings ({', '.join(changed)}). Continue "
                "with the settings it was started with, or start again without --c."
            )

    def made_of(self) -> manifest.MadeOf:
        """What the initialised trainer starts from; equal for two trainings that end with the same weights (on CPU).

        ``settings``; hashes ``start`` of the weights that it starts from and ``data`` of the cases; the key of its
        ``prompts``, which are those that it ends with.
        """
        if (known := self.begun) is None:
            split, file, there = self.data.split, self.starting_file(), self.data.slices.summaries()
            contents = {c: there[c].hash for c in {*split.labelled, *split.unlabelled} if c in there}
            known = {"start": content_hash(file) if file else "", "data": hash_of(data_hashes(split), contents)}
        return {**known, "settings": _as_json(self.settings()), "prompts": getattr(self.data.prompts, "key", None)}

    def check_begun(self, before: manifest.MadeOf) -> None:
        """Refuse to go on with a training that was begun from other weights; warn where its data has changed since.

        Args:
            before: what the training was begun with.

        Raises:
            TrainingError: the weights that it starts from are others now.
        """
        now = self.made_of()
        if before.get("start", now["start"]) != now["start"]:
            raise TrainingError(
                f"The training in {self.fold_folder} was begun from other weights than {self.starting_file()} holds "
                "now: they were trained or replaced since. Put those back, or start again without --c."
            )
        if before.get("data", now["data"]) != now["data"]:
            log.warning("Cases of fold %s, or their images, have changed since the training in %s was begun. It goes "
                        "on with them as they are now; train anew without --c for a result that can be repeated.",
                        self.data.fold, self.fold_folder)

    def save_checkpoint(self) -> None:
        """Write a checkpoint from which ``--c`` goes on bit for bit (on CPU)."""
        checkpoints.save_latest(self.fold_folder, self.current_epoch, self.network.state_dict(), self.state())

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds beside the network; a variant adds its own. Tensors, numbers, texts, lists, dicts."""
        return {
            "epoch": self.current_epoch, "optimizer": self.optimizer.state_dict(), "history": self.run_log.history,
            "best_metric": self.best_metric, "mask_cut": self.mask_cut, "settings": self.settings(),
            "computed_seconds": self.budget.seconds, "scaler": self.scaler.state_dict(),
            "processes": self.processes.world, "begun": hash_of(self.begun), "warm_steps": self.warm_steps,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state` gave."""
        self.optimizer.load_state_dict(state["optimizer"])
        if state.get("scaler"):  # empty where the training went on in another precision than float16
            self.scaler.load_state_dict(state["scaler"])
        self.current_epoch, self.best_metric = int(state["epoch"]), float(state["best_metric"])
        self.mask_cut, self.budget.seconds = state["mask_cut"], state.get("computed_seconds", 0.0)
        self.warm_steps = state.get("warm_steps", 0)
        self.run_log = RunLog(self.fold_folder, dict(state["history"]), writes=self.processes.is_main)

    def load_checkpoint(self) -> bool:
        """Go on from the newest checkpoint of the fold; False when there is none.

        Raises:
            TrainingError: the checkpoint was made with other settings.
            ModelFolderError: it is damaged.
        """
        if (found := checkpoints.load_latest(self.fold_folder)) is None:
            return False
        weights, state = found
        if self.begun is not None and state.get("begun", hash_of(self.begun)) != hash_of(self.begun):
            return False  # of a training before, which was about to be removed when the process ended
        try:
            self.check_settings(state["settings"])
            load_into(self.network, weights, "the resumable checkpoint")
            self.load_state(state)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ModelFolderError(
                f"The state in {self.fold_folder / checkpoints.LATEST} is none of this training's "
                f"({type(error).__name__}: {error}). Start the training again without --c."
            ) from error
        if "begun" not in state and self.processes.is_main:
            _take_over_best(self.fold_folder)
        before, now = state.get("processes", 1), self.processes.world
        if before != now:
            log.warning("%s was begun with %d processes and goes on with %d: a step sees %d slices instead of %d.",
                        self.fold_folder, before, now, now * self.stage.batch_size, before * self.stage.batch_size)
        log.info("Continuing %s after epoch %d.", self.fold_folder, self.current_epoch)
        return True

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
        return validate_fold(self.predictor(), self.data, self.folder, save_probabilities)

    def predictor(self) -> Predictor:
        """What predicts with the fold's model: the network in memory where it was trained here, else that on disk."""
        if self.description is None:
            return Predictor.from_model_folder(self.folder, [self.data.fold], device=str(self.device))
        trained = FoldModel(self.network.eval(), self.data.prompter, self.description)
        return Predictor.of(self.plans, [trained], self.device)


def _as_json(settings: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(dict(settings)))


def _take_over_best(fold: Path) -> None:
    """An older version kept the best epoch of a training that is not finished beside the final weights."""
    best = fold / checkpoints.BEST
    if best.is_file() and not (fold / checkpoints.FINAL).is_file():
        copy_file(best, fold / checkpoints.LATEST / checkpoints.BEST)
