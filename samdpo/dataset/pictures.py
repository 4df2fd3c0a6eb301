"""PNG, BMP and TIFF, bit depth by bit depth: nothing is clipped to 8 bits, alpha is dropped, palettes are resolved."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from samdpo.errors import DatasetError

_PNG = b"\x89PNG\r\n\x1a\n"


def read_picture(path: Path) -> np.ndarray:
    """(C, Z, Y, X) in the file's own depth; C is 1 or 3, Z > 1 for a TIFF of several pages.

    Raises:
        DatasetError: truncated, unreadable, or a JPEG under another name.
    """
    pixels, palette = _decode(path)
    if palette is not None:
        pixels = palette[pixels]  # (1, Y, X) of indices -> (1, Y, X, 3)
    return np.moveaxis(_without_alpha(pixels), -1, 0)


def read_label_picture(path: Path) -> np.ndarray:
    """(Z, Y, X) of label values.

    A palette of colours is a drawing of classes: the indices are the values. A palette of greys is a grey picture
    that some program packed: its greys are the values, since packing may renumber the indices.
    """
    pixels, palette = _decode(path)
    if palette is not None:
        used = palette[np.unique(pixels)]
        if (used == used[:, :1]).all():
            return palette[pixels][..., 0]
        return pixels
    if pixels.ndim == 3:
        return pixels
    colours = _without_alpha(pixels)
    if colours.shape[-1] == 3:
        different = (colours != colours[..., :1]).any(axis=-1)
        if different.any():
            example = tuple(int(v) for v in colours[different][0])
            raise DatasetError(
                f"{path} is a colour picture (for example {example}); a label holds one whole number a pixel. Save "
                "the numbers of dataset.json's labels as an 8-bit grey PNG."
            )
    return colours[..., 0]


def write_picture(values: np.ndarray, path: Path) -> None:
    """Write (Z, Y, X) uint8 or uint16; Z is 1 but for TIFF."""
    if path.suffix.lower() in (".tif", ".tiff"):
        import tifffile

        pages = values if len(values) > 1 else values[0]
        tifffile.imwrite(path, pages, compression="zlib", photometric="minisblack")  # else 3 pages become RGB
        return
    from PIL import Image

    Image.fromarray(values[0]).save(path)


def _decode(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Pixels (Z, Y, X) or (Z, Y, X, channels), and the palette (256, 3) where pixels are indices."""
    try:
        with path.open("rb") as file:
            head = file.read(64)
        if head[:3] == b"\xff\xd8\xff":
            raise DatasetError(f"{path} is a JPEG under another name, and JPEG is lossy. Save the original as PNG.")
        if path.suffix.lower() in (".tif", ".tiff"):
            return _decode_tiff(path), None
        if head[:8] == _PNG and len(head) >= 26:
            depth, colour_type = struct.unpack(">BB", head[24:26])
            if depth == 16 and colour_type != 0:
                # PIL cuts 16-bit colour (and grey with alpha) down to 8 bits without a word.
                import imagecodecs

                pixels = np.asarray(imagecodecs.png_decode(path.read_bytes()))
                return pixels[None], None
        return _decode_with_pil(path)
    except DatasetError:
        raise
    except Exception as error:  # the decoders raise OSError, SyntaxError, struct.error, their own classes, …
        raise DatasetError(
            f"{path} cannot be read ({type(error).__name__}: {error}). The file is damaged or cut off: copy it again "
            "from its source."
        ) from error


def _decode_with_pil(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    from PIL import Image

    with Image.open(path) as picture:
        picture.load()
        if picture.mode == "P":
            colours = np.array(picture.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)
            palette = np.zeros((256, 3), np.uint8)
            palette[: len(colours)] = colours
            return np.asarray(picture)[None], palette
        if picture.mode == "1":
            return np.asarray(picture).astype(np.uint8)[None], None
        if picture.mode not in ("L", "LA", "RGB", "RGBA", "I", "I;16", "I;16B", "I;16L", "F"):
            picture = picture.convert("RGB")
        pixels = np.asarray(picture)
        if pixels.dtype.byteorder == ">":
            pixels = pixels.astype(pixels.dtype.newbyteorder("="))
        return pixels[None], None


def _decode_tiff(path: Path) -> np.ndarray:
    """Grey pages -> (Z, Y, X), colour -> (Z, Y, X, channels)."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        series = file.series[0]
        page = file.pages[0]
        if page.photometric == tifffile.PHOTOMETRIC.PALETTE:
            raise DatasetError(f"{path} is a palette TIFF, which is not read. Save it as grey TIFF or as PNG.")
        if "JPEG" in page.compression.name:
            raise DatasetError(f"{path} is a TIFF with JPEG compression, which is lossy. Save the original lossless.")
        pixels, axes = series.asarray(), series.axes
    inverted = page.photometric == tifffile.PHOTOMETRIC.MINISWHITE
    if inverted and np.issubdtype(pixels.dtype, np.integer):
        pixels = np.iinfo(pixels.dtype).max - pixels
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8)
    if axes.endswith("S"):
        return pixels[None] if pixels.ndim == 3 else pixels.reshape(-1, *pixels.shape[-3:])
    if axes.startswith("S"):  # channels apart: (S, Y, X)
        return np.moveaxis(pixels, 0, -1)[None]
    pixels = pixels[None] if pixels.ndim == 2 else pixels
    if pixels.ndim != 3:
        raise DatasetError(f"{path} has the axes {axes} with shape {pixels.shape}; expected one picture or one stack.")
    return pixels


def _without_alpha(pixels: np.ndarray) -> np.ndarray:
    """(Z, Y, X[, channels]) -> (Z, Y, X, 1 or 3)."""
    if pixels.ndim == 3:
        return pixels[..., None]
    return pixels[..., : {1: 1, 2: 1, 3: 3}.get(pixels.shape[-1], 3)]
