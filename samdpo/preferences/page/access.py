"""Who is asking: the session of a request, and the CSRF token of a write."""

from __future__ import annotations

import hmac

from fastapi import HTTPException, Request

from samdpo.preferences.page.sessions import Session, Sessions

CSRF_HEADER = "x-csrf-token"


def cookie_name(secure: bool) -> str:
    """Browsers take a ``__Host-`` cookie only over https, from this very host."""
    return "__Host-samdpo_session" if secure else "samdpo_session"


class Access:
    """FastAPI dependencies that let people who signed in pass.

    ``reader`` and ``writer`` raise HTTPException 401 where nobody is signed in; ``writer`` 403 without the CSRF token.
    """

    def __init__(self, sessions: Sessions, secure: bool) -> None:
        self.sessions = sessions
        self.secure = secure
        self.cookie = cookie_name(secure)

    def session(self, request: Request) -> Session | None:
        """Whoever is signed in, or None."""
        return self.sessions.read(request.cookies.get(self.cookie))

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
