"""`llx doctor --bundle`: what a maintainer needs, and nothing that is anybody's own."""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
from dataclasses import replace

import msgspec
import pytest

from llx.api import bugreport
from llx.api.bugreport import OTHER, READ_IT, VARIABLES, environment, write_bundle
from llx.api.doctor import states as doctor_states
from llx.artifact import open_artifact, remember_latest
from llx.errors import BadInput
from llx.manifest import SourceFile, write_manifest

STATES = [("llx", "0.1.0"), ("runtime trt", "10.13.3.9"), ("CPU", "A Processor, 2 CPUs")]
# A secret of its own for every place that is read from: whichever leaks is named.
VARIABLES_PLANTED = {
    "HF_TOKEN": "hf_SecretSecretOne1",
    "AWS_SECRET_ACCESS_KEY": "secrettwo/secrettwo",
    "HTTPS_PROXY": "http://proxyuser:secretthree@proxyhost.example:3128",
    "PIP_EXTRA_INDEX_URL": "https://indexuser:secretfour@pypi.example/simple",
    "MY_OWN": "secretfive",
    "USER": "secretsix",
    "HOSTNAME": "secretseven.example",
    "HOME": "/opt/people/secreteight",
    **dict.fromkeys(VARIABLES, "secretnine"),
}
PLANTED = (
    *("hf_SecretSecretOne1", "secrettwo", "proxyuser", "secretthree", "proxyhost", "indexuser"),
    *("secretfour", "secretfive", "secretsix", "secretseven", "secreteight", "secretnine"),
    *(
        "commandtoken",
        "commanduser",
        "commandhost",
        "commandpath",
        "sourcepath",
        "sourcefile-folder",
    ),
    *("warningpath", "warning@mail.example", "10.1.2.3", "labelword", "remotetoken", "gecosname"),
    *("statetoken", "nodename", "netrcword", "gitword", "sshword"),
)


@pytest.fixture
def planted(tiny, tmp_path, monkeypatch):
    """A machine and an artifact with a secret in each place that a bundle is made of."""
    for name, value in VARIABLES_PLANTED.items():
        monkeypatch.setenv(name, value)
    entry = pwd.struct_passwd(("secretsix", "x", 1, 1, "gecosname", "/opt/people/secreteight", ""))
    monkeypatch.setattr("pwd.getpwuid", lambda _: entry)
    monkeypatch.setattr("socket.gethostname", lambda: "nodename")
    monkeypatch.chdir(tmp_path)
    home = tmp_path / "home"  # whose files are no part of it
    home.mkdir()
    (home / ".netrc").write_text("machine x login y password netrcword")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_text("url = https://u:gitword@host/x")
    folder = tmp_path / "artifacts" / "tiny"
    shutil.copytree(tiny.folder, folder)
    manifest = open_artifact(folder).manifest
    source = replace(
        manifest.source,
        label="labelword of hf_labelword1",
        path="/data/sourcepath/tiny",
        files=(SourceFile(path="/data/sourcefile-folder/model.safetensors", bytes=1, mtime_ns=1),),
        warnings=(
            "/data/warningpath/config.json: ask warning@mail.example at 10.1.2.3, "
            "git+https://remotetoken@git.example/x.git, ssh-ed25519 sshword me",
        ),
    )
    command = (
        "llx export --weights /data/commandpath/tiny --hf-token commandtoken --label labelword "
        "--remote commanduser@commandhost # secretsix on secretseven.example in "
        "/opt/people/secreteight/x with secretfive=hf_SecretSecretOne1 secretthree nodename"
    )
    monkeypatch.setenv("MY_PASSWORD", "labelword")
    monkeypatch.setenv("MY_OTHER_TOKEN", "secretfive")
    write_manifest(folder, replace(manifest, command=command, source=source))
    remember_latest(folder)
    return tmp_path


def test_no_secret_is_in_it_wherever_it_was_planted(planted):
    states = [*STATES, ("doubtful", "token=statetoken at secretsix@nodename, gecosname")]
    text = write_bundle(lambda: states).path.read_text()
    leaked = [word for word in PLANTED if word.casefold() in text.casefold()]
    assert leaked == []
    assert "[secret]" in text


