"""The two pages a person sees: sign-in, and the one on which candidates are ranked."""

from __future__ import annotations

import logging
import math
from pathlib import Path

from fastapi import APIRouter, Depends, Request, Response
from starlette.responses import RedirectResponse
from starlette.templating import Jinja2Templates

from samdpo.annotate.page.access import Access
from samdpo.annotate.page.attempts import SignInAttempts
from samdpo.annotate.page.ranking_page import RankingPage
from samdpo.annotate.page.received import SignInForm
from samdpo.annotate.page.sessions import LIFETIME, Session
from samdpo.annotate.page.tokens import Tokens, clean_name

log = logging.getLogger(__name__)

TEMPLATES = Path(__file__).parent / "templates"


def page_routes(page: RankingPage, access: Access, tokens: Tokens, attempts: SignInAttempts) -> APIRouter:
    """``/``, ``/sign-in`` and ``/sign-out``."""
    router = APIRouter()
    templates = Jinja2Templates(TEMPLATES)
    writer = Depends(access.writer)

    def sign_in_page(request: Request, message: str = "", name: str = "", status: int = 200) -> Response:
        values = {"message": message, "name": name, "dataset": page.candidate_set.dataset}
        return templates.TemplateResponse(request, "sign_in.html", values, status_code=status)

    @router.get("/")
    def annotate(request: Request) -> Response:
        session = access.session(request)
        if session is None:
            return RedirectResponse("/sign-in", 303)
        values = {"session": session, "page": page}
        return templates.TemplateResponse(request, "annotate.html", values)

    @router.get("/sign-in")
    def show_sign_in(request: Request) -> Response:
        return RedirectResponse("/", 303) if access.session(request) else sign_in_page(request)

    @router.post("/sign-in")
    async def sign_in(request: Request) -> Response:
        address = request.client.host if request.client else ""
        form = SignInForm.read(await request.body())
        wait = attempts.begin(address)
        if wait > 0:
            message = f"Too many attempts. Try again in {math.ceil(wait / 60)} min."
            response = sign_in_page(request, message, status=429)
            response.headers["retry-after"] = str(math.ceil(wait))
            return response
        name = clean_name(form.name) if form else None
        if form is None or name is None:
            attempts.succeeded(address)  # no token was tried
            return sign_in_page(request, "Type your name in letters, and the token.", status=422)
        if not tokens.accepts(name, form.token.strip()):
            log.warning("Somebody at %s tried to sign in as %s with a wrong token.", address, name)
            return sign_in_page(request, "This name and token do not belong together.", name, status=403)
        attempts.succeeded(address)
        response = RedirectResponse("/", 303)
        response.set_cookie(
            access.cookie(request), access.sessions.start(name), max_age=LIFETIME, path="/", secure=access.secure,
            httponly=True, samesite="strict",
        )
        log.info("%s has signed in.", name)
        return response

    @router.post("/sign-out")
    def sign_out(request: Request, _: Session = writer) -> Response:
        cookie = access.cookie(request)
        access.sessions.end(request.cookies[cookie])
        response = Response(status_code=204)
        response.delete_cookie(cookie, path="/", secure=access.secure, httponly=True, samesite="strict")
        return response

    return router
