"""The web application: the two pages and the JSON interface behind a guard, errors as sentences.

Items are named by number alone; no path or file name comes from a browser. Replies of the interface are made by
JSONResponse directly: they come from our own code, and outlines are long lists that FastAPI would otherwise look
through number by number.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi import Path as PathValue
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, RedirectResponse
from starlette.staticfiles import StaticFiles
from starlette.templating import Jinja2Templates

from samdpo.annotate.database.errors import (
    AlreadyJudgedError,
    ClientKeyError,
    DatabaseError,
    EnoughJudgedError,
    NotHandedOutError,
    UnknownItemError,
)
from samdpo.annotate.page.guard import Guard
from samdpo.annotate.page.ranking_page import NoSegmenterError, OtherModeError, RankingPage
from samdpo.annotate.page.received import AnswerError, ReceivedJudgement, ReceivedPlace, ReceivedUndo, SignInForm
from samdpo.annotate.page.sessions import LIFETIME, Access, Session, Sessions
from samdpo.annotate.page.tokens import SignInAttempts, Tokens, clean_name
from samdpo.preferences.records import LARGEST_ID, first_problem

log = logging.getLogger(__name__)

STATIC = Path(__file__).parent / "static"
TEMPLATES = Path(__file__).parent / "templates"
ItemId = Annotated[int, PathValue(ge=0, le=LARGEST_ID)]


def create_app(page: RankingPage, tokens: Tokens) -> FastAPI:
    """The application that uvicorn serves.

    Args:
        page: what is judged.
        tokens: who may sign in.
    """
    access = Access(Sessions(tokens, page.database), page.settings)
    app = FastAPI(title="samdpo", openapi_url=None, docs_url=None, redoc_url=None)
    app.include_router(page_routes(page, access, tokens, SignInAttempts()))
    app.include_router(api_routes(page, access))
    app.mount("/static", StaticFiles(directory=STATIC))
    app.add_middleware(Guard, settings=page.settings)

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"message": error.detail}, error.status_code)

    @app.exception_handler(RequestValidationError)
    async def not_understood(_: Request, error: RequestValidationError) -> JSONResponse:
        return JSONResponse({"message": first_problem(error.errors())}, 422)

    @app.exception_handler(AnswerError)
    async def contradicts(_: Request, error: AnswerError) -> JSONResponse:
        return JSONResponse({"message": str(error)}, 422)

    @app.exception_handler(UnknownItemError)
    async def unknown(_: Request, error: UnknownItemError) -> JSONResponse:
        return JSONResponse({"message": str(error)}, 404)

    @app.exception_handler(AlreadyJudgedError)
    @app.exception_handler(EnoughJudgedError)
    @app.exception_handler(NotHandedOutError)
    @app.exception_handler(ClientKeyError)
    @app.exception_handler(OtherModeError)
    @app.exception_handler(NoSegmenterError)
    async def conflict(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"message": str(error)}, 409)

    @app.exception_handler(DatabaseError)
    async def not_now(_: Request, error: DatabaseError) -> JSONResponse:
        log.error("%s", error)
        return JSONResponse({"message": "The database does not answer; nothing is lost, the page tries again."}, 503)

    return app


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


def api_routes(page: RankingPage, access: Access) -> APIRouter:
    """Routes below ``/api``. Functions without ``async`` run in threads, since the database blocks."""
    router = APIRouter(prefix="/api")
    reader, writer = Depends(access.reader), Depends(access.writer)

    @router.post("/next")
    def next_item(session: Session = writer) -> JSONResponse:
        return JSONResponse(page.next(session.name))

    @router.get("/items/{item}")
    def item(item: ItemId, _: Session = reader) -> JSONResponse:
        return JSONResponse(page.content(page.item(item)))

    @router.get("/items/{item}/pixels", dependencies=[reader])
    def pixels(item: ItemId) -> Response:
        return Response(page.views.pixels(page.item(item)), media_type="application/octet-stream")

    @router.post("/items/{item}/segment", dependencies=[writer])
    def segment(item: ItemId, place: ReceivedPlace) -> JSONResponse:
        return JSONResponse({"outline": page.segment(page.item(item), place)})

    @router.post("/judgements")
    def judge(received: ReceivedJudgement, session: Session = writer) -> JSONResponse:
        return JSONResponse(page.record(session.name, received))

    @router.post("/undo")
    def undo(received: ReceivedUndo, session: Session = writer) -> JSONResponse:
        return JSONResponse(page.undo(session.name, received))

    return router
