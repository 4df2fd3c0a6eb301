"""The page's JSON interface. Items are named by number alone; no path or file name comes from a browser.

Replies are made by JSONResponse directly: they come from our own code, and outlines are long lists that FastAPI would
otherwise look through number by number.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Response
from starlette.responses import JSONResponse

from samdpo.annotate.page.access import Access
from samdpo.annotate.page.ranking_page import RankingPage
from samdpo.annotate.page.received import ReceivedJudgement, ReceivedUndo
from samdpo.annotate.page.sessions import Session
from samdpo.preferences.records import LARGEST_ID

ItemId = Annotated[int, Path(ge=0, le=LARGEST_ID)]


def api_routes(page: RankingPage, access: Access) -> APIRouter:
    """Routes below ``/api``. Functions without ``async`` run in threads, since the database blocks."""
    router = APIRouter(prefix="/api")
    reader, writer = Depends(access.reader), Depends(access.writer)

    @router.post("/next")
    def next_item(session: Session = writer) -> JSONResponse:
        return JSONResponse(page.next(session.name))

    @router.get("/items/{item}")
    def item(item: ItemId, session: Session = reader) -> JSONResponse:
        return JSONResponse(page.views.content(page.item(item), session.name))

    @router.get("/items/{item}/pixels", dependencies=[reader])
    def pixels(item: ItemId) -> Response:
        return Response(page.views.pixels(page.item(item)), media_type="application/octet-stream")

    @router.post("/judgements")
    def judge(received: ReceivedJudgement, session: Session = writer) -> JSONResponse:
        return JSONResponse(page.record(session.name, received))

    @router.post("/undo")
    def undo(received: ReceivedUndo, session: Session = writer) -> JSONResponse:
        return JSONResponse(page.undo(session.name, received))

    return router
