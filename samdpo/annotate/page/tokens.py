"""Who may sign in, and how often they may try: a name and a token, one for everybody or from a file one for each."""

from __future__ import annotations

import hmac
import logging
import math
import re
import secrets
import stat
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from samdpo.errors import ConfigurationError
from samdpo.preferences.records import clean_name

log = logging.getLogger(__name__)

MINIMUM_BITS = 128  # of a token that others than this machine's users can try
SHORTEST = 8  # characters of any token
_WORD = re.compile(r"[A-Z]?[a-z]{4,}|[A-Z]{5,}")
_NO_WORD = re.compile(r"(?i)[^aeiouy]{4,}|^[^aeiouy]*$")  # nobody could say it
_RUN = 8  # characters of 'abcdefgh' or '11111111', which are too many to be chance
_DIFFERENT = 8  # characters a random token of 128 bits has at least; 'aaaa…' has one
WINDOW = 300.0  # seconds in which failed sign-ins are counted
PER_ADDRESS = 10  # failures within the window
IN_ALL = 200  # failures of all addresses together: a proxy, or someone with many addresses


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
        return min(strength(token) for token in self.all())

    def all(self) -> set[str]:
        """Every token there is."""
        return {*self.personal.values(), *([] if self.shared is None else [self.shared])}


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
    return Tokens(token or new_token(), {})


def new_token() -> str:
    """A random token of 192 bits; the rare one that looks as if it were made up is drawn again."""
    while strength(token := secrets.token_urlsafe(24)) < MINIMUM_BITS:
        pass
    return token


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
        raise ConfigurationError(f"--users {file} names nobody. Expected lines like: anna {new_token()}")
    return users


def strength(token: str) -> float:
    """Bits that somebody who guesses has to guess; of a random token those of its length and alphabet.

    What people make up is counted by what such texts are worth: two bits a letter of words and of letters of one case
    (Shannon's estimate for text is one to one and a half), nothing for repetitions and for runs like ``abcd`` or
    ``4321``, and nothing at all where there are only few different characters.
    """
    if len(set(token)) < _DIFFERENT:
        return 0.0
    token = _without_runs(_once(token))
    hexadecimal = token.replace("-", "")
    if re.fullmatch(r"[0-9]+", hexadecimal):
        return len(hexadecimal) * math.log2(10)
    if re.fullmatch(r"[0-9a-f]+|[0-9A-F]+", hexadecimal):
        return len(hexadecimal) * math.log2(16)
    letters = [c for c in token if c.isalpha()]
    long = len(token) >= 25
    one_case = min(sum(c.isupper() for c in letters), sum(c.islower() for c in letters)) <= long
    in_words = sum(len(word) for word in _WORD.findall(token) if not _NO_WORD.search(word))
    # Of random tokens of 22 characters one in 100,000 has that many letters in words; longer ones have fewer.
    if one_case or in_words >= (0.75 if long else 0.9) * len(letters):
        return len(letters) * 2 + (len(token) - len(letters)) * math.log2(10)
    return len(token) * math.log2(64)


def _once(token: str) -> str:
    """The part of which a token is made by repeating it, or the token."""
    period = (token + token).find(token, 1)
    return token[:period]


def _without_runs(token: str) -> str:
    """The token with long runs that go up or down by one, or stay, cut to the two characters that they begin with."""
    kept, start = [], 0
    for end in range(1, len(token) + 1):
        step = ord(token[end]) - ord(token[end - 1]) if end < len(token) else None
        if end - start < 2 and step in (-1, 0, 1):
            continue
        if step is not None and end - start >= 2 and step == ord(token[end - 1]) - ord(token[end - 2]):
            continue
        run = token[start:end]
        kept.append(run[:2] if len(run) >= _RUN else run)
        start = end
    return "".join(kept)


class SignInAttempts:
    """Counts failures of the last minutes, by address and in all, so that nobody can try tokens by the thousand."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: deque[tuple[float, str]] = deque()
        self._lock = Lock()

    def begin(self, address: str) -> float:
        """Seconds until this address may try again; where it is 0, it tries now: a failure until :meth:`succeeded`.

        Counted before the token is looked at, so that attempts at the same moment do not all find the count low.
        """
        with self._lock:
            wait = self._wait(address)
            if wait == 0:
                self._failures.append((self._clock(), address))
            return wait

    def succeeded(self, address: str) -> None:
        """The attempt that this address has begun last was no failure."""
        with self._lock:
            for place in range(len(self._failures) - 1, -1, -1):
                if self._failures[place][1] == address:
                    del self._failures[place]
                    return

    def _wait(self, address: str) -> float:
        """Seconds until this address may try again; 0 where it may now."""
        now = self._clock()
        while self._failures and self._failures[0][0] <= now - WINDOW:
            self._failures.popleft()
        own = [when for when, who in self._failures if who == address]
        if len(own) >= PER_ADDRESS:
            return own[-PER_ADDRESS] + WINDOW - now
        if len(self._failures) >= IN_ALL:
            return self._failures[-IN_ALL][0] + WINDOW - now
        return 0.0
