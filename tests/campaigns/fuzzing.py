"""Files from outside, changed at random by hypothesis: a reader gives its content or a sentence, and nothing else.

Every function takes a folder to write in and the number of examples, and gives ``{"tried": …, "refused": …}``. What is
tried is the same in every run.
"""

from __future__ import annotations

import base64
import io
import json
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir

from samdpo.errors import ConfigurationError, SamdpoError

EXTREMES = [0, 1, 2, 127, 128, 255, 256, 32767, 32768, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1]
TEXTS = st.sampled_from(["", ".", "..", "../x", "/x", "a/b", "x" * 300, "\x00", "\ud800", "é", "NaN", "1e999", "-1",
                         "canary_module:Canary", "background", "case_0000"])
NUMBERS = st.one_of(st.integers(-3, 3), st.sampled_from([10**30, -(10**30), 2**63, 1e308, float("nan"), float("inf")]),
                    st.floats(-2, 2))
VALUES = st.recursive(st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
                      lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
                      max_leaves=6)
SIZE = (5, 6)  # of pictures; volumes have 3 such slices
Fuzzed = tuple[list[Any], st.SearchStrategy[Any], Callable[[Any], None]]  # sound examples, changed ones, the reader
WORDS = st.sampled_from([b"0", b"-1", b"1", b"2", b"5", b"99999", b"2147483647", b"4294967296", b"1e30", b"nan", b"x",
                         b"", b"../x", b"/etc/passwd", b"LOCAL", b"gzip", b"bzip2", b"raw", b"float", b"True"])


def run(kind: str, folder: str, examples: int) -> dict[str, Any]:
    """Fuzz one kind of file."""
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    set_hypothesis_home_dir(place / "hypothesis")
    sound, strategy, read = READERS[kind](place)
    for example in sound:
        read(example)  # else everything would be refused
    counts: Counter[str] = Counter()

    @settings(max_examples=examples, derandomize=True, database=None, deadline=None,
              suppress_health_check=list(HealthCheck))
    @given(strategy)
    def every(example: Any) -> None:
        counts["tried"] += 1
        try:
            read(example)
        except SamdpoError as error:
            assert str(error).strip(), "an error without a sentence"
            counts["refused"] += 1

    every()
    return {"tried": counts["tried"], "refused": counts["refused"]}


# ---- bytes ----------------------------------------------------------------------------------------------------------


def _changed(base: bytes) -> st.SearchStrategy[bytes]:
    """``base`` with bytes flipped, with extremes in its fields of 2, 4 and 8 bytes, cut off, or with more behind."""
    at = st.one_of(st.integers(0, min(len(base), 400) - 1), st.integers(0, len(base) - 1))  # headers stand in front
    field = st.tuples(at, st.sampled_from([1, 2, 4, 8]), st.sampled_from(EXTREMES), st.sampled_from(["little", "big"]))

    def change(fields: list[tuple], cut: int | None, more: bytes) -> bytes:
        made = bytearray(base)
        for place, size, value, order in fields:
            made[place : place + size] = (value % 256**size).to_bytes(size, order)
        return bytes(made[: len(base)][:cut]) + more

    return st.builds(change, st.lists(field, max_size=3), st.none() | st.integers(0, len(base)),
                     st.just(b"") | st.binary(max_size=9))


def _changed_words(base: bytes, end: int) -> st.SearchStrategy[bytes]:
    """A text header of ``end`` bytes with other words in it."""
    lines = base[:end].split(b"\n")

    def change(where: list[tuple[int, int, bytes]]) -> bytes:
        made = [line.split(b" ") for line in lines]
        for line, word, new in where:
            words = made[line % len(made)]
            words[word % len(words)] = new
        return b"\n".join(b" ".join(words) for words in made) + base[end:]

    return st.builds(change, st.lists(st.tuples(st.integers(0, 40), st.integers(0, 9), WORDS), min_size=1, max_size=3))


def _picture(kind: str) -> list[bytes]:
    import tifffile
    from PIL import Image

    grey = np.arange(SIZE[0] * SIZE[1], dtype=np.uint8).reshape(SIZE)
    arrays = [grey, grey.astype(np.uint16) * 257, np.stack([grey] * 3, -1)]
    made = []
    for array in arrays:
        file = io.BytesIO()
        if kind == "png" and array.dtype == np.uint16 and array.ndim == 3:
            continue
        if kind == "tif":
            tifffile.imwrite(file, array, photometric="rgb" if array.ndim == 3 else "minisblack")
        elif not (kind == "bmp" and array.dtype == np.uint16):
            Image.fromarray(array).save(file, kind)
        if file.getvalue():
            made.append(file.getvalue())
    if kind == "tif":
        file = io.BytesIO()
        tifffile.imwrite(file, np.stack([grey] * 3), photometric="minisblack", compression="zlib")
        made.append(file.getvalue())
    if kind == "png":
        import imagecodecs

        made.append(imagecodecs.png_encode(np.stack([grey.astype(np.uint16)] * 3, -1)))
    return made


