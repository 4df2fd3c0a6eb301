"""Who may sign in: a name and a token, either one token for everybody or a file with one for each person."""

from __future__ import annotations

import hmac
import logging
import math
import re
import secrets
import stat
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from samdpo.errors import ConfigurationError

log = logging.getLogger(__name__)

MINIMUM_BITS = 128  # of a token that others than this machine's users can try
SHORTEST = 8  # characters of any token
_NAME = re.compile(r"[\w][\w .@'-]{0,63}")
_DIFFERENT = 8  # characters a random token of 128 bits has at least; 'aaaa…' has one


@dataclass(frozen=True)
class Tokens:
    """Tokens by which people sign in.

    Attributes:
        shared: the token of everybody who is not in ``personal``; None where only those may sign in.
        personal: name -> token.
    """

    shared: str | None
    personal: dict[str, str]

    def of(self, name: str) -> str | None:
        """The token that belongs to ``name``."""
        return self.personal.get(name, self.shared)

    def accepts(self, name: str, token: str) -> bool:
        """Whether ``token`` is the one of ``name``; takes the same time however much of it is right."""
        expected = self.of(name)
        # An unknown name costs a comparison too, so that names cannot be found out by the clock.
        same = hmac.compare_digest((expected or secrets.token_urlsafe(24)).encode(), token.encode())
        return same and expected is not None

    def weakest_bits(self) -> float:
        """Strength of the weakest token, as :func:`strength` measures it."""
        return min(strength(token) for token in (*self.personal.values(), self.shared) if token is not None)


def make_tokens(token: str | None, users: Path | None) -> Tokens:
    """Tokens from ``--token``, from ``--users``, or a new random one.

    Raises:
        ConfigurationError: both are given, a token is too short, or the file breaks its form.
    """
    if token is not None and users is not None:
        raise ConfigurationError("--token and --users are both given; --users names a token for each person already.")
    if users is not None:
        return Tokens(None, read_users(users))
    if token is not None and len(token) < SHORTEST:
        raise ConfigurationError(
            f"--token has {len(token)} characters; at least {SHORTEST} are needed. Leave it out, and one is made."
        )
    return Tokens(token or secrets.token_urlsafe(24), {})


def read_users(file: Path) -> dict[str, str]:
    """Read lines ``name token``; empty lines and lines that start with # are left out. Names may hold spaces.

    Raises:
        ConfigurationError: the file is missing, empty, or has a line that is not a name and a token.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
        mode = file.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"--users {file} cannot be read as text ({error}).") from error
    if mode & (stat.S_IRGRP | stat.S_IROTH):
        log.warning("Others on this machine can read %s. Type: chmod 600 %s", file, file)
    users: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        words = line.split()
        where = f"{file}, line {number}"
        name = clean_name(" ".join(words[:-1]))
        if name is None:
            raise ConfigurationError(f"{where}: expected a name and a token with a space between them.")
        if len(words[-1]) < SHORTEST:
            raise ConfigurationError(f"{where}: the token of {name} is shorter than {SHORTEST} characters.")
        if name in users:
            raise ConfigurationError(f"{where}: {name} is there twice.")
        users[name] = words[-1]
    if not users:
        raise ConfigurationError(f"--users {file} names nobody. Expected lines like: anna {secrets.token_urlsafe(24)}")
    return users


def clean_name(text: str) -> str | None:
    """A person's name as it is stored: one form of each letter, single spaces; None where it is not a name.

    Letters of any script, digits, ``_ . @ ' -`` and spaces; 64 characters at most.
    """
    name = " ".join(unicodedata.normalize("NFC", text).split())
    return name if _NAME.fullmatch(name) else None


def strength(token: str) -> float:
    """Bits that a random token of this length and these kinds of characters has; 0 for one that repeats a few."""
    if len(set(token)) < _DIFFERENT:
        return 0.0
    if re.fullmatch(r"[0-9]+", token):
        alphabet = 10
    elif re.fullmatch(r"[0-9a-f]+|[0-9A-F]+", token):
        alphabet = 16
    elif re.fullmatch(r"[a-z0-9]+|[A-Z0-9]+", token):
        alphabet = 36
    else:
        alphabet = 64
    return len(token) * math.log2(alphabet)
