"""Engines: built here, carried to a Jetson in a bundle, or built there over SSH."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llx.lazy import hand_on

if TYPE_CHECKING:
    from llx.exporter.engines.build import BuildRequest as BuildRequest
    from llx.exporter.engines.build import build_engine as build_engine
    from llx.exporter.engines.build import engine_contract as engine_contract
    from llx.exporter.engines.build import key_of as key_of
    from llx.exporter.engines.build import timing_cache_of as timing_cache_of
    from llx.exporter.engines.bundle import Bundle as Bundle
    from llx.exporter.engines.bundle import Place as Place
    from llx.exporter.engines.bundle import make_bundle as make_bundle
    from llx.exporter.engines.bundle import write_bundle as write_bundle
    from llx.exporter.engines.remote import Brought as Brought
    from llx.exporter.engines.remote import RemoteRequest as RemoteRequest
    from llx.exporter.engines.remote import build_remotely as build_remotely
    from llx.exporter.engines.ssh import Remote as Remote
    from llx.exporter.engines.ssh import remote_named as remote_named

__getattr__, __dir__, __all__ = hand_on(
    __name__,
    {
        "build": "BuildRequest build_engine engine_contract key_of timing_cache_of",
        "bundle": "Bundle Place make_bundle write_bundle",
        "remote": "Brought RemoteRequest build_remotely",
        "ssh": "Remote remote_named",
    },
)
