"""Who is asking: the session of a request, and the CSRF token of a write."""

from __future__ import annotations

import hmac
from urllib.parse import urlsplit

from fastapi import HTTPException, Request

from samdpo.annotate.page.sessions import Session, Sessions
from samdpo.annotate.page.settings import PageSettings

CSRF_HEADER = "x-csrf-token"


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
