import dataclasses
import threading

import pytest

from samdpo.errors import ConfigurationError
from samdpo.networks.published.catalogue import CATALOGUE, published_file
from samdpo.networks.published.folder import download, find_weights, weights_folder


def files() -> list[str]:
    """In the weights folder, but for the locks, which stay."""
    return sorted(file.name for file in weights_folder().iterdir() if file.suffix != ".lock")


def test_a_missing_file_is_downloaded_and_then_it_is_there(home):
    path = find_weights(home.published)
    assert path == weights_folder() / "demo_net.pth"
    assert path.read_bytes() == home.content
    assert find_weights(home.published) == path
    assert len(home.ranges) == 1
    assert files() == ["demo_net.pth"]


def test_a_download_that_was_cut_goes_on_where_it_stopped(home):
    home.breaks_after = 300_000
    with pytest.raises(ConfigurationError, match="download failed"):
        find_weights(home.published)
    assert not (weights_folder() / "demo_net.pth").exists()
    home.breaks_after = 0
    assert find_weights(home.published).read_bytes() == home.content
    assert home.ranges[0] is None
    assert home.ranges[1].startswith("bytes=")
    assert 0 < int(home.ranges[1][6:-1]) <= 300_000


def test_where_the_home_sends_no_parts_it_begins_again(home):
    path = weights_folder() / "demo_net.pth"
    path.parent.mkdir()
    path.with_name("demo_net.pth.part").write_bytes(b"something else")
    home.sends_parts = False
    assert find_weights(home.published).read_bytes() == home.content


def test_a_whole_part_only_has_to_be_checked(home):
    path = weights_folder() / "demo_net.pth"
    path.parent.mkdir()
    path.with_name("demo_net.pth.part").write_bytes(home.content)
    assert find_weights(home.published) == path
    assert home.ranges == []


@pytest.mark.parametrize(
    ("content", "said"), [(b"x" * 1_048_576, "its SHA256 begins with"), (b"x" * 2_000_000, "2000000 bytes, expected")]
)
def test_what_is_not_the_published_file_does_not_stay(home, content, said):
    home.content = content
    with pytest.raises(ConfigurationError, match=rf"{said}.* samdpo_weights download demo_net"):
        find_weights(home.published)
    assert files() == []


def test_two_that_want_the_same_file_download_it_once(home):
    threads = [threading.Thread(target=find_weights, args=(home.published,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (weights_folder() / "demo_net.pth").read_bytes() == home.content
    assert len(home.ranges) == 1
    assert files() == ["demo_net.pth"]


def test_without_a_network_the_error_says_where_from_and_where_to(home):
    nowhere = dataclasses.replace(home.published, url="http://127.0.0.1:9/demo_net.pth")
    with pytest.raises(ConfigurationError) as error:
        find_weights(nowhere)
    for part in (str(weights_folder() / "demo_net.pth"), "https://example.org/demo", "-pretrained_weights FILE"):
        assert part in str(error.value)


def test_a_file_that_no_program_can_get_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("samdpo_weights", str(tmp_path))
    with pytest.raises(ConfigurationError, match=r"OpenGVLab/SAM-Med2D .* put it into .* sam-med2d_b\.pth"):
        find_weights(published_file("sam_med2d_b"))


def test_without_the_variable_the_folder_is_in_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.delenv("samdpo_weights", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert weights_folder() == tmp_path / "samdpo" / "weights"


def test_what_can_be_downloaded_can_be_checked():
    for published in CATALOGUE.values():
        assert not published.url or (published.size and published.digest), published.name
        assert published.url.startswith("https://") or not published.url


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(ConfigurationError, match="no published weights 'sam9'. Known: sam_med2d_b"):
        published_file("sam9")


def test_a_kept_file_is_never_downloaded_again(home):
    path = weights_folder() / "demo_net.pth"
    path.parent.mkdir()
    path.write_bytes(b"my own")
    assert download(home.published, path).read_bytes() == b"my own"
    assert home.ranges == []
