"""Sessions: a signed cookie that says who signed in and is asking, and a CSRF token that belongs to every write.

The key is made from the person's token, so that sessions outlive a restart with the same token, and end when the
token changes. Nothing is kept on the server but the sessions that were signed out, and these in the database, so that
they stay ended after a restart and on another server.

The signature is checked before anything is made of what it signs.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

from fastapi import HTTPException, Request

from samdpo.annotate.page.settings import PageSettings
from samdpo.annotate.page.tokens import Tokens, clean_name
from samdpo.errors import SamdpoError
from samdpo.files import parse_json

LIFETIME = 12 * 3600  # seconds: a long working day
_LONGEST = 2048  # characters of a cookie; ours have some 200
CSRF_HEADER = "x-csrf-token"


@dataclass(frozen=True)
class Session:
    """Somebody who signed in; ``csrf`` must come back in a header with every write."""

    name: str
    csrf: str
    ends: float  # seconds since 1970


class EndedSessions(Protocol):
    """The part of :class:`samdpo.annotate.database.database.PreferenceDatabase` that remembers who signed out."""

    def end_session(self, signature: str, ends: float) -> None:
        """Note that a session was signed out."""
        ...

    def has_ended(self, signature: str) -> bool:
        """Whether it was."""
        ...


class Sessions:
    """Makes and checks session cookies.

    Args:
        tokens: who may sign in.
        ended: where the sessions are noted that were signed out.
        clock: seconds since 1970.
    """

    def __init__(self, tokens: Tokens, ended: EndedSessions, clock: Callable[[], float] = time.time) -> None:
        self._tokens = tokens
        self._ended = ended
        self._clock = clock

    def start(self, name: str) -> str:
        """The cookie of somebody whose token was right."""
        content = json.dumps([name, self._clock() + LIFETIME, secrets.token_urlsafe(16)])
        payload = base64.urlsafe_b64encode(content.encode()).decode()
        return f"{payload}.{_keyed(self._tokens.of(name) or '', 'session', payload)}"

    def read(self, cookie: str | None) -> Session | None:
        """Who this cookie belongs to; None where it is forged, ended, or of somebody whose token has changed."""
        payload, _, signature = (cookie or "").partition(".")
        token = self._signed_with(payload, signature) if len(cookie or "") <= _LONGEST else None
        if token is None:
            return None
        try:
            # Whoever has a token can sign anything with it.
            content = parse_json(base64.urlsafe_b64decode(payload), "a cookie")
            name, ends, _ = content
        except (SamdpoError, ValueError, TypeError):
            return None
        if not isinstance(name, str) or clean_name(name) != name or self._tokens.of(name) != token:
            return None
        if not isinstance(ends, float) or not self._clock() <= ends <= self._clock() + 10 * LIFETIME:
            return None
        if self._ended.has_ended(signature):
            return None
        return Session(name, _keyed(token, "csrf", payload), ends)

    def end(self, cookie: str) -> None:
        """Sign out: the cookie is not accepted again."""
        session = self.read(cookie)
        if session is not None:
            self._ended.end_session(cookie.partition(".")[2], session.ends)

    def _signed_with(self, payload: str, signature: str) -> str | None:
        """The token that has signed a payload, or None; all are tried, since the name stands in the payload."""
        given, found = signature.encode(), None
        for token in self._tokens.all():
            if hmac.compare_digest(_keyed(token, "session", payload).encode(), given):
                found = token
        return found


def _keyed(token: str, purpose: str, text: str) -> str:
    return hmac.new(token.encode(), f"samdpo {purpose} {text}".encode(), hashlib.sha256).hexdigest()


def cookie_name(secure: bool, port: int | None = None) -> str:
    """Browsers take a ``__Host-`` cookie only over https, from this very host.

    They send a host's cookies to all of its ports, so that the name tells two pages on one machine apart.
    """
    name = "__Host-samdpo_session" if secure else "samdpo_session"
    return name if port is None else f"{name}_{port}"


class Access:
    """FastAPI dependencies that let people who signed in pass.

    ``reader`` and ``writer`` raise HTTPException 401 where nobody is signed in; ``writer`` 403 without the CSRF token.
    """

    def __init__(self, sessions: Sessions, settings: PageSettings) -> None:
        self.sessions = sessions
        self.secure = settings.secure
        self._address = settings.address

    def cookie(self, request: Request) -> str:
        """Name of the session's cookie, by the port that the browser asks; a proxy may leave it out of ``Host``."""
        asked = urlsplit(self._address or f"//{request.headers.get('host', '')}")
        return cookie_name(self.secure, asked.port)

    def session(self, request: Request) -> Session | None:
        """Whoever is signed in, or None."""
        return self.sessions.read(request.cookies.get(self.cookie(request)))

    def reader(self, request: Request) -> Session:
        """Somebody who is signed in."""
        session = self.session(request)
        if session is None:
            raise HTTPException(401, "You are not signed in.")
        return session

    def writer(self, request: Request) -> Session:
        """Somebody who is signed in and asks from the page itself."""
        session = self.reader(request)
        sent = request.headers.get(CSRF_HEADER, "")
        if not hmac.compare_digest(sent.encode(), session.csrf.encode()):
            raise HTTPException(403, "The request did not come from the page; load it again.")
        return session
