"""A page in a process of its own, on a set of ``drawn.store``.

``python serve_drawn.py FOLDER URL PORT TOKEN MODE [in-no-order]``
"""

from __future__ import annotations

import sys

from drawn import EllipseSegmenter

from samdpo.annotate.database.database import PreferenceDatabase
from samdpo.annotate.page.app import create_app
from samdpo.annotate.page.item_views import ItemViews
from samdpo.annotate.page.ranking_page import RankingPage
from samdpo.annotate.page.serve import listen, serve
from samdpo.annotate.page.settings import PageSettings
from samdpo.annotate.page.tokens import Tokens
from samdpo.preferences.stored_candidates import StoredCandidates

NEXT = "samdpo_train 901 align 0 --annotator recorded"


def main(folder: str, url: str, port: str, token: str, mode: str, order: str = "") -> None:
    """Serve until a signal comes."""
    stored, database = StoredCandidates.open(folder), PreferenceDatabase.open(url)
    database.add_candidate_set(stored.candidate_set, stored.items)
    views, segmenter = ItemViews(stored), EllipseSegmenter(stored.image(stored.items[0]).shape[-1])
    settings = PageSettings(mode=mode, next_command=NEXT, ordered=not order)
    page = RankingPage(database, stored.candidate_set, views, settings, segmenter)
    serve(create_app(page, Tokens(token, {})), listen("127.0.0.1", int(port)), None, behind_proxy=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
