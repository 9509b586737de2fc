"""Texts that leave this machine: what is secret in them is gone, and the rest can be read."""

from __future__ import annotations

import base64
import random
from pathlib import Path

import pytest

from llx.scrub import Scrubber, handed_on

SCRUBBER = Scrubber(
    env={
        "HF_TOKEN": "plainwords",
        "HTTPS_PROXY": "http://someone:hunter22@proxy.example.internal:3128",
        "PIP_INDEX_URL": "https://ci%40corp:p%40ssword@pypi.example.internal/simple",
        "SSH_AUTH_SOCK": "/tmp/agent",
        "LANG": "C.UTF-8",
    },
    home="/srv/people/mira",
    users=["mira"],
    hosts=["galatea.example.internal", "galatea"],
)

SECRETS = {
    "a value of a secret variable": ("llx export --label plainwords", "plainwords"),
    "a proxy's password": ("cannot connect as hunter22", "hunter22"),
    "an index's user": ("log in as ci@corp, p@ssword", "p@ssword"),
    "a token of the hub": ("llx export --weights x # hf_AbCdEfGhIjKlMnOp", "AbCdEf"),
    "a token of GitHub": ("git+https://ghp_0123456789abcdefABCDEF@github.com/a/b", "ghp_0123"),
    "a password in a URL": ("https://bob:swordfish@git.example.com/x.git", "swordfish"),
    "a user in a URL": ("https://bobby@git.example.com/x.git", "bobby"),
    "a host of its own in a URL": ("see https://git.corp.example/x", "corp.example"),
    "a signed URL": ("https://huggingface.co/x?X-Amz-Signature=abcdef&k=1", "abcdef"),
    "an option": ("llx export --hf-token abcdef", "abcdef"),
    "an option with a sign": ("llx export --api-key=abcdef", "abcdef"),
    "an assignment": ("password='abcdef', x=1", "abcdef"),
    "a header": ("Authorization: Bearer abcdef.ghi", "abcdef"),
    "a header alone": ("sent Bearer abcdef.ghi", "abcdef"),
    "a JSON Web Token": ("got eyJhbGciOi.eyJzdWIiOi.c2ln", "c2ln"),
    "a key of AWS": ("AKIAIOSFODNN7EXAMPLE is refused", "IOSFODNN"),
    "a private key": ("-----BEGIN OPENSSH PRIVATE KEY-----\nb3Blbn\n", "b3Blbn"),
    "a word drawn at random": ("id 9f8a7c6b5d4e3f2a1b0c9d8e7f6a5b4c was", "9f8a7c6b"),
    "the home": ("/srv/people/mira/models/tiny", "people"),
    "another's home": ("/home/walter/models/tiny", "walter"),
    "a Mac's home": ("/Users/walter/tiny", "walter"),
    "folders on the way": ("/data/customer-x/secret-project/tiny", "customer-x"),
    "folders below the home": ("/srv/people/mira/customer-x/tiny", "customer-x"),
    "the user": ("exported by mira on Tuesday", "mira"),
    "the user in a name": ("tiny_mira-v2", "mira"),
    "the user in capitals": ("MIRA", "MIRA"),
    "the host": ("on Galatea: no", "alatea"),
    "the host in full": ("galatea.example.internal", "internal"),
    "a remote": ("llx build --remote titan", "titan"),
    "a remote with a user": ("llx build --remote walter@titan", "titan"),
    "a remote in Python": ("llx.build(remote='titan')", "titan"),
    "an e-mail address": ("ask walter.w@example.org", "walter"),
    "an address": ("10.11.12.13 refused", "10.11.12.13"),
    "an address with a port": ("10.11.12.13:8080 refused", "10.11.12"),
    "an address of version 6": ("fe80::1ff:fe23:4567:890a refused", "fe23"),
    "a MAC address": ("00:1a:2b:3c:4d:5e", "1a:2b"),
    "a GPU's own number": ("GPU-8b5f0c3e-1111-2222-3333-444455556666", "8b5f0c3e"),
    "an escape": ("\x1b[31mred", "\x1b"),
}


@pytest.mark.parametrize(("text", "secret"), SECRETS.values(), ids=SECRETS)
@pytest.mark.parametrize("around", ["{}", "a ({}), b", '"{}"', "x\n{}\ty"])
def test_a_secret_is_gone_wherever_it_stands(text, secret, around):
    said = SCRUBBER.text(around.format(text))
    assert secret not in said
    assert said.isprintable()


