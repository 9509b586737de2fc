"""`llx build --remote` where nobody answers, or somebody says too much: an end, and a line."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time

import pytest

from llx.exporter.engines import ssh
from tests.cli.test_bad_input import assert_refused
from tests.conftest import export_tiny
from tests.sshd import Wire, serving

RTX = ("--engine", "trt-rtx", "--sm", "86", "-p", "16", "-n", "8")


@pytest.fixture
def artifact(tmp_path_factory):
    """Its own for each test: what one builds is not in the next one's way."""
    return export_tiny(tmp_path_factory.mktemp("tiny"), "fp16")


@pytest.fixture
def impatient(monkeypatch):
    """As in earnest, but seconds for what is minutes."""
    monkeypatch.setattr(ssh, "CONNECT_S", 3.0)
    monkeypatch.setattr(ssh, "KEEPALIVE_S", 0.5)
    monkeypatch.setattr(ssh, "KEEPALIVES_MISSED", 3)
    monkeypatch.setattr(ssh, "CLOSE_S", 0.5)


@contextlib.contextmanager
def listening(serve):
    """A server on loopback that does with every connection what it is told to."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connections = []

        def accept():
            with contextlib.suppress(OSError):
                while True:
                    connections.append(listener.accept()[0])
                    threading.Thread(target=serve, args=(connections[-1],), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            for connection in connections:
                connection.close()


def silence(connection):
    with contextlib.suppress(OSError):
        while connection.recv(1 << 16):
            pass


def greeting(connection):
    with contextlib.suppress(OSError):
        connection.sendall(b"SSH-2.0-slow\r\n")
        silence(connection)


def drip(connection):
    """A byte now and then: alive, and of no use."""
    with contextlib.suppress(OSError):
        while True:
            connection.sendall(b"x")
            time.sleep(0.2)


def flood(connection):
    with contextlib.suppress(OSError):
        while True:
            connection.sendall(b"words " * 10_000)


def lines(connection):
    with contextlib.suppress(OSError):
        while True:
            connection.sendall(b"a line\r\n" * 1000)


@pytest.mark.parametrize("serve", [silence, greeting, drip, flood, lines])
def test_a_server_that_is_none_ends_in_a_line(llx, artifact, impatient, monkeypatch, serve):
    monkeypatch.setattr(ssh, "CONNECT_S", 0.5)
    with listening(serve) as port:
        ended = llx("build", artifact.folder, *RTX, "--remote", f"me@127.0.0.1:{port}")
    assert_refused(ended, 3, "me@127.0.0.1 cannot be reached", f"see whether `ssh -p {port} ")


@pytest.fixture
def server(tmp_path, monkeypatch):
    with serving(tmp_path / "ssh") as running:
        running.know()
        monkeypatch.setenv("HOME", str(running.client))
        monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
        yield running


@pytest.mark.slow
@pytest.mark.parametrize("after", [3_000, 20_000, 300_000, 700_000])
def test_a_server_that_falls_silent_ends_in_a_line(llx, artifact, server, impatient, after):
    wire = Wire(server.port, cut_after=after, silent=True)
    try:
        server.know(wire.port)
        ended = llx(
            "build", artifact.folder, *RTX, "--python", sys.executable, "--remote",
            server.at(wire.port),
        )  # fmt: skip
    finally:
        wire.close()
    assert_refused(ended, 3, f"{server.user}@127.0.0.1")
    assert "run it again" in ended.stderr or "cannot be reached" in ended.stderr
    assert not (artifact.folder / "engines").exists()


def program(folder, text):
    path = folder / "program"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o700)
    return path


@pytest.mark.slow
def test_a_python_that_never_answers_ends_in_a_line(llx, artifact, server, impatient, monkeypatch):
    monkeypatch.setattr(ssh, "ANSWER_S", 2.0)
    silent = program(server.home, "sleep 1000")
    ended = llx("build", artifact.folder, *RTX, "--python", silent, "--remote", server.at())
    assert_refused(ended, 3, "no answer within 2 s", "run it again")


@pytest.mark.slow
@pytest.mark.parametrize("words", ["yes", "cat /dev/zero", 'yes \'{"say": "x"}\''])
def test_a_python_that_floods_ends_in_a_line(llx, artifact, server, impatient, monkeypatch, words):
    monkeypatch.setattr(ssh, "SAID_CHARACTERS", 1 << 20)
    flood = program(server.home, words)
    ended = llx("build", artifact.folder, *RTX, "--python", flood, "--remote", server.at())
    assert_refused(ended, 2, "without an end", "do not trust it")


@pytest.mark.slow
def test_a_silence_of_a_server_that_is_alive_is_waited_for(llx, artifact, server, impatient):
    """A build says nothing for hours; keepalives tell that somebody is there."""
    slow = program(server.home, f'sleep 5; exec {sys.executable} "$@"')
    ended = llx("build", artifact.folder, *RTX, "--python", slow, "--remote", server.at())
    assert ended.code == 3
    assert ended.stderr.splitlines()[-1].startswith("llx: an engine needs an NVIDIA GPU")
    assert os.listdir(artifact.folder / "engines")
