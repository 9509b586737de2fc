"""A real OpenSSH server on loopback, with its own keys and its own home, and a wire that breaks."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.packages import install

# The environment may name another one.
SSHD = os.environ.get("SSHD") or shutil.which("sshd") or "/usr/sbin/sshd"
WITHOUT = f"no OpenSSH server here: {install('openssh-server', 'OpenSSH server')}"


def require_sshd():
    """Skip where there is none; where CI runs, its absence is a failure."""
    if not Path(SSHD).exists():
        if os.environ.get("CI"):
            pytest.fail(WITHOUT)
        pytest.skip(WITHOUT)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def keygen(path):
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path.with_name(f"{path.name}.pub").read_text().split()[:2]


@dataclass
class Server:
    """`home`: what is the home there. `client`: the home that holds the client's keys."""

    home: Path
    client: Path
    port: int
    host_key: list[str]
    process: subprocess.Popen = field(repr=False)

    @property
    def user(self):
        return pwd.getpwuid(os.geteuid()).pw_name

    def at(self, port=None):
        return f"{self.user}@127.0.0.1:{port or self.port}"

    def know(self, port=None, key=None):
        """Note the server's key as known."""
        with (self.client / ".ssh" / "known_hosts").open("a") as file:
            file.write(f"[127.0.0.1]:{port or self.port} {' '.join(key or self.host_key)}\n")

    @property
    def bundle(self):
        """The only bundle that has arrived."""
        (folder,) = (self.home / ".cache/llx/bundles").iterdir()
        return folder


@contextlib.contextmanager
def serving(folder):
    """A server whose sessions begin in a home of their own, whoever runs it."""
    require_sshd()
    client, home, own = folder / "client", folder / "home", folder / "sshd"
    for path in (client / ".ssh", home, own):
        path.mkdir(parents=True)
        path.chmod(0o700)
    host_key = keygen(own / "host")
    (own / "authorized").write_text(" ".join(keygen(client / ".ssh" / "id_ed25519")) + "\n")
    (client / ".ssh" / "known_hosts").touch()
    enter = own / "enter"
    enter.write_text(
        f'#!/bin/sh\ncd {home} && export HOME={home} && eval "$SSH_ORIGINAL_COMMAND"\n'
    )
    enter.chmod(0o700)
    sftp = next(
        path
        for path in ("/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server")
        if Path(path).exists()
    )
    port = free_port()
    (own / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {own / 'host'}\n"
        f"AuthorizedKeysFile {own / 'authorized'}\nPidFile none\nStrictModes no\nUsePAM no\n"
        f"PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n"
        f"Subsystem sftp {sftp}\nForceCommand {enter}\nMaxStartups 100\n"
    )
    Path("/run/sshd").mkdir(parents=True, exist_ok=True) if os.geteuid() == 0 else None
    with (own / "log").open("w") as log:
        process = subprocess.Popen(
            [SSHD, "-D", "-e", "-f", str(own / "config")], stdin=subprocess.DEVNULL, stderr=log
        )
    try:
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.05)
        else:
            raise AssertionError((own / "log").read_text())
        server = Server(home, client, port, host_key, process)
        yield server
    finally:
        process.terminate()
        process.wait(timeout=10)


class Wire:
    """A proxy on loopback that hangs up once so many bytes have gone to the server; then never.

    `silent`: it does not hang up, and lets nothing through any more.
    """

    def __init__(self, target, cut_after, silent=False):
        self._target, self._left, self._silent = target, cut_after, silent
        self._ended = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._ends = []
        self._threads = [threading.Thread(target=self._serve)]
        self._threads[0].start()

    def close(self):
        self._ended.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(timeout=20)
        for end in self._ends:
            end.close()

    def _serve(self):
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._target))
            self._ends += [near, far]
            for source, sink, counted in ((near, far, True), (far, near, False)):
                thread = threading.Thread(target=self._pump, args=(source, sink, counted))
                self._threads.append(thread)
                thread.start()

    def _pump(self, source, sink, counted):
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if counted and self._left is not None:
                    self._left -= len(data)
                    if self._left < 0:
                        if self._silent:
                            self._ended.wait()
                        self._left = None
                        break
                if self._silent and self._left is not None and self._left < 0:
                    self._ended.wait()
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