@pytest.mark.parametrize(
    "text",
    [
        "llx export --weights models/tiny-llama --precision int4 --block 64 -o artifacts/budget",
        "llx.export('135m', precision='int8', max_kld=0.005, context=2048)",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "meta-llama/Llama-3.1-70B-Instruct, safetensors",
        "model.layers.31.self_attn.q_proj.weight: rotary_emb.inv_freq is not used",
        "Intel(R) Core(TM) i7-8700K CPU @ 3.20GHz, 12 CPUs",
        "19.6 GiB free of 23.5 GiB; 2100…3400 MHz, governor performance",
        "config.json does not say rope_theta: 10000 is taken, transformers' default",
        "the tokenizer goes up to token 49152, and the model's end at 49151",
        "https://huggingface.co/HuggingFaceTB/SmolLM2-135M",
        "Linux 6.18.44-generic",
        "pip install 'tensorrt>=10.3' on a machine with an NVIDIA GPU",
    ],
)
def test_what_is_no_secret_stays_as_it_is(text):
    assert SCRUBBER.text(text) == text


def test_paths_keep_what_a_maintainer_asks_for():
    assert SCRUBBER.text("/srv/people/mira/tiny") == "~/tiny"
    assert SCRUBBER.text("/data/x/tiny.gguf is no GGUF file") == "…/tiny.gguf is no GGUF file"


def test_within_lists_and_objects_it_is_gone_too():
    value = {"mira": ["hf_AbCdEfGhIj", {"api_key": "abc", "n": 1, "none": None}], "token": "x y"}
    assert SCRUBBER.value(value) == {
        "[user]": ["[secret]", {"api_key": "[secret]", "n": 1, "none": None}],
        "token": "[secret]",
    }


@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode, base64.b32encode])
def test_most_words_drawn_at_random_are_found_though_nobody_knows_their_form(encode):
    dice = random.Random(0)
    words = [encode(dice.randbytes(24)).decode() for _ in range(300)]
    assert sum(SCRUBBER.text(word) != word for word in words) > 250


def test_what_is_long_is_cut():
    assert len(SCRUBBER.text("word " * 10_000)) == 2000
    assert len(SCRUBBER.value(["x"] * 1000)) == 64


@pytest.mark.parametrize(
    ("said", "left"),
    [
        (r"no C:\Users\dave\m here", "no …/m here"),
        (r"C:\Users\dave smith\models\m.gguf", "…/m.gguf"),
        ("c:/Users/dave/m", "…/m"),
        (r"at C:\Users\dave, and", "at ~, and"),
        (r"in \\nas01\people\dave\m.onnx", "in …/m.onnx"),
        (r"path=D:\work\dave", "path=…/dave"),
        (r"\\?\C:\Users\dave\m", "…/m"),
        ("a ratio of 1:2 and note: this/that", "a ratio of 1:2 and note: this/that"),
    ],
)
def test_paths_of_windows_go_as_others_do(said, left):
    scrubber = Scrubber(env={}, home="/home/mira", users=[], hosts=[])
    assert scrubber.text(said) == left


def test_a_share_of_a_machine_is_not_told_where_it_is_all_there_is():
    scrubber = Scrubber(env={}, home="/home/mira", users=[], hosts=[])
    assert "nas01" not in scrubber.text(r"\\nas01\people\x")


HANDED_ON = {
    "llx export --weights /data/customer/chat -o out": "llx export --weights …/chat -o out",
    "llx export --weights=/data/customer/chat": "llx export --weights=…/chat",
    "llx export -w /home/walter/m.gguf -o /home/walter": "llx export -w …/m.gguf -o ~",
    "llx export -w '/data/my customer/the chat'": "llx export -w '…/the chat'",
    "llx export '--weights=/data/my customer/the chat'": "llx export '--weights=…/the chat'",
    "llx.export(weights='/data/my customer/chat', output='/b/a')": (
        "llx.export(weights='…/chat', output='…/a')"
    ),
    "llx build --remote walter@titan --device x": "llx build --remote [host] --device x",
    "llx export --weights models/chat --size 1/2": "llx export --weights models/chat --size 1/2",
    "/data/my customer/chat/a.bin is not read": "…/a.bin is not read",
    "/etc/passwd": "…/passwd",
}


@pytest.mark.parametrize(("typed", "told"), HANDED_ON.items())
def test_what_goes_with_an_artifact_names_no_folder_and_no_machine(typed, told):
    assert handed_on(typed, Path("/data/my customer/chat/*")) == told
