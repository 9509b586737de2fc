"""Writing past the page cache: the same bytes, wherever it is possible and wherever not."""

from __future__ import annotations

import errno
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llx.exporter import direct
from llx.exporter.direct import DirectWriter


@given(st.lists(st.binary(max_size=9000), max_size=20), st.sampled_from([4096, 8192]))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_is_read(tmp_path, monkeypatch, pieces, block):
    monkeypatch.setattr(direct, "BLOCK_BYTES", block)
    with DirectWriter(tmp_path / "file") as file:
        for piece in pieces:
            file.write(piece)
    assert (tmp_path / "file").read_bytes() == b"".join(pieces)


@pytest.mark.parametrize("refusing", ["open", "write"])
def test_a_file_system_that_knows_no_direct_writes_is_written_through_the_cache(
    tmp_path, monkeypatch, refusing
):
    monkeypatch.setattr(direct, "BLOCK_BYTES", 4096)
    real_open, real_write, refused = os.open, os.write, []

    def refuse_open(path, flags, mode=0o777):
        if flags & direct.DIRECT:
            refused.append(path)
            raise OSError(errno.EINVAL, "Invalid argument")
        return real_open(path, flags, mode)

    def refuse_write(file, data):
        if not refused:
            refused.append(file)
            raise OSError(errno.EINVAL, "Invalid argument")
        return real_write(file, data)

    if refusing == "open":
        monkeypatch.setattr(os, "open", refuse_open)
    else:
        monkeypatch.setattr(os, "write", refuse_write)
    with DirectWriter(tmp_path / "file") as file:
        file.write(bytes(range(256)) * 40)
    assert refused
    assert (tmp_path / "file").read_bytes() == bytes(range(256)) * 40


def test_a_full_disk_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(direct, "BLOCK_BYTES", 4096)

    def fill(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", fill)
    with pytest.raises(OSError, match="No space left"), DirectWriter(tmp_path / "file") as file:
        file.write(bytes(5000))