def _pictures(kind: str) -> Callable[[Path], Fuzzed]:
    def made(folder: Path) -> Fuzzed:
        sound = _picture(kind)
        return sound, st.one_of([_changed(base) for base in sound]), _reads_image(folder / f"fuzzed_0000.{kind}")

    return made


def _reads_image(file: Path) -> Callable[[bytes], None]:
    from samdpo.dataset.images import read_image, read_label

    def read(content: bytes) -> None:
        file.write_bytes(content)
        refused = None
        for reader in (read_label, read_image):
            try:
                reader(file)
            except SamdpoError as error:
                refused = error
        if refused:
            raise refused

    return read


def _volumes(ending: str) -> Callable[[Path], Fuzzed]:
    def made(folder: Path) -> Fuzzed:
        import SimpleITK as sitk  # noqa: N813

        image = sitk.GetImageFromArray(np.arange(3 * SIZE[0] * SIZE[1], dtype=np.int16).reshape(3, *SIZE))
        image.SetSpacing((0.8, 0.9, 3.0))
        sitk.WriteImage(image, str(folder / f"base{ending}"))
        base = (folder / f"base{ending}").read_bytes()
        strategy = _changed(base)
        if ending in (".nrrd", ".mha"):
            end = base.index(b"\n\n") if ending == ".nrrd" else base.index(b"LOCAL") + 5
            strategy = st.one_of(strategy, _changed_words(base, end), _changed_words(base, end))
        return [base], strategy, _reads_image(folder / f"fuzzed_0000{ending}")

    return made


def _zipped_nifti(folder: Path) -> Fuzzed:
    import gzip

    sound, strategy, _ = _volumes(".nii")(folder)
    read = _reads_image(folder / "fuzzed_0000.nii.gz")
    return sound, strategy, lambda content: read(gzip.compress(content, 1))


def _dicom(folder: Path) -> Fuzzed:
    from dicom_series import make_series

    from samdpo.dataset.cases import input_cases
    from samdpo.dataset.images import read_image

    files = make_series(folder / "series", np.arange(3 * 30).reshape(3, *SIZE), names=lambda i: f"{i}.dcm")
    base = files[1].read_bytes()

    def read(content: bytes) -> None:
        files[1].write_bytes(content)
        for case in input_cases(folder / "series", None, 1):
            read_image(case.images)

    at = st.integers(128, len(base) - 1)  # the preamble means nothing
    field = st.tuples(at, st.sampled_from([1, 2, 4]), st.sampled_from(EXTREMES))

    def change(fields: list[tuple[int, int, int]], cut: int | None) -> bytes:
        made = bytearray(base)
        for place, size, value in fields:
            made[place : place + size] = (value % 256**size).to_bytes(size, "little")
        return bytes(made[: len(base)][:cut])

    return [base], st.builds(change, st.lists(field, max_size=3), st.none() | st.integers(0, len(base))), read


# ---- JSON -----------------------------------------------------------------------------------------------------------


def _places(value: Any, path: tuple = ()) -> list[tuple]:
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, inner in inside for place in [(*path, key), *_places(inner, (*path, key))]]


def _changed_json(document: Any) -> st.SearchStrategy[bytes]:
    """A document with other values and keys in some places; sometimes its bytes are changed instead."""
    places = _places(document)

    def change(where: list[tuple[tuple, Any, str | None]]) -> bytes:
        made = json.loads(json.dumps(document))
        for path, value, key in where:
            inner = made
            try:
                for step in path[:-1]:
                    inner = inner[step]
                inner[path[-1]] = value
                if key is not None and isinstance(inner, dict):
                    inner[key] = inner.pop(path[-1])
            except (KeyError, IndexError, TypeError):
                continue  # an earlier change has removed the place
        return json.dumps(made).encode(errors="surrogatepass")

    one = st.tuples(st.sampled_from(places), VALUES, st.none() | TEXTS)
    whole = VALUES.map(lambda value: json.dumps(value).encode())
    deep = st.sampled_from([b"[" * 100_000, b'{"a":' * 50_000, b"1" * 5000, b"\xff\xfe", b"\xef\xbb\xbf{}", b""])
    changed = st.builds(change, st.lists(one, min_size=1, max_size=3))
    return st.one_of(changed, changed, changed, whole, deep, _changed(json.dumps(document).encode()))


