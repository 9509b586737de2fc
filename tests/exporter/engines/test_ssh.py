"""SSH: what a name means, a file that is taken up where it broke off, words that are made safe."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from llx.bundle import clean
from llx.errors import BadInput, Lacking
from llx.exporter.engines.ssh import Remote, connected, error_of, message_of, remote_named
from llx.probe import partial_name
from tests.sshd import serving


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("orin", Remote(host="orin")),
        ("me@orin", Remote(host="orin", user="me")),
        ("me@orin:2222", Remote(host="orin", user="me", port=2222)),
        ("me@[fe80::1]:22", Remote(host="fe80::1", user="me", port=22)),
        ("[::1]", Remote(host="::1")),
    ],
)
def test_a_machine_by_name(text, named):
    assert remote_named(text) == named


def test_a_person_is_told_a_command_that_is_safe_to_paste():
    assert Remote(host="a;b", port=22).command == "ssh -p 22 'a;b'"


def test_a_file_goes_on_where_it_broke_off(tmp_path, monkeypatch):
    data = bytes(range(256)) * (3 << 12)  # 3 MiB
    content = (len(data), hashlib.sha256(data).hexdigest())
    begun = (5 << 19) + 123
    sent = []

    async def send(server):
        partial = server.home / partial_name("file", content[1])
        partial.write_bytes(data[:begun])
        async with connected(remote_named(server.at())) as there:
            await there.send(".", "file", data, content, begun, sent.append)

    with serving(tmp_path) as server:
        server.know()
        monkeypatch.setenv("HOME", str(server.client))
        monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
        asyncio.run(send(server))
        assert (server.home / "file").read_bytes() == data
        assert [path.name for path in server.home.iterdir()] == ["file"]
    assert sum(sent) == len(data) - begun


def test_words_of_another_machine_are_made_safe():
    assert clean("a\x1b[2J\nb\t\u202ec\x00") == "a [2J b c"
    assert len(clean("x" * 10_000)) == 300


@pytest.mark.parametrize("line", ["", "hello", "[1]", '{"a": 1, "b": 2}', "[" * 100_000, "3"])
def test_a_line_that_is_no_message_is_none(line):
    assert message_of(line)[0] == ""


def test_an_error_of_there_keeps_its_kind():
    remote = Remote(host="orin")
    error = error_of(["too old\x07", "update it", 2], remote)
    assert (str(error), type(error)) == ("orin: too old: update it", BadInput)
    assert isinstance(error_of(["no GPU", "get one", 3], remote), Lacking)
    assert isinstance(error_of("nonsense", remote), Lacking)
