"""Anything where names, cookies, forms and exported lines are expected: no traceback, and nothing is stored."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from judged_items import SET, judge, make_items
from signed_out import NOBODY

from samdpo.annotate.database.database import PreferenceDatabase
from samdpo.annotate.database.exchange import export_jsonl, import_jsonl
from samdpo.annotate.page.received import SignInForm
from samdpo.annotate.page.sessions import Sessions
from samdpo.annotate.page.settings import check_address
from samdpo.annotate.page.tokens import Tokens, strength
from samdpo.errors import ConfigurationError, SamdpoError
from samdpo.preferences.records import clean_name

hypothesis = pytest.importorskip("hypothesis", reason="hypothesis is not installed")
st = hypothesis.strategies
seeded = hypothesis.settings(max_examples=150, deadline=None, derandomize=True, database=None)

odd = st.sampled_from([
    10**30, -(10**30), 1e308, "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59.999999-23:59", "\ud800", "../x", "\x00",
])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | odd,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=3), max_leaves=6,
)


@seeded
@hypothesis.given(st.text(max_size=80))
def test_a_name_has_one_form(text: str) -> None:
    name = clean_name(text)
    if name is not None:
        assert clean_name(name) == name and len(name.encode()) <= 4 * 64


@seeded
@hypothesis.given(st.text())
def test_what_anybody_sends_or_types_is_read_or_refused(text: str) -> None:
    assert Sessions(Tokens("a-token-of-the-tests", {}), NOBODY).read(text) is None
    assert strength(text) >= 0
    SignInForm.read(text.encode("utf-8", "surrogatepass"))
    with contextlib.suppress(ConfigurationError):
        check_address(text)


def test_one_value_of_a_file_changed_into_anything_is_imported_or_refused_whole(tmp_path: Path) -> None:
    source = PreferenceDatabase.open(f"sqlite:///{tmp_path / 'from.sqlite'}")
    items = make_items(2)
    source.add_candidate_set(SET, items)
    source.record(judge(items[0]))
    source.record(judge(items[1], mode="best", ranks=None, best=1))
    export_jsonl(source, tmp_path / "all.jsonl", [SET])
    source.close()
    lines = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    database = PreferenceDatabase.open(f"sqlite:///{tmp_path / 'to.sqlite'}")

    def held() -> tuple:
        return database.candidate_sets(), database.items(SET.id), database.judgements(undone=True)

    @seeded
    @hypothesis.given(st.data())
    def one_try(data) -> None:
        changed = [dict(line) for line in lines]
        line = changed[data.draw(st.integers(0, len(lines) - 1))]
        line[data.draw(st.sampled_from(sorted(line)))] = data.draw(values)
        (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, changed)))
        before = held()
        try:
            import_jsonl(database, tmp_path / "in.jsonl", SET.dataset)
        except SamdpoError as error:
            assert len(str(error)) < 2500 and held() == before

    one_try()
    database.close()
