"""What a run of the tests says of those that it did not run: a line for each cause, at the end."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.packages import install
from tests.test_imports import ROOT


def run_of(folder, *arguments, **environment):
    """How pytest ended where nothing but apt-get is installed, and what it printed."""
    (folder / "apt-get").symlink_to(shutil.which("true"))
    outside = {k: v for k, v in os.environ.items() if k != "CI" and not k.startswith("PYTEST")}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
        cwd=ROOT,
        env={**outside, "PATH": str(folder), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


RUNS = {
    "no OpenSSH server here: apt-get install openssh-server": (
        *("-n", "2", "--dist", "loadfile"),
        *("tests/exporter/engines/test_ssh.py", "tests/cli/test_elsewhere.py"),
        *("-k", "known or version or server"),
    ),
    "no Chromium here: apt-get install chromium": (
        *("-n", "0", "-m", "slow", "tests/reports/html/test_page_in_browser.py"),
    ),
}


@pytest.mark.parametrize(("cause", "arguments"), RUNS.items(), ids=RUNS)
def test_a_line_says_how_many_tests_were_not_run_and_what_installs_what_they_lack(
    tmp_path, cause, arguments
):
    ended = run_of(tmp_path, *arguments, SSHD=str(tmp_path / "none"))
    assert ended.returncode == 0, ended.stdout
    (skipped,) = re.findall(r"(\d+) skipped", ended.stdout)
    assert int(skipped) > 1
    said = [line for line in ended.stdout.splitlines() if "not run" in line]
    assert said == [f"{skipped} tests not run: {cause}"]
    assert "SKIPPED" not in ended.stdout


def test_where_debians_packages_are_not_the_packages_name_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    words = install("openssh-server", "OpenSSH server")
    assert words == "install your system's package of the OpenSSH server"
    (tmp_path / "apt-get").symlink_to(shutil.which("true", path="/bin:/usr/bin"))
    assert install("openssh-server", "OpenSSH server") == "apt-get install openssh-server"
