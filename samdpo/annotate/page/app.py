"""The web application: routes behind a guard, errors as sentences."""

from __future__ import annotations

import logging
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.staticfiles import StaticFiles

from samdpo.annotate.database.errors import (
    AlreadyJudgedError,
    ClientKeyError,
    DatabaseError,
    EnoughJudgedError,
    NotHandedOutError,
    UnknownItemError,
)
from samdpo.annotate.page.access import Access
from samdpo.annotate.page.api_routes import api_routes
from samdpo.annotate.page.attempts import SignInAttempts
from samdpo.annotate.page.guard import Guard
from samdpo.annotate.page.page_routes import page_routes
from samdpo.annotate.page.ranking_page import OtherModeError, RankingPage
from samdpo.annotate.page.received import AnswerError
from samdpo.annotate.page.sessions import Sessions
from samdpo.annotate.page.tokens import Tokens
from samdpo.preferences.records import first_problem

log = logging.getLogger(__name__)

STATIC = Path(__file__).parent / "static"


def create_app(page: RankingPage, tokens: Tokens) -> FastAPI:
    """The application that uvicorn serves.

    Args:
        page: what is judged.
        tokens: who may sign in.
    """
    access = Access(Sessions(tokens, ended=page.database), page.settings)
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
    async def conflict(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"message": str(error)}, 409)

    @app.exception_handler(DatabaseError)
    async def not_now(_: Request, error: DatabaseError) -> JSONResponse:
        log.error("%s", error)
        return JSONResponse({"message": "The database does not answer; nothing is lost, the page tries again."}, 503)

    return app
