"""PNG, BMP and TIFF, bit depth by bit depth: nothing is clipped to 8 bits, alpha is dropped, palettes are resolved.

A file is decoded by what it holds, not by its ending, and only after its header said how large it is. Pages and frames
are never dropped: several are one stack, or the picture is refused.
"""

from __future__ import annotations

import logging
import struct
import threading
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from samdpo.dataset.decoding import DAMAGED, check_size, decoding
from samdpo.errors import DatasetError

if TYPE_CHECKING:
    import tifffile
    from PIL import Image

_PNG, _BMP = b"\x89PNG\r\n\x1a\n", b"BM"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two are BigTIFF
_LOSSY = {
    "JPEG": (b"\xff\xd8\xff",),
    "JPEG 2000": (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"),
}
_DEFLATE = 1032  # bytes that one byte of a PNG can hold at most
_FLOAT32_EXACT = 2**24  # whole numbers up to here are distinct as float32
_LEVELS = 256  # that an image must keep when it becomes float32
_MODES = ("L", "LA", "RGB", "RGBA", "I", "I;16", "I;16B", "I;16L", "F")  # of PIL, taken as they are


def read_picture(path: Path) -> np.ndarray:
    """(C, Z, Y, X) in the file's own depth; C is 1 or 3, Z > 1 for a TIFF of several pages.

    Raises:
        DatasetError: truncated, unreadable, too large, a JPEG under another name, pages that are no stack, or whole
            numbers that 32-bit floats cannot tell apart.
    """
    pixels, palette = _decode(path)
    if palette is not None:
        pixels = palette[pixels]  # (1, Y, X) of indices -> (1, Y, X, 3)
    pixels = np.moveaxis(_without_alpha(pixels), -1, 0)
    if pixels.dtype.kind in "iu" and pixels.dtype.itemsize > 2:
        low, high = int(pixels.min()), int(pixels.max())
        largest = max(abs(low), abs(high))
        if largest > _FLOAT32_EXACT and high > low and _LEVELS * float(np.spacing(np.float32(largest))) > high - low:
            raise DatasetError(
                f"{path} holds whole numbers from {low} to {high}, which 32-bit floats cannot tell apart. Subtract "
                f"{low} from its pixels and save it again."
            )
    return pixels


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


def lossy_kind(path: Path) -> str:
    """What lossy format a file is by its first bytes, whatever its name: JPEG, JPEG 2000, WebP; "" for any other.

    Raises:
        OSError: it may not be read.
    """
    with path.open("rb") as file:
        head = file.read(16)
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    return next((kind for kind, marks in _LOSSY.items() if head.startswith(marks)), "")


def upright_picture(path: Path) -> Image.Image:
    """A JPEG, JPEG 2000 or WebP as PIL's picture of grey or RGB, turned as its camera's rotation mark says.

    People draw masks on what their screen shows.

    Raises:
        DatasetError: damaged, too large, or an animation.
    """
    from PIL import Image, ImageOps, Jpeg2KImagePlugin, JpegImagePlugin, WebPImagePlugin

    kinds = {
        "JPEG": JpegImagePlugin.JpegImageFile, "JPEG 2000": Jpeg2KImagePlugin.Jpeg2KImageFile,
        "WebP": WebPImagePlugin.WebPImageFile,
    }
    with decoding(path), path.open("rb") as file:
        kind = lossy_kind(path)
        try:
            picture = kinds[kind](file) if kind else _opened(path, file)
            check_size(path, (picture.height, picture.width, len(picture.getbands())))
            _refuse_frames(path, picture)
            upright = ImageOps.exif_transpose(picture)
        except Image.DecompressionBombError as error:
            raise _too_large(path, error) from error
        return upright if upright.mode in ("L", "RGB", "I;16") else upright.convert("RGB")


def _decode(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Pixels (Z, Y, X) or (Z, Y, X, channels), and the palette (256, 3) where pixels are indices."""
    with decoding(path):
        lossy = lossy_kind(path)
        if lossy:
            raise DatasetError(
                f"{path} is a {lossy} under another name, and {lossy} is lossy. Save the original as PNG."
            )
        with path.open("rb") as file:
            head = file.read(64)
            file.seek(0)
            if head.startswith(_TIFF):
                return _decode_tiff(path), None
            if head.startswith(_PNG):
                return _decode_png(path, file, head)
            from PIL import BmpImagePlugin

            picture = BmpImagePlugin.BmpImageFile(file) if head.startswith(_BMP) else _opened(path, file)
            return _decode_with_pil(path, picture)


def _opened(path: Path, file: BinaryIO) -> Image.Image:
    """A picture of a format that is seldom met, within PIL's own bound of its size."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(file)
    except Image.DecompressionBombError as error:
        raise _too_large(path, error) from error


def _too_large(path: Path, error: Exception) -> DatasetError:
    return DatasetError(f"{path} is too large ({error}). Save it as PNG or TIFF.")


def _decode_png(path: Path, file: BinaryIO, head: bytes) -> tuple[np.ndarray, np.ndarray | None]:
    from PIL import PngImagePlugin

    width, height, depth, colour_type = struct.unpack(">IIBB", head[16:26])
    channels, size = {2: 3, 4: 2, 6: 4}.get(colour_type, 1), path.stat().st_size
    check_size(path, (height, width, channels))
    if width * height * channels * depth // 8 > _DEFLATE * size:
        raise DatasetError(f"{path} cannot be read ({size} bytes cannot hold {width} x {height} pixels). {DAMAGED}")
    # The class itself, since PIL's own bound stands in Image.open: it refuses sound films of 13500 x 13500.
    picture = PngImagePlugin.PngImageFile(file)
    _refuse_frames(path, picture)
    if depth == 16 and colour_type != 0:
        # PIL cuts 16-bit colour (and grey with alpha) down to 8 bits without a word.
        import imagecodecs

        return np.asarray(imagecodecs.png_decode(path.read_bytes()))[None], None
    return _decode_with_pil(path, picture)


def _decode_with_pil(path: Path, picture: Any) -> tuple[np.ndarray, np.ndarray | None]:
    check_size(path, (picture.height, picture.width, len(picture.getbands())))
    _refuse_frames(path, picture)
    picture.load()
    if picture.mode == "P":
        colours = np.array(picture.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)
        palette = np.zeros((256, 3), np.uint8)
        palette[: len(colours)] = colours
        return np.asarray(picture)[None], palette
    if picture.mode == "1":
        return np.asarray(picture).astype(np.uint8)[None], None
    pixels = np.asarray(picture if picture.mode in _MODES else picture.convert("RGB"))
    if pixels.dtype.byteorder == ">":
        pixels = pixels.astype(pixels.dtype.newbyteorder("="))
    return pixels[None], None


def _refuse_frames(path: Path, picture: Any) -> None:
    frames = getattr(picture, "n_frames", 1)
    if frames > 1:
        raise DatasetError(
            f"{path} holds {frames} frames (an animation); one picture is expected. Save each frame as a file of its "
            "own, or all as the pages of a TIFF."
        )


def _decode_tiff(path: Path) -> np.ndarray:
    """Grey pages -> (Z, Y, X), colour -> (Z, Y, X, channels)."""
    import tifffile

    with _complaints(path), tifffile.TiffFile(path) as file:
        pages = _full_pages(path, list(file.pages))
        for page in pages:
            _refuse_layout(path, page)
        if any(one.is_multifile or None in list(one.pages) for one in file.series):
            raise DatasetError(
                f"{path} is a part of a picture of several files (OME-TIFF), and other files are not read. Save the "
                "picture as one file."
            )
        series = [one for one in file.series if one.keyframe.subfiletype & 0b101 == 0]
        whole = len(series) == 1 and len(pages) <= len(series[0].pages)
        if whole and len({page.photometric for page in pages}) == 1:
            check_size(path, series[0].shape)
            pixels, axes = _white_up(path, series[0].asarray(), pages[0]), series[0].axes
        else:
            _refuse_different_pages(path, pages)
            check_size(path, (len(pages), *pages[0].shape))
            pixels = np.stack([_white_up(path, page.asarray(), page) for page in pages])
            axes = f"Z{pages[0].axes}" if len(pages) > 1 else pages[0].axes
            pixels = pixels if len(pages) > 1 else pixels[0]
    check_size(path, pixels.shape)  # a broken tag leaves none, whatever the header's shape
    if "S" in axes:  # channels; apart, as in (S, Y, X), or beside each other
        pixels = np.moveaxis(pixels, axes.index("S"), -1)
        if pixels.ndim in (3, 4):
            return pixels[None] if pixels.ndim == 3 else pixels
    elif pixels.ndim in (2, 3):
        return pixels[None] if pixels.ndim == 2 else pixels
    raise DatasetError(f"{path} has the axes {axes} with shape {pixels.shape}; expected one picture or one stack.")


@contextmanager
def _complaints(path: Path) -> Iterator[None]:
    """Raise what tifffile only logs: a chain of pages that leads out of the file, whose rest it would drop."""
    found: list[str] = []

    class Listen(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.thread == threading.get_ident():
                found.append(record.getMessage())

    theirs, listen = logging.getLogger("tifffile"), Listen(logging.ERROR)
    theirs.addHandler(listen)
    try:
        yield
    finally:
        theirs.removeHandler(listen)
    if found:
        raise DatasetError(f"{path} cannot be read ({found[0]}). {DAMAGED}")


def _full_pages(path: Path, pages: Sequence[tifffile.TiffPage]) -> list[tifffile.TiffPage]:
    """Without the smaller copies (thumbnails, levels of a pyramid) and the transparency masks that a file marks."""
    full = [page for page in pages if not (page.is_reduced or page.is_mask)]
    if not pages:
        raise DatasetError(f"{path} cannot be read (it has no page). {DAMAGED}")
    if not full:
        raise DatasetError(f"{path} holds nothing but thumbnails or transparency masks. Export the picture itself.")
    for page in full:
        for inner in page.pages or ():
            marked = inner.is_reduced or inner.is_mask
            if not marked and inner.imagewidth * inner.imagelength >= page.imagewidth * page.imagelength:
                raise DatasetError(
                    f"{path} holds a picture of {inner.imagewidth} x {inner.imagelength} inside a page (a sub-IFD), "
                    "which is not read. Save each picture as a file of its own."
                )
    return full


def _refuse_different_pages(path: Path, pages: Sequence[tifffile.TiffPage]) -> None:
    kinds = Counter(f"{' x '.join(map(str, page.shape))} ({page.axes}) {page.dtype}" for page in pages)
    if len(kinds) > 1:
        found = ", ".join(f"{number} of {kind}" for kind, number in kinds.most_common(5))
        raise DatasetError(
            f"{path} holds {len(pages)} pages that are no stack, since they differ: {found}. Save each as a file of "
            "its own, or remove what does not belong to the picture."
        )


def _refuse_layout(path: Path, page: tifffile.TiffPage) -> None:
    """What would be read as other colours, or with losses."""
    import tifffile

    kinds = tifffile.PHOTOMETRIC
    if "JPEG" in page.compression.name or "WEBP" in page.compression.name:
        raise DatasetError(
            f"{path} is a TIFF with {page.compression.name} compression, which is lossy. Save the original lossless."
        )
    if page.photometric == kinds.PALETTE:
        raise DatasetError(f"{path} is a palette TIFF, which is not read. Save it as grey TIFF or as PNG.")
    grey = page.photometric in (kinds.MINISBLACK, kinds.MINISWHITE)
    if not grey and page.photometric != kinds.RGB:
        raise DatasetError(
            f"{path} is a TIFF of the colours {getattr(page.photometric, 'name', page.photometric)}; grey and RGB are "
            "read. Save it as one of them."
        )
    colours, extra = (1 if grey else 3), page.samplesperpixel - (1 if grey else 3)
    alpha = len(page.extrasamples) == extra and all(int(sample) in (1, 2) for sample in page.extrasamples)
    apart = page.planarconfig == tifffile.PLANARCONFIG.SEPARATE  # as programs write planes that are no colours
    if extra > 1 or (extra == 1 and not alpha and (grey or apart)):
        raise DatasetError(
            f"{path} holds {page.samplesperpixel} channels a pixel; {colours} and transparency are read. Save each "
            "channel as a file of its own: _0000, _0001, …"
        )


def _white_up(path: Path, pixels: np.ndarray, page: tifffile.TiffPage) -> np.ndarray:
    """Pixels of one page with white as the highest value; 1-bit pages as 0 and 1.

    The standard says which number is black where 0 is white: the highest that the bits of a sample hold. Of signed
    numbers and floats it says nothing, and programs differ.
    """
    import tifffile

    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8)
    if page.photometric != tifffile.PHOTOMETRIC.MINISWHITE:
        return pixels
    if pixels.dtype.kind != "u":
        raise DatasetError(
            f"{path} is a TIFF that calls 0 white (PhotometricInterpretation 0) and holds {pixels.dtype} numbers, for "
            "which the format does not say what black is. Save it with PhotometricInterpretation 1 (black is zero)."
        )
    return pixels.dtype.type(2 ** int(page.bitspersample) - 1) - pixels


def _without_alpha(pixels: np.ndarray) -> np.ndarray:
    """(Z, Y, X[, channels]) -> (Z, Y, X, 1 or 3)."""
    if pixels.ndim == 3:
        return pixels[..., None]
    return pixels[..., : {1: 1, 2: 1, 3: 3}.get(pixels.shape[-1], 3)]
