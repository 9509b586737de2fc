"""`llx build` for another machine, over a real OpenSSH server on loopback."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llx.api.build import build_requests
from llx.api.elsewhere import Elsewhere, for_card
from llx.devices import devices_named
from llx.engine import engines_of
from llx.errors import BadInput
from llx.result import read_results
from tests.cli.test_bad_input import assert_refused
from tests.conftest import export_tiny
from tests.sshd import Wire, free_port, keygen, serving

RTX = ("--engine", "trt-rtx", "--sm", "86", "--python", sys.executable, "-p", "16", "-n", "8")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return export_tiny(tmp_path_factory.mktemp("tiny"), "fp16")


@pytest.fixture
def artifact(exported, tmp_path):
    """An artifact of the test's own."""
    from llx.artifact import open_artifact

    return open_artifact(Path(shutil.copytree(exported.folder, tmp_path / "tiny-fp16")))


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server whose key is known, and this process as its client."""
    with serving(tmp_path / "ssh") as running:
        running.know()
        monkeypatch.setenv("HOME", str(running.client))
        monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
        monkeypatch.delenv("XDG_STATE_HOME", raising=False)
        yield running


@pytest.fixture(scope="module")
def built_there(exported, tmp_path_factory):
    """A home in which the bundle of `exported` has arrived and was built."""
    folder = tmp_path_factory.mktemp("first")
    copy = shutil.copytree(exported.folder, folder / "tiny-fp16")
    with serving(folder / "ssh") as server:
        server.know()
        environment = {**os.environ, "HOME": str(server.client), "SSH_AUTH_SOCK": ""}
        command = [sys.executable, "-m", "llx", "build", copy, *RTX]
        ended = subprocess.run(
            [*command, "--remote", server.at()], env=environment, capture_output=True, check=False
        )
        assert ended.returncode == 3, ended.stderr
        return server.home


def half_written(folder):
    return [path for path in folder.rglob(".*") if path.name != ".ssh"]


def without_engines(artifact):
    folder = artifact.folder / "engines"
    return not folder.exists() or not list(folder.iterdir())


def test_an_engine_is_built_there_and_brought_back(llx, artifact, server):
    first = llx("build", artifact.folder, *RTX, "--remote", server.at())
    assert first.code == 3, first.stderr
    assert first.stderr.splitlines() == [
        "llx: an engine needs an NVIDIA GPU and its driver, and none is here: run the bundle on "
        "the device that it is for; an engine that was built is kept"
    ]
    assert "no numbers" in first.stdout
    (engine,) = engines_of(artifact, "trt-rtx")
    key = engine.manifest.key
    assert (key.sm, key.device, key.dialect) == (86, None, "standard")
    assert set(engine.manifest.files) == {"engine.plan", "build.json", "device.json"}
    assert engine.manifest.peak_host_bytes > 1 << 20
    assert (engine.folder / "engine.plan").read_bytes() == (
        server.bundle / "out" / "engine.plan"
    ).read_bytes()
    (result,) = read_results(engine.folder / "results.json")
    assert (result.engine, result.dialect, result.error.exit_code) == ("trt-rtx", "standard", 3)
    assert result.speed == []
    assert result.environment.versions["trt-rtx"].startswith("1.7.")
    with pytest.raises(BadInput, match="was not built by you here"):
        engine.plan()
    assert not half_written(artifact.folder)
    assert not half_written(server.home / ".cache")

    plan = (server.bundle / "out" / "engine.plan").stat().st_mtime_ns
    again = llx("build", artifact.folder, *RTX, "--remote", server.at())
    assert again.code == 3
    assert "sent 0 of " in again.stdout
    assert "nothing to do" in again.stdout
    assert f"{engine.folder} is there already" in again.stdout
    assert (server.bundle / "out" / "engine.plan").stat().st_mtime_ns == plan

    other = llx("build", artifact.folder, *RTX, "--remote", server.at(), "--context", "48")
    assert "sent 2 of " in other.stdout  # the graph and the recipe, and no weights
    assert len(engines_of(artifact, "trt-rtx")) == 2


def test_a_connection_that_breaks_is_taken_up_again(llx, artifact, server):
    wire = Wire(server.port, cut_after=600_000)
    try:
        server.know(wire.port)
        broken = llx("build", artifact.folder, *RTX, "--remote", server.at(wire.port))
        assert_refused(
            broken, 3, f"the connection to {server.user}@127.0.0.1 broke", "run it again"
        )
        assert without_engines(artifact)
        arrived = [p for p in server.bundle.rglob("*") if p.is_file() and p.name[0] != "."]
        assert 0 < len(arrived) < 100
        assert not (server.bundle / "recipe.json").exists()
        again = llx("build", artifact.folder, *RTX, "--remote", server.at(wire.port))
        assert again.code == 3
        total = sum(1 for p in server.bundle.rglob("*") if p.is_file() and p.parent.name != "out")
        assert f"sent {total - len(arrived)} of {total} files" in again.stdout
        assert len(engines_of(artifact)) == 1
        assert not half_written(server.home / ".cache")
    finally:
        wire.close()


def test_a_key_that_is_unknown_or_another_is_refused(llx, artifact, server, tmp_path):
    known = server.client / ".ssh" / "known_hosts"
    for text in ("", f"[127.0.0.1]:{server.port} {' '.join(keygen(tmp_path / 'another'))}\n"):
        known.write_text(text)
        ended = llx("build", artifact.folder, *RTX, "--remote", server.at())
        assert_refused(ended, 2, "unknown or has changed", f"`ssh -p {server.port} ")
    known.unlink()
    assert llx("build", artifact.folder, *RTX, "--remote", server.at()).code == 2
    assert not (server.home / ".cache").exists()
    assert without_engines(artifact)


@pytest.mark.parametrize("line", ["UserKnownHostsFile none", "StrictHostKeyChecking no"])
def test_the_check_of_the_key_cannot_be_turned_off(llx, artifact, server, line):
    (server.client / ".ssh" / "config").write_text(f"Host *\n  {line}\n")
    (server.client / ".ssh" / "known_hosts").write_text("")
    ended = llx("build", artifact.folder, *RTX, "--remote", server.at())
    assert ended.code == 2
    assert "key" in ended.stderr
    assert not (server.home / ".cache").exists()


def test_names_of_the_users_config_are_known(llx, artifact, server):
    (server.client / ".ssh" / "config").write_text(
        f"Host bench\n  HostName 127.0.0.1\n  Port {server.port}\n  User {server.user}\n"
    )
    device = ("--device", "agx-orin-64", "--jetpack", "6.2", "--remote", "bench")
    ended = llx("build", artifact.folder, "--python", sys.executable, *device)
    assert_refused(ended, 3, "bench: that machine is no Jetson", "name the Jetson with --remote")
    assert not list((server.home / ".cache/llx/bundles").rglob("*.safetensors"))


def test_a_key_that_opens_nothing(llx, artifact, server):
    (server.client / ".ssh" / "id_ed25519").unlink()
    ended = llx("build", artifact.folder, *RTX, "--remote", server.at())
    assert_refused(ended, 3, "lets nobody in with your keys", "ssh-copy-id")


def test_nobody_is_there(llx, artifact):
    ended = llx("build", artifact.folder, *RTX, "--remote", f"me@127.0.0.1:{free_port()}")
    assert_refused(ended, 3, "me@127.0.0.1 cannot be reached", "see whether `ssh -p ")


@pytest.mark.parametrize(
    "name",
    ["-oProxyCommand=touch pwned", "me@-oProxyCommand=x", "a b", "a\nb", "a\x1b[2J", "", "@host",
     "host:", "host:0", "host:99999", "host:ssh", "[::1", "[::1]22"],
)  # fmt: skip
def test_names_that_are_no_machine(llx, artifact, name):
    ended = llx("build", artifact.folder, *RTX, "--remote", name)
    assert_refused(ended, 2, "--remote", "write --remote user@host or user@host:port")
    assert "\x1b" not in ended.stderr


def test_a_python_that_is_not_there(llx, artifact, server):
    ended = llx(
        "build", artifact.folder, "--engine", "trt-rtx", "--remote", server.at(),
        "--python", "$(touch${IFS}pwned)python9",
    )  # fmt: skip
    assert_refused(ended, 3, "ended with 127", "--python")
    assert not (server.home / "pwned").exists()


def test_a_python_without_tensorrt(llx, artifact, server):
    ended = llx("build", artifact.folder, "--python", sys.executable, "--remote", server.at())
    assert_refused(ended, 3, "has no trt", "--python")


def test_what_was_tampered_with_there_is_sent_again(llx, artifact, server, built_there):
    shutil.copytree(built_there, server.home, dirs_exist_ok=True)
    library = server.bundle / "lib" / "llx" / "tensorrt.py"
    whole = library.read_bytes()
    library.write_bytes(whole + b"print('mine')\n")
    (server.bundle / "lib" / "sitecustomize.py").write_text("print('mine')")
    ended = llx("build", artifact.folder, *RTX, "--remote", server.at())
    assert "sent 1 of " in ended.stdout
    assert library.read_bytes() == whole
    assert not (server.bundle / "lib" / "sitecustomize.py").exists()


def liar(folder, name, change):
    """A Python there that lies: `out/NAME` is changed after each command of the bundle."""
    program = folder / "liar"
    program.write_text(
        f"#!{sys.executable}\n"
        "import json, pathlib, subprocess, sys\n"
        f"code = subprocess.call([{sys.executable!r}, *sys.argv[1:]])\n"
        f"path = pathlib.Path(sys.argv[1]).parent / 'out' / {name!r}\n"
        "if sys.argv[1] != '-' and path.exists():\n"
        "    value = json.loads(path.read_text())\n"
        f"    {change}\n"
        "    path.write_text(json.dumps(value))\n"
        "sys.exit(code)\n"
    )
    program.chmod(0o700)
    return (*RTX, "--python", program)


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("build.json", "value['tensorrt'] = '../../../escape'", "TensorRT version that is none"),
        ("build.json", "value['plan_bytes'] = 1 << 50", "an engine of 1125899906842624 bytes"),
        ("build.json", "value['plan_sha256'] = '0' * 64", "engine.plan that is not the one"),
        ("build.json", "value['layers'] = {'\\x1b[2J': 1}", "names that are none"),
        ("build.json", "value['recipe'] = ''", "an engine of another recipe"),
        ("build.json", "value['layers'] = {'x' * (2 << 20): 1}", "build.json of more than 1048576"),
        ("build.json", "value = [value]", "a build.json that is none"),
        ("samples.json", "value['judged'] = 'yes'", "a samples.json that is none"),
        ("samples.json", "value['recipe'] = 'x'", "samples of another recipe"),
    ],
)
def test_lies_are_refused_and_nothing_stays(
    llx, artifact, server, built_there, tmp_path, name, change, says
):
    shutil.copytree(built_there, server.home, dirs_exist_ok=True)
    ended = llx("build", artifact.folder, *liar(tmp_path, name, change), "--remote", server.at())
    assert ended.code == 2, ended.stderr
    assert ended.stderr.splitlines()[-1].startswith(f"llx: {server.user}@127.0.0.1 answered with ")
    assert says in ended.stderr
    assert "\x1b" not in ended.stderr + ended.stdout
    if name == "build.json":
        assert without_engines(artifact)
    assert not list(tmp_path.rglob("escape*"))


def test_a_bundle_for_a_jetson_is_written_and_said_to_be_no_engine(llx, artifact, tmp_path):
    device = ("--device", "agx-orin-64", "--jetpack", "6.2")
    ended = llx("build", artifact.folder, *device)
    assert (ended.code, ended.stderr) == (0, "")
    assert "bundles/tiny-fp16-agx-orin-64-jetpack6.2: " in ended.stdout
    assert "TensorRT 10.3 by dialect primitive" in ended.stdout
    assert ended.stdout.splitlines()[-2:] == [
        "not built: a bundle was written; copy it and run `python3 run.py`, or add --remote "
        "user@host",
        "then bring out/ back into it: `llx collect bundles/tiny-fp16-agx-orin-64-jetpack6.2`; "
        "its README.md says more",
    ]
    assert without_engines(artifact)
    recipe = json.loads(
        (tmp_path / "bundles/tiny-fp16-agx-orin-64-jetpack6.2/recipe.json").read_text()
    )
    assert recipe["needs"]["l4t"] == "36.4"
    assert "it is there already" in llx("build", artifact.folder, *device).stdout
    other = llx("build", artifact.folder, *device, "--context", "32")
    assert_refused(other, 2, "another bundle", "--overwrite")


@pytest.mark.parametrize(
    ("arguments", "code", "says", "remedy"),
    [
        (("--jetpack", "6.2"), 2, "--jetpack is of", "--device, such as agx-orin-64"),
        (("-o", "x"), 2, "--output is of", "--device"),
        (("--device", "toaster"), 2, "unknown device", "agx-orin-64"),
        (("--device", "all"), 2, "built for one device", "name one"),
        (("--device", "h100-sxm"), 2, "is no Jetson", "run `llx build` on the machine"),
        (("--device", "rtx-4090"), 2, "on the GPU itself", "choose --engine trt-rtx"),
        (
            ("--device", "rtx-4090", "--engine", "trt-rtx", "--sm", "86"),
            *(2, "SM 89", "leave one of them out"),
        ),
        (
            ("--device", "rtx-4090", "--engine", "trt-rtx", "-p", "8"),
            *(2, "-p is of a build for another machine", "--device"),
        ),
        (("--device", "agx-orin-64", "--jetpack", "5.1"), 2, "TensorRT 8.5", "update the Jetson"),
        (("--device", "agx-orin-64", "--strip"), 2, "stripped", "leave --strip out"),
        (("--device", "agx-orin-64", "--timing-cache", "x"), 2, "of this machine", "leave it out"),
        (("--device", "agx-orin-64", "-p", "5000"), 2, "5000", ""),
    ],
)
def test_what_cannot_be_typed(llx, artifact, tmp_path, arguments, code, says, remedy):
    ended = llx("build", artifact.folder, *arguments)
    assert_refused(ended, code, says, remedy)
    assert not (tmp_path / "bundles").exists()


UNASKED = {
    **dict.fromkeys(("context", "max_prefill", "dialect", "workspace", "opt_level")),
    **dict.fromkeys(("timing_cache",)),
    **{"batch": 1, "profiles": 1, "strip": False, "version_compatible": False, "command": ""},
}


@pytest.mark.parametrize("card", ["rtx-4090", "l4", "a10"])
def test_a_card_by_name_is_the_chip_to_build_for_here(card):
    (request,) = build_requests("trt-rtx", sm=None, **UNASKED)
    (device,) = devices_named(card)
    requests, where = for_card([request], Elsewhere(device=card))
    assert requests == build_requests("trt-rtx", sm=[device.sm], **UNASKED)
    assert not where.asked
    for other in (Elsewhere(device="agx-orin-64"), Elsewhere(device=card, remote="a@b")):
        assert for_card([request], other) == ([request], other)
