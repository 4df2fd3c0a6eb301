"""Sessions: a signed cookie that says who signed in, and a CSRF token that belongs to it.

The key is made from the person's token, so that sessions outlive a restart with the same token, and end when the
token changes. Nothing is kept on the server but the sessions that were signed out.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from samdpo.preferences.page.tokens import Tokens

LIFETIME = 12 * 3600  # seconds: a long working day


@dataclass(frozen=True)
class Session:
    """Somebody who signed in; ``csrf`` must come back in a header with every write."""

    name: str
    csrf: str
    ends: float  # seconds since 1970


class Sessions:
    """Makes and checks session cookies."""

    def __init__(self, tokens: Tokens, clock: Callable[[], float] = time.time) -> None:
        self._tokens = tokens
        self._clock = clock
        self._ended: dict[str, float] = {}  # signature -> when the cookie ends by itself

    def start(self, name: str) -> str:
        """The cookie of somebody whose token was right."""
        content = json.dumps([name, self._clock() + LIFETIME, secrets.token_urlsafe(16)])
        payload = base64.urlsafe_b64encode(content.encode()).decode()
        return f"{payload}.{self._signature(name, payload)}"

    def read(self, cookie: str | None) -> Session | None:
        """Who this cookie belongs to; None where it is forged, ended, or of somebody whose token has changed."""
        payload, _, signature = (cookie or "").partition(".")
        try:
            name, ends, _ = json.loads(base64.urlsafe_b64decode(payload))
        except (ValueError, TypeError, binascii.Error, UnicodeDecodeError):
            return None
        if not isinstance(name, str) or not isinstance(ends, (int, float)) or self._tokens.of(name) is None:
            return None
        if not hmac.compare_digest(self._signature(name, payload).encode(), signature.encode()):
            return None
        if ends < self._clock() or signature in self._ended:
            return None
        return Session(name, self._keyed(name, "csrf", payload), ends)

    def end(self, cookie: str) -> None:
        """Sign out: the cookie is not accepted again."""
        session = self.read(cookie)
        if session is not None:
            now = self._clock()
            self._ended = {s: ends for s, ends in self._ended.items() if ends > now}
            self._ended[cookie.partition(".")[2]] = session.ends

    def _signature(self, name: str, payload: str) -> str:
        return self._keyed(name, "session", payload)

    def _keyed(self, name: str, purpose: str, text: str) -> str:
        token = self._tokens.of(name) or ""
        return hmac.new(token.encode(), f"samdpo {purpose} {text}".encode(), hashlib.sha256).hexdigest()
