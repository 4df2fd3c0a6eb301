"""Dictionaries to typed dataclasses and back, strictly: a wrong key or type is named with its dotted path."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from samdpo.errors import PlansError, SamdpoError
from samdpo.files import read_json

T = TypeVar("T")


def from_dict(
    cls: type[T], data: Any, where: str = "", source: str = "the plan", *, others_too: bool = False
) -> T:
    """Build dataclass ``cls`` from plain JSON data.

    Args:
        cls: a dataclass whose fields are builtins, lists, dicts, tuples, Literals, Optionals or dataclasses.
        data: what ``json.load`` gave.
        where: dotted path of ``data`` inside the file, for messages.
        source: the file's name, for messages.
        others_too: keys that ``cls`` does not know are passed over, for files that other versions write.

    Raises:
        PlansError: unknown key (with the nearest known one), missing key, wrong type or choice.
    """
    if not isinstance(data, dict):
        raise PlansError(f"{source}: {where or 'the whole file'} must be an object {{...}}, found {_kind(data)}.")
    hints = _hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in data if not others_too else ():
        if key not in fields:
            close = difflib.get_close_matches(str(key), fields, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else f" Known keys: {', '.join(fields)}."
            raise PlansError(f"{source}: unknown key {_join(where, key)!r}.{hint}")
    values: dict[str, Any] = {}
    for name, field in fields.items():
        path = _join(where, name)
        if name in data:
            values[name] = _convert(hints[name], data[name], path, source, others_too)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise PlansError(f"{source}: the key {path!r} is missing.")
    try:
        return cls(**values)
    except ValueError as error:
        raise PlansError(f"{source}: {where + ': ' if where else ''}{error}") from error


@cache
def _hints(cls: type) -> dict[str, Any]:
    """Types of a dataclass's fields; each annotation is a text that is compiled."""
    return get_type_hints(cls)


def read_checked(cls: type, file: Path, *, error: type[SamdpoError], remedy: str) -> dict[str, Any]:
    """The content of a JSON file, as it stands, of which every key of the dataclass ``cls`` has been checked.

    Raises:
        SamdpoError: of the class ``error``, the file is missing or damaged, or a key is missing or of a wrong kind;
            the sentence ends in ``remedy``.
    """
    content = read_json(file, error=error, remedy=remedy)
    try:
        from_dict(cls, content, source=str(file), others_too=True)
    except PlansError as cause:
        raise error(f"{cause} {remedy}") from cause
    return content


def to_dict(value: Any) -> Any:
    """Dataclasses, tuples and paths to what ``json.dump`` takes."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_dict(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {k: to_dict(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_dict(v) for v in value]
    return value


def as_before(value: Any, *new: str) -> dict[str, Any]:
    """A dataclass as :func:`to_dict` gives it, without those of the ``new`` keys that are at their default.

    A hash of it is what it was before there were such keys, so that what is kept under it is found.
    """
    defaults = {f.name: to_dict(_default_of(f)) for f in dataclasses.fields(value) if f.name in new}
    return {k: v for k, v in to_dict(value).items() if k not in new or v != defaults[k]}


def differences(value: Any, base: Any = None) -> Any:
    """As :func:`to_dict`, without what would be the same anyway: ``merge(to_dict(base), differences(value, base))`` is
    ``to_dict(value)``, and :func:`from_dict` makes ``value`` of ``differences(value)``.

    Args:
        value: a dataclass; what it holds.
        base: another one of its class, or None for what the class gives by itself.

    Raises:
        ValueError: ``base`` has a key in a dictionary that ``value`` has not, which no merging takes away.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        found = {}
        for f in dataclasses.fields(value):
            own, other = getattr(value, f.name), _default_of(f) if base is None else getattr(base, f.name)
            if own != other:
                found[f.name] = differences(own, None if base is None else other)
        return found
    if isinstance(value, dict):
        other = base if isinstance(base, dict) else {}
        if gone := other.keys() - value.keys():
            raise ValueError(f"no merging takes away {', '.join(map(str, gone))}")
        return {k: differences(v, other.get(k)) for k, v in value.items() if k not in other or v != other[k]}
    return to_dict(value)


def leaves(data: dict[str, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys of nested objects, with the values that hold no further key."""
    for key, value in data.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, _join(where, key))
        else:
            yield _join(where, key), value


def keys_where(data: dict[str, Any], wanted: Callable[[str], bool], where: str = "") -> dict[str, Any]:
    """Nested objects without the dotted keys that are not ``wanted``, and without what they leave empty."""
    found = {}
    for key, value in data.items():
        path = _join(where, key)
        kept = keys_where(value, wanted, path) if isinstance(value, dict) and wanted(path) else value
        if wanted(path) and (kept or not value):
            found[key] = kept
    return found


def _default_of(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Deep merge: objects are merged key by key, everything else in ``over`` replaces ``base``."""
    result = dict(base)
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merge(result[key], value)
        else:
            result[key] = value
    return result


def _convert(hint: Any, value: Any, path: str, source: str, others_too: bool) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _convert(next(a for a in args if a is not type(None)), value, path, source, others_too)
    if origin is typing.Literal:
        if not isinstance(value, (str, int)) or value not in args:
            raise PlansError(f"{source}: {path!r} is {value!r}; expected one of {', '.join(map(repr, args))}.")
        return value
    if dataclasses.is_dataclass(hint):
        return from_dict(hint, value, path, source, others_too=others_too)  # type: ignore[arg-type]
    if origin is dict:
        if not isinstance(value, dict):
            raise _wrong(path, "an object {...}", value, source)
        return {k: _convert(args[1], v, _join(path, k), source, others_too) for k, v in value.items()}
    if origin in (list, tuple):
        if not isinstance(value, (list, tuple)):
            raise _wrong(path, "a list [...]", value, source)
        if origin is tuple and args and args[-1] is not Ellipsis:
            if len(value) != len(args):
                raise _wrong(path, f"a list of {len(args)} values", value, source)
            return tuple(
                _convert(a, v, f"{path}[{i}]", source, others_too) for i, (a, v) in enumerate(zip(args, value))
            )
        return origin(_convert(args[0], v, f"{path}[{i}]", source, others_too) for i, v in enumerate(value))
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:  # a whole number of hundreds of digits
            number = math.inf
        if not math.isfinite(number):  # JSON as Python reads it has NaN and Infinity
            raise _wrong(path, "a finite number", value, source)
        return number
    if hint in (int, float, str, bool):
        if not isinstance(value, hint) or (hint is not bool and isinstance(value, bool)):
            raise _wrong(path, {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}[hint],
                         value, source)
        return value
    raise TypeError(f"schema of {path} uses an unsupported type {hint!r}")


def _wrong(path: str, expected: str, value: Any, source: str) -> PlansError:
    return PlansError(f"{source}: {path!r} must be {expected}, found {_kind(value)}.")


def _kind(value: Any) -> str:
    return "null" if value is None else f"{type(value).__name__} {value!r}"[:80]


def _join(where: str, key: Any) -> str:
    return f"{where}.{key}" if where else str(key)
