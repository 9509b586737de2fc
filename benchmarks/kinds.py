r"""What quantization costs on kinds of text that nothing was calibrated on.

    python benchmarks/kinds.py --packages PACKAGES --work WORK int8 "int8 --dense-share 0" int4

A novel, code, a manual, dialogue, another language; of packages that anybody can take:

    apt-get download r-cran-janeaustenr debian-reference-en debian-reference-fr
    pip download --no-deps chatterbot-corpus==1.3.3

    mansfield.txt     Mansfield Park, Jane Austen, 1814; public domain, as r-cran-janeaustenr has it
    argparse.py       of the Python that runs this; PSF licence
    manual-en.txt     Debian Reference 2.100, Osamu Aoki; GPL-2 or later
    dialogue.txt      the English part of chatterbot-corpus, Gunther Cox; BSD
    manual-fr.txt     Debian Reference in French, by its translators; GPL-2 or later

Each scheme is the words of an export of SmolLM2-135M behind `--precision`. Its own graph runs in
ONNX Runtime (`ort-standard`), against PyTorch in fp32, over five windows of 512 tokens of each text
and of Python's documentation. It takes `pip install rdata pyyaml`.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import shlex
import subprocess
import tempfile
import zipfile
import zlib
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from llx.api.reference import open_reference
from llx.artifact import open_artifact
from llx.bench.fidelity.judge import verdict
from llx.bench.fidelity.observed import observe_prefill
from llx.bench.fidelity.reference import capture, read_reference
from llx.bench.sessions.ort import OrtSession
from llx.corpus import Cut, corpus_of, evaluation_text
from llx.reports.units import plus_minus

AUSTEN = "usr/lib/R/site-library/janeaustenr/data/Rdata"
MANUAL = "usr/share/debian-reference/debian-reference.{}.txt.gz"


def main() -> None:
    """Make the texts, export, judge, and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("schemes", nargs="*")
    parser.add_argument("--packages", type=Path, required=True, help="as downloaded")
    parser.add_argument("--work", type=Path, required=True, help="for texts and artifacts")
    asked = parser.parse_args()
    texts = texts_of(asked.packages, asked.work / "texts")
    console = Console(width=160)
    for text in texts:
        sha256 = hashlib.sha256(text.read_bytes()).hexdigest()
        console.print(f"{text.name}: {text.stat().st_size} bytes, sha256 {sha256[:16]}…")
    table = Table("scheme", "docs", *(text.name for text in texts), "mean of the others")
    for scheme in asked.schemes:
        table.add_row(scheme, *row(scheme, asked.work, texts))
    console.print(table)


def row(scheme: str, work: Path, texts: list[Path]) -> list[str]:
    """KLD with its standard error on each text, and the mean of all but the documentation's."""
    folder = work / "-".join(part.strip("-") for part in shlex.split(scheme))
    words = ["--size", "135m", "--precision", *shlex.split(scheme), "-o", str(folder)]
    subprocess.run(["llx", "export", *words], check=True, stdout=subprocess.DEVNULL)
    artifact, found = open_artifact(folder), []
    for corpus in (evaluation_text(), *map(corpus_of, texts)):
        captured = capture(artifact, open_reference, Cut(), corpus)
        artifact, reference = captured.artifact, read_reference(captured.artifact, captured.name)
        opened = partial(OrtSession, artifact, dialect="standard")
        prefill = observe_prefill(opened, reference.scores.tokens, reference.scores.ids)
        found.append(verdict(reference, prefill, prefill).prefill.kld)
    mean = sum(one.mean for one in found[1:]) / len(texts)
    return [*(plus_minus(one.mean, one.se) for one in found), f"{mean:.4f}"]


def texts_of(packages: Path, folder: Path) -> list[Path]:
    """The five texts, as files."""
    folder.mkdir(parents=True, exist_ok=True)
    books = _file_of(packages, "r-cran-janeaustenr", f"{AUSTEN}.rdb")
    dialogue = next(packages.glob("chatterbot_corpus-*.whl"))
    texts = {
        "mansfield.txt": _austen(books, "MANSFIELD PARK"),
        "argparse.py": Path(argparse.__file__).read_text(encoding="utf-8"),
        "manual-en.txt": _manual(packages, "en"),
        "dialogue.txt": _dialogue(dialogue),
        "manual-fr.txt": _manual(packages, "fr"),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in texts]


def _file_of(packages: Path, package: str, path: str) -> bytes:
    """A file of a Debian package."""
    with tempfile.TemporaryDirectory() as unpacked:
        deb = next(packages.glob(f"{package}_*.deb"))
        subprocess.run(["dpkg-deb", "-x", deb, unpacked], check=True)
        return (Path(unpacked) / path).read_bytes()


def _manual(packages: Path, language: str) -> str:
    data = _file_of(packages, f"debian-reference-{language}", MANUAL.format(language))
    return gzip.decompress(data).decode()


def _austen(database: bytes, title: str) -> str:
    """A book of R's lazy-load database: values one behind the other, each with a size before it."""
    import rdata

    rest = database
    while rest:
        reader = zlib.decompressobj()
        value = reader.decompress(rest[4:])
        rest = reader.unused_data
        lines = rdata.conversion.convert(rdata.parser.parse_data(value))
        if title in lines[0]:
            return "\n".join(lines)
    raise LookupError(title)


def _dialogue(wheel: Path) -> str:
    """What A and B say, conversation by conversation."""
    import yaml

    said = []
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(archive.namelist()):
            if "/english/" in name and name.endswith(".yml"):
                read = yaml.safe_load(io.BytesIO(archive.read(name)))
                said += map(_conversation, read["conversations"])
    return "\n\n".join(said)


def _conversation(turns: list[object]) -> str:
    return "\n".join(f"{'AB'[at % 2]}: {words}" for at, words in enumerate(turns))


if __name__ == "__main__":
    main()
