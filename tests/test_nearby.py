"""What is said of a path that leads to nothing."""

from __future__ import annotations

import pytest

from llx.artifact import open_artifact
from llx.errors import BadInput
from llx.nearby import absence, is_broken_link, near, no_such
from llx.result import read_results


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "checkpoints" / "tiny-chat").mkdir(parents=True)
    (tmp_path / "checkpoints" / "other").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("checkpoints/tiny-caht", "checkpoints/tiny-chat"),
        ("checkpoints/Tiny-Chat", "checkpoints/tiny-chat"),
        ("checkponits/tiny-chat", "checkpoints"),
        ("checkponits/a/b", "checkpoints"),
    ],
)
def test_what_is_called_almost_like_it_is_found(folder, typed, meant):
    assert near(folder / typed) == [folder / meant]
    assert str(folder / meant) in str(no_such(folder / typed, "name another"))


def test_where_nothing_is_like_it_nothing_is_said(folder):
    assert str(no_such(folder / "zzz", "name another")).endswith("zzz does not exist: name another")


def test_a_link_to_nothing_is_called_one(folder):
    link = folder / "link"
    link.symlink_to("gone")
    assert is_broken_link(link)
    assert absence(link) == "is a link to gone, which is not there"
    assert "mend the link" in str(no_such(link, "name another"))
    loop = folder / "loop"
    loop.symlink_to("loop")
    assert is_broken_link(loop)


@pytest.mark.parametrize("opened", [open_artifact, read_results])
def test_artifacts_and_results_that_are_mistyped_are_found_too(folder, opened):
    with pytest.raises(BadInput, match=r"there is .*checkpoints/tiny-chat"):
        opened(folder / "checkpoints" / "tiny-caht")