def test_it_says_what_a_maintainer_asks_for(planted):
    told = json.loads(write_bundle(lambda: STATES).path.read_bytes())
    assert told["doctor"] == dict(STATES)
    assert told["versions"]["onnxruntime"]
    assert told["machine"]["cpus"] == os.cpu_count()
    assert told["machine"]["kernel"].startswith("Linux ")
    assert "CPUExecutionProvider" in told["onnxruntime_providers"]
    manifest = told["artifact"]["manifest"]
    assert manifest["command"].startswith("llx export --weights …/tiny")
    assert manifest["spec"]["layers"] == 2
    assert manifest["source"]["files"] == [{"name": "model.safetensors", "bytes": 1}]
    assert manifest["files"]["weights.safetensors"]["bytes"]
    assert "text" not in manifest


def test_it_holds_neither_weights_nor_tokenizer(planted):
    text = write_bundle(lambda: STATES).path.read_text()
    assert len(text) < 64_000
    assert "<unused7>" not in text
    assert not re.search("[0-9a-f]{32}", text)


def test_variables_are_told_by_a_list_and_only_in_their_form():
    env = {
        "OMP_NUM_THREADS": "4",
        "LANG": "hf_abcdefgh",
        "PATH": "/x",
        "HF_TOKEN": "hf_x",
        "CI": "",
    }
    assert environment(env) == {"CI": "", "LANG": OTHER, "OMP_NUM_THREADS": "4"}
    assert environment(dict.fromkeys(VARIABLES, "word of mine")) == dict.fromkeys(VARIABLES, OTHER)


def test_nothing_else_is_overwritten(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = write_bundle(lambda: STATES)
    assert write_bundle(lambda: STATES).path == first.path  # its own is
    for content in ("mine", "{}", "[1]", '{"schema": "llx.result/1"}'):
        (tmp_path / "other").write_text(content)
        with pytest.raises(BadInput, match="no bundle"):
            write_bundle(lambda: STATES, tmp_path / "other")
        assert (tmp_path / "other").read_text() == content
    (tmp_path / "link").symlink_to(first.path)
    for place in ("link", ".", "nowhere/x"):
        with pytest.raises(BadInput):
            write_bundle(lambda: STATES, tmp_path / place)


@pytest.mark.parametrize("damage", ["none", "no manifest", "no JSON"])
def test_an_artifact_that_cannot_be_read_is_what_is_reported(tmp_path, monkeypatch, damage):
    monkeypatch.chdir(tmp_path)
    if damage != "none":
        (tmp_path / "artifacts" / "x").mkdir(parents=True)
        (tmp_path / "artifacts" / "x" / "manifest.json").write_text("{")
        remember_latest(tmp_path / "artifacts" / "x")
    if damage == "no manifest":
        (tmp_path / "artifacts" / "x" / "manifest.json").unlink()
    told = msgspec.json.decode(write_bundle(lambda: STATES).path.read_bytes())
    assert "artifact" in told["artifact"]["none"] or "manifest" in told["artifact"]["none"]


def test_the_command_says_what_is_in_it_and_to_read_it(llx, tmp_path, monkeypatch):
    ended = llx("doctor", "--bundle", "told.json")
    assert (ended.code, ended.stderr) == (0, "")
    assert f"told.json: a bundle for a bug report; {READ_IT}" in ended.stdout
    told = json.loads((tmp_path / "told.json").read_bytes())
    for line in told["contents"]:
        assert line in ended.stdout
    assert llx("doctor", "told.json").code == 2
    monkeypatch.setattr(bugreport, "read_machine", interrupted)
    before = (tmp_path / "told.json").read_bytes()
    assert llx("doctor", "--bundle", "told.json").code == 130
    assert (tmp_path / "told.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["told.json"]


def interrupted():
    raise KeyboardInterrupt


def test_what_several_engines_lack_is_said_once():
    said = [state for _, state in doctor_states() if len(state) > 60]
    assert len({re.sub(r"engine [\w-]+", "engine", state) for state in said}) == len(said)