def _dataset_json(folder: Path) -> Fuzzed:
    from PIL import Image

    from samdpo.dataset.raw_dataset import RawDataset

    for file in ("imagesTr/a_0000.png", "labelsTr/a.png", "imagesUl/b_0000.png"):
        (folder / file).parent.mkdir(exist_ok=True)
        Image.fromarray(np.zeros(SIZE, np.uint8)).save(folder / file)
    document = {
        "channel_names": {"0": "xray"}, "labels": {"background": 0, "lung": 1, "heart": 2}, "numTraining": 1,
        "file_ending": ".png", "name": "X", "overwrite_image_reader_writer": "NaturalImage2DIO",
        "dataset": {"a": {"images": ["imagesTr/a_0000.png"], "label": "labelsTr/a.png"}},
        "samdpo": {"structures": {"lung": {"phrase": "a lung", "components": 2, "question": "?"}}},
    }

    def read(content: bytes) -> None:
        (folder / "dataset.json").write_bytes(content)
        assert RawDataset.open(folder).cases

    return [json.dumps(document).encode()], _changed_json(document), read


def _splits(folder: Path) -> Fuzzed:
    from samdpo.planning.splits import load_splits, make_splits
    from samdpo.schema import to_dict

    document = [to_dict(fold) for fold in make_splits([f"case_{i}" for i in range(5)], {}, labelled=0.5)][:2]

    def read(content: bytes) -> None:
        (folder / "splits_final.json").write_bytes(content)
        load_splits(folder)

    return [json.dumps(document).encode()], _changed_json(document), read


def _plans(folder: Path) -> Fuzzed:
    from predicted_folders import plans_of

    from samdpo.plans import load_plans
    from samdpo.schema import to_dict

    document = to_dict(plans_of({"lung": 1}))
    document["configurations"] = {"finetune": document["configurations"]["finetune"],
                                  "mine": {"inherits_from": "finetune", "epochs": 3}}
    document["inherits_from"] = None

    def read(content: bytes) -> None:
        (folder / "samdpoPlans.json").write_bytes(content)
        plans = load_plans(folder / "samdpoPlans.json")
        for stage in plans.configurations:
            plans.for_stage(stage)

    return [json.dumps(document).encode()], _changed_json(document), read


def _judgements(folder: Path) -> Fuzzed:
    from samdpo.annotate.database.exchange import read_jsonl
    from samdpo.preferences.records import item_id

    item = item_id("a1", "case_1", 0, "lung")
    lines = [
        {"kind": "candidate_set", "id": "a1", "dataset": "Dataset901_X", "fold": "0", "stage": "align",
         "plans_name": "samdpoPlans", "model_hash": "m" * 64, "plan_hash": "p" * 16,
         "created": "2024-05-01T12:30:15.123456+00:00", "folder": "candidates/a1"},
        {"kind": "item", "id": item, "candidate_set": "a1", "case": "case_1", "slice_index": 0, "structure": "lung",
         "position": 0.5, "candidates": 4},
        {"kind": "judgement", "item": item, "annotator": "ann", "mode": "ranking", "ranks": [1, 2, 2, 4],
         "ratings": None, "best": None, "verdict": "ranked", "seconds": 2.5,
         "client_key": str(uuid.UUID(int=7, version=4)), "time": "2024-05-01T12:31:00+00:00", "undone": None},
    ]

    def read(content: bytes) -> None:
        document = content
        if content.startswith(b"["):
            with suppress(ValueError, RecursionError):  # the bytes were changed: they are the file
                document = b"\n".join(json.dumps(line).encode() for line in json.loads(content))
        (folder / "judgements.jsonl").write_bytes(document)
        read_jsonl(folder / "judgements.jsonl")

    return [json.dumps(lines).encode()], _changed_json(lines), read


def _cookies(folder: Path) -> Fuzzed:
    from signed_out import SignedOut

    from samdpo.annotate.page.sessions import Sessions
    from samdpo.annotate.page.tokens import Tokens

    sessions = Sessions(Tokens("a-token-of-the-tests", {}), SignedOut())
    cookie = sessions.start("anna")
    payload, _, signature = cookie.partition(".")
    assert sessions.read(cookie).name == "anna"
    packed = _changed_json(["anna", 4e9, "x"]).map(lambda t: f"{base64.urlsafe_b64encode(t).decode()}.{signature}")
    letters = st.text(st.characters(max_codepoint=255), max_size=30)  # what a header can hold
    changed = _changed(cookie.encode()).map(lambda content: content.decode("latin-1"))

    def read(text: str) -> None:
        if text.strip() != cookie:
            found = sessions.read(text)
            assert found is None or text.partition(".")[::2] == (payload, signature), f"{text!r} opens a session"
            sessions.end(text)
            if found is None:
                raise ConfigurationError("This cookie opens no session.")

    return [cookie], st.one_of(packed, letters, changed, st.builds("{}.{}".format, letters, letters)), read


JSON_READERS = {"dataset.json": _dataset_json, "splits_final.json": _splits, "plans": _plans,
                "judgements": _judgements, "cookies": _cookies}
IMAGE_READERS = {**{kind: _pictures(kind) for kind in ("png", "bmp", "tif")},
                 **{ending: _volumes(ending) for ending in (".nii", ".nrrd", ".mha")},
                 ".nii.gz": _zipped_nifti, "DICOM": _dicom}
READERS = {**JSON_READERS, **IMAGE_READERS}
