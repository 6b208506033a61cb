"""Names and addresses of folder remotes: legal everywhere, distinct everywhere, read back as written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localstore_adapters._folder_files import FileName, is_passing, parse_device, parse_name, safe_name
from localstore_adapters.folder import FolderAdapter, folder_path

LEGAL = set("abcdefghijklmnopqrstuvwxyz0123456789_-%~")


@given(st.text())
def test_a_safe_name_is_legal_on_every_file_system(text: str) -> None:
    name = safe_name(text)
    assert set(name) <= LEGAL
    assert name.startswith("p-")
    assert len(name) <= 100
    assert not is_passing(name)


@given(st.text(max_size=60), st.text(max_size=60))
def test_safe_names_are_distinct_where_case_is_ignored_too(one: str, other: str) -> None:
    assert (safe_name(one).lower() == safe_name(other).lower()) == (one == other)


@pytest.mark.parametrize(("one", "other"), [("x" * 200, "x" * 201), ("\ud800" * 90, "\ud801" * 90), ("team", "Team")])
def test_long_and_odd_texts_stay_distinct(one: str, other: str) -> None:
    assert safe_name(one) != safe_name(other)


@given(st.integers(1, 2**63 - 1), st.integers(1, 2**63 - 1), st.binary(min_size=8, max_size=8))
def test_file_names_are_read_back(one: int, other: int, digest: bytes) -> None:
    name = FileName(min(one, other), max(one, other), digest.hex())
    assert parse_name(str(name)) == name
    assert str(name) == str(name).lower()


@pytest.mark.parametrize("name", ["", "x", "AB" * 16, "ab" * 15, "ab" * 17, "g" * 32, "p-default"])
def test_other_directories_are_nobodys(name: str) -> None:
    assert parse_device(name) is None


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("folder:///mnt/share/todo", "/mnt/share/todo"),
        ("folder:///mnt/my%20share/100%25%3F", "/mnt/my share/100%?"),
        ("folder:///mnt/m%C3%BCsli", "/mnt/müsli"),
        ("folder:///mnt/müsli", "/mnt/müsli"),
    ],
)
def test_a_url_names_an_absolute_path(url: str, path: str) -> None:
    assert folder_path(url, windows=False) == path
    assert folder_path(url, windows=True) == path


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("folder:///C:/Users/Emma/todo", "C:/Users/Emma/todo"),
        ("folder:///d%3A/x", "d:/x"),
        ("folder://server/share/todo", "//server/share/todo"),
    ],
)
def test_windows_has_drives_and_servers(url: str, path: str) -> None:
    assert folder_path(url, windows=True) == path


@pytest.mark.parametrize("url", ["folder:", "folder://", "folder:///", "folder:todo", "folder://todo", "folder://host/share"])
def test_a_url_without_an_absolute_path_is_refused_with_an_example(url: str) -> None:
    with pytest.raises(ValueError, match="folder:///mnt/share/todo"):
        folder_path(url, windows=False)


@pytest.mark.parametrize("url", ["folder:///a?b", "folder:///a#b"])
def test_characters_that_cut_the_path_short_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="%3F and %23"):
        FolderAdapter.from_url(url)
