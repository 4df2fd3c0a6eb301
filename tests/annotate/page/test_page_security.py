"""Who may do what: sign-in, CSRF, Host and Origin, sizes, headers, paths."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from page_client import ORIGIN, TOKEN

import samdpo.annotate.page
from samdpo.annotate.page.guard import LARGEST_BODY, LARGEST_HEAD, MOST_HEADERS
from samdpo.annotate.page.tokens import PER_ADDRESS, Tokens, clean_name

PACKAGE = Path(samdpo.annotate.page.__file__).parent
WRITES = [("/api/next", {}), ("/api/judgements", {"item": 1}), ("/api/undo", {}), ("/sign-out", {})]


# ---- sign-in --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/api/items/1", "/api/items/1/pixels"])
def test_without_signing_in_nothing_is_read(make_client, path: str) -> None:
    assert make_client().get(path).status_code == 401


@pytest.mark.parametrize(("path", "content"), WRITES)
def test_without_signing_in_nothing_is_written(make_client, path: str, content: dict) -> None:
    assert make_client().post(path, json=content).status_code == 401


def test_the_page_leads_to_the_sign_in(make_client) -> None:
    response = make_client().get("/", follow_redirects=False)
    assert (response.status_code, response.headers["location"]) == (303, "/sign-in")


def test_a_wrong_token_is_refused_and_the_name_stays(make_client) -> None:
    client = make_client()
    response = client.sign_in("anna", "not-the-token")
    assert response.status_code == 403
    assert 'value="anna"' in response.text
    assert "not-the-token" not in response.text
    assert client.get("/api/items/1").status_code == 401


def test_with_personal_tokens_a_name_needs_its_own(make_client) -> None:
    tokens = Tokens(None, {"anna": "token-of-anna", "ben": "token-of-ben"})
    client = make_client(tokens)
    assert client.sign_in("anna", "token-of-ben").status_code == 403
    assert client.sign_in("carl", "token-of-anna").status_code == 403
    assert client.sign_in("anna", "token-of-anna").status_code == 200


def test_after_ten_wrong_tokens_the_right_one_has_to_wait_too(make_client) -> None:
    client = make_client()
    for _ in range(PER_ADDRESS):
        client.sign_in("anna", "guess")
    response = client.sign_in("anna", TOKEN)
    assert response.status_code == 429
    assert int(response.headers["retry-after"]) > 200


@pytest.mark.parametrize("body", [b"", b"\xff\xfe", b"name=anna", b"a=1&b=2&c=3&d=4&e=5", b"name=" + b"a" * 300])
def test_a_broken_form_is_told_so(make_client, body: bytes) -> None:
    assert make_client().post("/sign-in", content=body).status_code == 422


def test_a_name_cannot_bring_markup_into_the_page(make_client) -> None:
    client = make_client()
    assert client.sign_in('"><script>alert(1)</script>').status_code == 422
    assert client.sign_in("O'Neill").status_code == 200
    assert 'data-name="O&#39;Neill"' in client.get("/").text


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(make_client) -> None:
    response = make_client().post("/sign-in", data={"name": "anna", "token": TOKEN}, follow_redirects=False)
    cookie = response.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert "secure" not in cookie
    assert TOKEN not in cookie


def test_behind_https_the_cookie_never_leaves_it(make_client) -> None:
    client = make_client(address="https://annotate.example.org", host_names=frozenset({"annotate.example.org"}))
    client.headers["origin"] = client.base_url = "https://annotate.example.org"
    response = client.post("/sign-in", data={"name": "anna", "token": TOKEN}, follow_redirects=False)
    assert response.headers["set-cookie"].startswith("__Host-samdpo_session=")
    assert "; Secure" in response.headers["set-cookie"]


def test_signing_out_ends_the_session(client) -> None:
    cookie = dict(client.cookies)
    assert client.post("/sign-out").status_code == 204
    assert client.get("/api/items/1", cookies=cookie).status_code == 401


@pytest.mark.parametrize("payload", [b"[" * 9000, b'{"a":' * 2000, b"9" * 5000, b"\xff", b"[]", b'["anna", 1e999, ""]'])
@pytest.mark.parametrize("signed", [False, True])
def test_a_cookie_of_anything_is_nobody_and_makes_no_noise(make_client, caplog, payload: bytes, signed: bool) -> None:
    client = make_client()
    encoded = base64.urlsafe_b64encode(payload).decode()
    # Whoever has a token can sign anything with it.
    key = hmac.new(TOKEN.encode(), f"samdpo session {encoded}".encode(), hashlib.sha256).hexdigest()
    response = client.get("/", headers={"cookie": f"samdpo_session={encoded}.{key if signed else '0' * 64}"},
                          follow_redirects=False)
    assert (response.status_code, response.headers["location"]) == (303, "/sign-in")
    assert "content-security-policy" in response.headers
    assert caplog.text == ""


def test_of_many_attempts_at_once_no_more_are_looked_at_than_one_after_the_other(make_client) -> None:
    client = make_client()
    with ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(lambda number: client.sign_in("anna", f"guess {number}").status_code, range(30)))
    assert codes.count(403) == PER_ADDRESS and codes.count(429) == 30 - PER_ADDRESS


def test_signing_in_rightly_is_no_failure(make_client) -> None:
    client = make_client()
    for _ in range(3 * PER_ADDRESS):
        assert client.sign_in().status_code == 200
    assert client.sign_in("<b>").status_code == 422
    assert client.sign_in("anna", "guess").status_code == 403


@pytest.mark.parametrize("name", ["हिन्दी", "مُحَمَّد", "O’Brien", "Nguyễn Văn", "ஜெயலலிதா", "נָתָן", "李 小龍"])
def test_people_of_any_script_sign_in_and_judge_under_their_name(make_client, database, name: str) -> None:
    client = make_client()
    assert client.sign_in(name).status_code == 200
    assert client.judge(client.next()["item"]).status_code == 200
    assert database.judgements("drawn")[0].annotator == clean_name(name)


# ---- requests from elsewhere ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "content"), WRITES)
@pytest.mark.parametrize("csrf", ["", "0" * 64])
def test_a_write_without_the_csrf_token_is_refused(client, path: str, content: dict, csrf: str) -> None:
    client.headers["x-csrf-token"] = csrf
    assert client.post(path, json=content).status_code == 403


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "", "http://localhost:81", "http://localhost.evil.com"])
def test_a_write_from_another_origin_is_refused(client, database, origin: str) -> None:
    item = client.next()["item"]
    client.headers["origin"] = origin
    assert client.judge(item).status_code == 403
    assert client.post("/sign-in", data={"name": "a", "token": TOKEN}).status_code == 403
    assert database.judgements() == []


@pytest.mark.parametrize("host", [
    "evil.example", "localhost.evil.example", "", "[::1", "127.0.0.1.evil.example", "localhost:0x50", "localhost:99999",
])
def test_a_name_that_is_not_the_pages_is_refused(client, host: str) -> None:
    assert client.get("/", headers={"host": host}).status_code == 400


@pytest.mark.parametrize("host", ["localhost:8765", "LOCALHOST", "127.0.0.1:8765", "[::1]:8765", "192.0.2.7"])
def test_addresses_and_own_names_are_let_through(client, host: str) -> None:
    assert client.get("/sign-in", headers={"host": host}).status_code == 200


# ---- sizes and paths ------------------------------------------------------------------------------------------------


def test_a_large_body_is_refused(client) -> None:
    assert client.post("/api/judgements", content=b"[" * (LARGEST_BODY + 1)).status_code == 413


def test_a_large_body_that_does_not_say_its_size_is_refused(client) -> None:
    def pieces():
        for _ in range(LARGEST_BODY // 100 + 2):
            yield b"x" * 100

    assert client.post("/api/judgements", content=pieces()).status_code == 413


@pytest.mark.parametrize("request_of", [
    {"url": "/sign-in?" + "a" * LARGEST_HEAD}, {"url": "/sign-in", "headers": {"x": "a" * LARGEST_HEAD}},
    {"url": "/sign-in", "headers": {f"x-{number}": "a" for number in range(MOST_HEADERS)}},
])
def test_a_large_head_is_refused(client, request_of: dict) -> None:
    assert client.get(**request_of).status_code == 431


@pytest.mark.parametrize("path", [
    "/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py", "/static/js/../../app.py",
    "/static//etc/passwd", "/static/....//app.py", "/api/items/..%2f..%2fetc%2fpasswd/pixels",
    "/api/items/%2e%2e/pixels", "/static/",
    "/static/js", "/templates/annotate.html",
])
def test_no_path_leads_out_of_the_static_files(client, path: str) -> None:
    response = client.get(path)
    assert response.status_code in (404, 422)
    assert "import" not in response.text and "root:" not in response.text


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/openapi.json"])
def test_the_interface_is_not_described_to_strangers(client, path: str) -> None:
    assert client.get(path).status_code == 404


# ---- headers and files ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/sign-in", "/static/js/main.js", "/api/items/1", "/nowhere"])
def test_every_answer_has_the_security_headers(client, path: str) -> None:
    headers = client.get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"


def test_a_fault_of_the_page_has_them_too_and_tells_nothing(client, database, monkeypatch, caplog) -> None:
    def broken(*_) -> None:
        raise RecursionError("a secret of the server")

    monkeypatch.setattr(database, "next_item", broken)
    answer = client.post("/api/next", json={})
    assert answer.status_code == 500
    assert "secret" not in answer.text and "secret" in caplog.text
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["cache-control"] == "no-store"


def test_patients_images_are_not_kept_by_the_browser(client) -> None:
    item = client.next()["item"]
    for path in ("/", f"/api/items/{item}", f"/api/items/{item}/pixels"):
        assert client.get(path).headers["cache-control"] == "no-store"


def test_pages_obey_their_own_policy() -> None:
    for template in PACKAGE.glob("templates/*.html"):
        text = template.read_text(encoding="utf-8")
        assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=|javascript:", text), template.name


def test_nothing_comes_from_another_server() -> None:
    files = [f for f in PACKAGE.rglob("*") if f.suffix in (".html", ".js", ".css", ".svg")]
    assert len(files) > 20
    for file in files:
        addresses = re.findall(r"(?:https?:)?//[\w-]+(?:\.[\w-]+)+", file.read_text(encoding="utf-8"))
        assert set(addresses) <= {"http://www.w3.org"}, file.name  # the name of SVG, which nobody loads


def test_every_file_that_a_page_or_script_names_is_there(client) -> None:
    named = set()
    for file in PACKAGE.rglob("*.html"):
        named |= set(re.findall(r'"(/static/[^"]+)"', file.read_text(encoding="utf-8")))
    for file in PACKAGE.rglob("*.js"):
        named |= {f"/static/js/{name}" for name in re.findall(r'from "\./([^"]+)"', file.read_text(encoding="utf-8"))}
    assert len(named) > 15
    assert [path for path in sorted(named) if client.get(path).status_code != 200] == []


def test_the_origin_of_the_tests_is_the_one_of_their_host() -> None:
    assert ORIGIN.endswith("localhost")  # else every refusal above would be for the wrong reason
