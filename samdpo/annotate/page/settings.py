"""What the page is told when it starts."""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from samdpo.annotate.database.handing_out import LONGEST_LEASE, OverlapRule
from samdpo.annotate.page.tokens import MINIMUM_BITS, Tokens
from samdpo.errors import ConfigurationError
from samdpo.preferences.records import Mode

_HOST = re.compile(r"[\w.-]+(:\d+)?|\[[0-9a-fA-F:.]+\](:\d+)?")


@dataclass(frozen=True)
class PageSettings:
    """How people are asked, and by which names the page may be reached.

    Attributes:
        mode: what is asked for.
        overlap: which items go to several people.
        lease_seconds: how long an item waits for the person who sees it; a week at most.
        host_names: names, lower case and without port, that a request's ``Host`` may hold beside IP addresses.
        address: ``https://annotate.example.org`` where a reverse proxy leads to the page, else None.
        ordered: whether the first candidate is the model's own choice, so that it may be asked whether that is right.
        next_command: what to type once there are enough answers.

    Raises:
        ConfigurationError: the lease is no such time.
    """

    mode: Mode = "ranking"
    overlap: OverlapRule = field(default_factory=OverlapRule)
    lease_seconds: float = 900.0
    host_names: frozenset[str] = frozenset({"localhost"})
    address: str | None = None
    ordered: bool = True
    next_command: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.lease_seconds <= LONGEST_LEASE:
            raise ConfigurationError(
                f"--lease is {self.lease_seconds}; expected seconds, {LONGEST_LEASE:.0f} (a week) at most."
            )

    @property
    def secure(self) -> bool:
        """Whether browsers reach the page by https, so that the cookie must never leave it."""
        return (self.address or "").startswith("https://")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach ``host``.

    Raises:
        ConfigurationError: the name is not known.
    """
    try:
        found = {entry[4][0] for entry in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError) as error:
        raise ConfigurationError(f"--host {host} is not an address of this machine ({error}).") from error
    return all(ipaddress.ip_address(str(address).partition("%")[0]).is_loopback for address in found)


def check_reachable(host: str, address: str | None, tokens: Tokens) -> None:
    """Refuse to let others try a weak token.

    Raises:
        ConfigurationError: ``host`` is not loopback, or a proxy leads here, and a token has less than 128 bits.
    """
    bits = tokens.weakest_bits()
    if bits < MINIMUM_BITS and (address is not None or not is_loopback(host)):
        where = address or host
        raise ConfigurationError(
            f"Other machines can reach {where}, and a token has {bits:.0f} bits at most; at least {MINIMUM_BITS} are "
            "needed there (22 characters drawn at random; words and letters of one case count 2 bits a letter). Leave "
            "--token out, and samdpo_annotate makes one and prints it; or stay with --host 127.0.0.1."
        )


def names_of(host: str, address: str | None) -> frozenset[str]:
    """Names by which browsers may ask for the page; a name that is not among them may be DNS rebinding."""
    names = {"localhost", host.lower()}
    if not is_loopback(host):
        names |= {socket.gethostname().lower(), socket.getfqdn().lower()}
    if address is not None:
        names.add((urlsplit(address).hostname or "").lower())
    return frozenset(names - {""})


def check_address(address: str | None) -> str | None:
    """``--address`` without a slash at its end.

    Raises:
        ConfigurationError: not an http(s) address, or one with a path, a user or a port that there is not.
    """
    if address is None:
        return None
    try:
        parts = urlsplit(address)
        wrong = parts.port == 0 or parts.scheme not in ("http", "https") or not parts.hostname
    except ValueError:  # half a bracket, a port that is no number
        wrong = True
    if wrong or "@" in address or parts.path.strip("/") or parts.query or parts.fragment or not _HOST.fullmatch(
        parts.netloc
    ):
        raise ConfigurationError(
            f"--address is {address.rpartition('@')[2]!r}{' after a user' if '@' in address else ''}; expected what "
            "people type, without a path or a user: https://annotate.example.org"
        )
    return f"{parts.scheme}://{parts.netloc}"
