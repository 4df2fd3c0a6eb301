"""Tokens, their files and their strength; sessions; counting of failed sign-ins."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
from pathlib import Path

import pytest
from signed_out import NOBODY, SignedOut

from samdpo.annotate.page.sessions import LIFETIME, Sessions
from samdpo.annotate.page.settings import PageSettings, check_address, check_reachable, names_of
from samdpo.annotate.page.tokens import (
    IN_ALL,
    PER_ADDRESS,
    WINDOW,
    SignInAttempts,
    Tokens,
    clean_name,
    make_tokens,
    read_users,
    strength,
)
from samdpo.errors import ConfigurationError

STRONG = "mF3-kq8ZtR1v_0LxYw7sQd"  # 22 characters


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


# ---- tokens ---------------------------------------------------------------------------------------------------------


def test_a_token_is_made_where_none_is_given() -> None:
    first, second = (make_tokens(None, None).shared for _ in range(2))
    assert first != second
    assert all(strength(token) >= 128 for token in (first, second))


def test_a_token_belongs_to_its_person() -> None:
    tokens = Tokens(None, {"anna": "token-of-anna", "ben": "token-of-ben"})
    assert tokens.accepts("anna", "token-of-anna")
    assert not tokens.accepts("anna", "token-of-ben")
    assert not tokens.accepts("carl", "token-of-anna")
    assert not tokens.accepts("carl", "")


OF_120_BITS = "9be3a4df3ffa4a6bcdb0ada9b5068e"


@pytest.mark.parametrize("token", ["a" * 64, "abcabc" * 10, "0123456789" * 2, "short", OF_120_BITS])
def test_weak_tokens_are_below_128_bits(token: str) -> None:
    assert strength(token) < 128


@pytest.mark.parametrize("token", [
    "correcthorsebatterystaple", "Correct-Horse-Battery-Staple-7", "Correct7Horse8Battery9Staple0",
    "MyHospitalSecretToken2024", "thequickbrownfoxjumpsoverthelazydog", "radiologieabteilungmünchen2024",
    "abcdefghijklmnopqrstuvwxyz012345", "QWERTYUIOPqwertyuiopASDFGH", "aB3$eF7!" * 4, "0123456789abcdef" * 3,
    "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "Password1234567890Password", "Donaudampfschifffahrtsgesellschaft",
])
def test_what_people_make_up_is_not_counted_as_if_it_were_random(token: str) -> None:
    assert strength(token) < 80
    with pytest.raises(ConfigurationError, match="samdpo_annotate makes one"):
        check_reachable("0.0.0.0", None, Tokens(token, {}))


@pytest.mark.parametrize("make", [lambda: secrets.token_hex(16), lambda: secrets.token_urlsafe(17), lambda: STRONG])
def test_random_tokens_of_128_bits_are_recognised(make) -> None:
    assert min(strength(make()) for _ in range(200)) >= 128


def test_a_file_names_people_with_spaces_and_leaves_comments_out(tmp_path: Path) -> None:
    file = tmp_path / "users"
    file.write_text("# radiology\n\nAnna  Example token-of-anna\n  ben\ttoken-of-ben \n")
    file.chmod(0o600)
    assert read_users(file) == {"Anna Example": "token-of-anna", "ben": "token-of-ben"}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "names nobody"),
        ("anna\n", "line 1: expected a name and a token"),
        ("anna token-of-anna\nanna other-token\n", "line 2: anna is there twice"),
        ("anna short\n", "shorter than 8"),
        ("<b>anna</b> token-of-anna\n", "line 1: expected a name"),
    ],
)
def test_a_file_that_breaks_its_form_is_named_with_the_line(tmp_path: Path, content: str, sentence: str) -> None:
    file = tmp_path / "users"
    file.write_text(content)
    with pytest.raises(ConfigurationError, match=sentence):
        read_users(file)


def test_a_file_that_others_can_read_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "users"
    file.write_text("anna token-of-anna\n")
    file.chmod(0o644)
    read_users(file)
    assert "chmod 600" in caplog.text


@pytest.mark.parametrize(("typed", "name"), [
    ("  Anna   B ", "Anna B"), ("Åsa", "Åsa"), ("A\u030asa", "Åsa"), ("张伟", "张伟"), ("हिन्दी", "हिन्दी"),
    ("O\u2019Brien", "O'Brien"), ("d\u2018Arc", "d'Arc"), ("Anne\u2010Marie", "Anne-Marie"), ("Gal\u00b7la", "Gal·la"),
    ("علی\u200cرضا", "علی\u200cرضا"), ("क्\u200dष", "क्\u200dष"), ("anna@example.org", "anna@example.org"),
])
def test_names_are_stored_in_one_form(typed: str, name: str) -> None:
    assert clean_name(typed) == name


@pytest.mark.parametrize("typed", [
    "", " ", "<script>", "a\x00b", "x" * 65, "../etc", "a/b", "a\nb", "a\tb", "a\x85b", "a\u200bb", "a\u200db",
    "a\u202eb", "\ufeffa", "\u0301a", "\ud800", "-a", "a;b", '"a"',
])
def test_what_is_no_name_is_refused(typed: str) -> None:
    assert clean_name(typed) is None


# ---- the address ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.7", "::"])
def test_a_public_address_needs_a_token_of_128_bits(host: str) -> None:
    with pytest.raises(ConfigurationError, match="at least 128"):
        check_reachable(host, None, Tokens("only-a-password", {}))
    check_reachable(host, None, Tokens(STRONG, {}))


def test_a_proxy_needs_one_too_and_so_does_each_person() -> None:
    with pytest.raises(ConfigurationError, match="at least 128"):
        check_reachable("127.0.0.1", "https://annotate.example.org", Tokens("only-a-password", {}))
    with pytest.raises(ConfigurationError, match="at least 128"):
        check_reachable("0.0.0.0", None, Tokens(None, {"anna": STRONG, "ben": "only-a-password"}))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.0.0.5"])
def test_this_machine_alone_may_have_a_short_token(host: str) -> None:
    check_reachable(host, None, Tokens("only-a-password", {}))


def test_the_page_is_known_by_the_names_it_was_given() -> None:
    assert names_of("127.0.0.1", "https://Annotate.Example.org:8443") == {"localhost", "127.0.0.1",
                                                                         "annotate.example.org"}


@pytest.mark.parametrize("address", [
    "annotate.example.org", "ftp://a.b", "https://a.b/path", "https://", "https://user:pw@a.b", "https://user@a.b",
    "https://a.b:port", "https://a.b:99999", "https://[::1", "https://a b", "https://a.b#here", "https://a.b?x", "",
])
def test_an_address_that_nobody_can_type_is_refused(address: str) -> None:
    with pytest.raises(ConfigurationError, match="--address") as error:
        check_address(address)
    assert "pw" not in str(error.value)


@pytest.mark.parametrize("address", ["https://annotate.example.org", "http://127.0.0.1:8080", "https://[::1]:8443"])
def test_an_address_that_people_type_is_taken(address: str) -> None:
    assert check_address(address) == check_address(address + "/") == address


@pytest.mark.parametrize("seconds", [float("inf"), float("nan"), 1e18, -1.0, 604801.0])
def test_a_lease_without_end_is_refused(seconds: float) -> None:
    with pytest.raises(ConfigurationError, match="--lease"):
        PageSettings(lease_seconds=seconds)


# ---- sessions -------------------------------------------------------------------------------------------------------


def test_a_session_outlives_a_restart_with_the_same_token_and_no_other() -> None:
    cookie = Sessions(Tokens(STRONG, {}), NOBODY).start("anna")
    assert Sessions(Tokens(STRONG, {}), NOBODY).read(cookie).name == "anna"
    assert Sessions(Tokens(STRONG[::-1], {}), NOBODY).read(cookie) is None


def test_a_session_ends() -> None:
    clock = Clock()
    sessions = Sessions(Tokens(STRONG, {}), NOBODY, clock)
    cookie = sessions.start("anna")
    clock.now += LIFETIME - 1
    assert sessions.read(cookie) is not None
    clock.now += 2
    assert sessions.read(cookie) is None


def test_signing_out_ends_one_session_and_no_other() -> None:
    sessions = Sessions(Tokens(STRONG, {}), SignedOut())
    first, second = sessions.start("anna"), sessions.start("anna")
    sessions.end(first)
    assert sessions.read(first) is None
    assert sessions.read(second) is not None


def test_a_person_who_was_taken_off_the_list_is_signed_out() -> None:
    cookie = Sessions(Tokens(None, {"anna": STRONG}), NOBODY).start("anna")
    assert Sessions(Tokens(None, {"ben": STRONG}), NOBODY).read(cookie) is None


def test_a_session_cannot_be_made_somebody_elses() -> None:
    sessions = Sessions(Tokens(STRONG, {}), NOBODY)
    payload, _, signature = sessions.start("anna").partition(".")
    content = json.loads(base64.urlsafe_b64decode(payload))
    other = base64.urlsafe_b64encode(json.dumps(["ben", *content[1:]]).encode()).decode()
    assert sessions.read(f"{other}.{signature}") is None


@pytest.mark.parametrize("cookie", [None, "", ".", "x.y", "bnVsbA==.0", "W10=.0", "\xff.é", "eyJhIjogMX0=.x"])
def test_nonsense_is_no_session(cookie: str | None) -> None:
    assert Sessions(Tokens(STRONG, {}), NOBODY).read(cookie) is None


def test_csrf_tokens_differ_between_sessions() -> None:
    sessions = Sessions(Tokens(STRONG, {}), NOBODY)
    assert sessions.read(sessions.start("anna")).csrf != sessions.read(sessions.start("anna")).csrf


def test_with_personal_tokens_a_session_is_signed_with_ones_own() -> None:
    people = Tokens(None, {"anna": STRONG, "ben": STRONG[::-1]})
    payload, _, _ = Sessions(people, NOBODY).start("anna").partition(".")
    of_ben = hmac.new(STRONG[::-1].encode(), f"samdpo session {payload}".encode(), hashlib.sha256).hexdigest()
    assert Sessions(people, NOBODY).read(f"{payload}.{of_ben}") is None
    assert Sessions(people, NOBODY).read(Sessions(people, NOBODY).start("ben")).name == "ben"


# ---- attempts -------------------------------------------------------------------------------------------------------


def test_after_some_failures_an_address_has_to_wait_and_others_do_not() -> None:
    clock = Clock()
    attempts = SignInAttempts(clock)
    for _ in range(PER_ADDRESS):
        assert attempts.begin("here") == 0
        clock.now += 1
    assert attempts.begin("here") == pytest.approx(WINDOW - PER_ADDRESS)
    assert attempts.begin("there") == 0
    clock.now += WINDOW
    assert attempts.begin("here") == 0


def test_many_addresses_together_have_to_wait() -> None:
    attempts = SignInAttempts(Clock())
    assert [attempts.begin(str(number)) for number in range(IN_ALL)] == [0] * IN_ALL
    assert attempts.begin("new") > 0


def test_an_attempt_counts_before_it_is_known_whether_it_fails() -> None:
    attempts = SignInAttempts(Clock())
    assert [attempts.begin("here") for _ in range(PER_ADDRESS)] == [0] * PER_ADDRESS
    assert attempts.begin("here") == WINDOW
    attempts.succeeded("here")
    assert attempts.begin("here") == 0
