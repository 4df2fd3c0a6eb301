"""A SAM-type network with text prompts: image encoder, prompt encoder, mask decoder, text projection."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from samdpo.networks.decoding import decode_masks
from samdpo.networks.encoder_parts import run_prefix, run_suffix
from samdpo.networks.precision import decoder_autocast
from samdpo.networks.prompt_batch import PromptBatch

TEXT_INIT_STD = 0.02  # a text token of norm 0.4 beside box tokens of norm 11: pretrained behaviour hardly moves

# SAM's mean and standard deviation of R, G, B in [0, 255] (segment_anything/build_sam.py); MobileSAM's and
# SAM-Med2D's too.
SAM_PIXEL_MEAN = (123.675, 116.28, 103.53)
SAM_PIXEL_STD = (58.395, 57.12, 57.375)


class SliceInput(nn.Module):
    """Resamples slices and normalises them; nothing of it is in the state dict.

    Args:
        size: side of the encoder's input in pixels.
        mean: of each channel on the scale [0, 255]; None leaves values in [0, 1], as MedSAM and LiteMedSAM want them.
        std: of each channel on the same scale.
    """

    def __init__(
        self,
        size: int,
        mean: tuple[float, float, float] | None = None,
        std: tuple[float, float, float] | None = None,
    ) -> None:
        super().__init__()
        self.size = size
        self.normalizes = mean is not None and std is not None
        if self.normalizes:
            for name, values in (("mean", mean), ("std", std)):
                self.register_buffer(name, torch.tensor(values).view(3, 1, 1) / 255, persistent=False)

    def forward(self, slices: torch.Tensor) -> torch.Tensor:
        """Slices (B, 3, H, W) in [0, 1] -> (B, 3, size, size)."""
        images = resampled(slices, (self.size, self.size))
        return (images - self.mean) / self.std if self.normalizes else images


def resampled(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """(B, C, H, W) -> (B, C, *size), bilinear, smoothed where it shrinks; as it is where the size is right."""
    if images.shape[-2:] == torch.Size(size):
        return images
    shrinks = images.shape[-1] > size[1]
    # Not every version of mps has antialiased interpolation.
    at = torch.device("cpu") if shrinks and images.device.type == "mps" else images.device
    return F.interpolate(images.to(at), size=size, mode="bilinear", align_corners=False, antialias=shrinks).to(
        images.device
    )


class SamNetwork(nn.Module):
    """SAM's three modules under SAM's names, and one linear layer that turns a text embedding into a prompt token.

    Slices are (H, W) pixels, whatever size the encoder works at: they are resampled on the way in, prompts are counted
    in their pixels, and logits come back in their size. That size is the one of ``PromptBatch.mask_logits``.

    BatchNorm stays in eval mode in :meth:`train`: batches of two slices would ruin the published statistics.

    Args:
        image_encoder: what ``slice_input`` gives -> (B, C, h, w); see :mod:`samdpo.networks.encoder_parts`.
        prompt_encoder: SAM's ``PromptEncoder``.
        mask_decoder: SAM's ``MaskDecoder``.
        text_dim: D of the text embeddings.
        slice_input: resamples and normalises slices; default: to the prompt encoder's input size, values as they are.
    """

    decoder_precision = "fp32"  # in which a GPU decodes; whoever runs the network sets it

    def __init__(
        self,
        image_encoder: nn.Module,
        prompt_encoder: nn.Module,
        mask_decoder: nn.Module,
        text_dim: int,
        slice_input: SliceInput | None = None,
    ) -> None:
        super().__init__()
        self.slice_input = slice_input or SliceInput(prompt_encoder.input_image_size[0])
        self.image_encoder = image_encoder
        self.prompt_encoder = prompt_encoder
        self.mask_decoder = mask_decoder
        self.text_projection = nn.Linear(text_dim, prompt_encoder.embed_dim)
        nn.init.normal_(self.text_projection.weight, std=TEXT_INIT_STD)
        nn.init.zeros_(self.text_projection.bias)
        self.train(self.training)

    @property
    def input_size(self) -> tuple[int, int]:
        """(H, W) of what the image encoder sees, pixels."""
        return tuple(self.prompt_encoder.input_image_size)

    @property
    def embedding_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of one image's embedding."""
        return (self.prompt_encoder.embed_dim, *self.prompt_encoder.image_embedding_size)

    def train(self, mode: bool = True) -> SamNetwork:
        """Training or eval mode; BatchNorm stays in eval mode always."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def forward(self, images: torch.Tensor, batch: PromptBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Slices (B, 3, H, W) in [0, 1] and N prompts -> logits (N, H, W), quality (N,)."""
        return self.decode(self.encode_image(images), batch)

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        """Slices (B, 3, H, W) in [0, 1] -> embeddings (B, C, h, w)."""
        return self.image_encoder(self.slice_input(images))

    def encode_prefix(self, images: torch.Tensor, n_parts: int) -> torch.Tensor:
        """What the first ``n_parts`` parts of the encoder make of slices (B, 3, H, W); -1 is the whole encoder."""
        return run_prefix(self.image_encoder, self.slice_input(images), n_parts)

    def encode_suffix(self, activations: torch.Tensor, n_parts: int) -> torch.Tensor:
        """From the output of :meth:`encode_prefix` with the same ``n_parts`` to embeddings (B, C, h, w)."""
        return run_suffix(self.image_encoder, activations, n_parts, self.embedding_shape[1:])

    def encode_prompts(self, batch: PromptBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Prompt tokens and dense prompts.

        Returns:
            sparse (N, T, C) with T = P + 2K + 1 always: points, two corners a box, text; what is missing is SAM's
            ``not_a_point_embed``, and :meth:`token_valid` says which tokens the decoder may see;
            dense (N, C, h, w): the downscaled mask logits, SAM's ``no_mask_embed`` where there are none; (1, C, h, w)
            where no prompt has any and no gradient is wanted.
        """
        encoder, k = self.prompt_encoder, batch.boxes.shape[1]
        outside, inside, *corners = (encoder.point_embeddings[i].weight for i in range(4))
        if batch.points_inside is not None:
            inside = torch.where(batch.points_inside[..., None], inside, outside)
        size = batch.slice_size
        points = self._positions(batch.points, size) + inside
        boxes = self._positions(batch.boxes.unflatten(-1, (2, 2)).flatten(1, 2), size) + torch.cat(corners).repeat(k, 1)
        text = self.text_projection(batch.text)
        sparse = torch.cat([points, boxes, text[:, None]], dim=1)
        sparse = torch.where(given_tokens(batch)[..., None], sparse, encoder.not_a_point_embed.weight)
        no_mask = encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        if not torch.is_grad_enabled() and not bool(batch.mask_valid.any()):  # a third of the time of a box alone
            return sparse, no_mask.expand(-1, -1, *encoder.image_embedding_size)
        # Zeros where invalid: a NaN there would reach the gradients through torch.where.
        logits = batch.mask_logits.masked_fill(~batch.mask_valid[:, None, None], 0.0)
        dense = encoder.mask_downscaling(resampled(logits[:, None], encoder.mask_input_size))
        return sparse, torch.where(batch.mask_valid[:, None, None, None], dense, no_mask)

    @staticmethod
    def token_valid(batch: PromptBatch) -> torch.Tensor:
        """Which tokens of :meth:`encode_prompts` the decoder may see, (N, T) bool.

        As in SAM, points without any box are followed by one padding token; nothing else is padded.
        """
        valid = given_tokens(batch)
        if batch.boxes.shape[1]:
            padded = batch.points_valid.any(1) & ~batch.boxes_valid.any(1)
            valid[:, batch.points.shape[1]] |= padded
        return valid

    def decode(
        self, embeddings: torch.Tensor, batch: PromptBatch, grid: int = 0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Masks of N prompts of B images in one pass.

        Args:
            embeddings: (B, C, h, w) from :meth:`encode_image`.
            batch: prompts; ``image_index`` counts in ``embeddings``.
            grid: sides that a larger embedding is averaged to before it is decoded: a quarter of the work at half the
                sides, for a coarser border; 0 leaves it as it is.

        Returns:
            logits (N, H, W) before the sigmoid; predicted IoU (N,).
        """
        sparse, dense = self.encode_prompts(batch)
        positions = self.prompt_encoder.get_dense_pe()
        alike = len(embeddings) == 1 and len(dense) == 1  # one image, no mask prompt
        image = (embeddings if alike else embeddings[batch.image_index]) + dense
        if 0 < grid < min(image.shape[-2:]):
            image = F.adaptive_avg_pool2d(image, grid)
            positions = self.prompt_encoder.pe_layer((grid, grid))[None]
        # Prompts stay outside: the angles of their positions need more than bfloat16's 8 bits.
        with decoder_autocast(image.device, self.decoder_precision):
            logits, quality = decode_masks(self.mask_decoder, image, positions, sparse, self.token_valid(batch))
        return resampled(logits.float()[:, None], batch.slice_size)[:, 0], quality.float()

    def _positions(self, pixels: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Position embeddings (N, M, C) of (N, M, 2) pixel indices x, y of a slice of ``size`` (H, W).

        SAM counts from the pixel's centre and divides by the size, so that the encoder's own input size does not enter.
        """
        return self.prompt_encoder.pe_layer.forward_with_coords(pixels + 0.5, size)


def given_tokens(batch: PromptBatch) -> torch.Tensor:
    """(N, P + 2K + 1) bool: tokens for which the batch has a point, a box corner or a text."""
    return torch.cat(
        [batch.points_valid, batch.boxes_valid.repeat_interleave(2, dim=1), batch.text_valid[:, None]], dim=1
    )
