"""llx: export a LLaMA to ONNX and TensorRT, measure it, and prove it against PyTorch.

The functions speak the words of the command line, print nothing and never exit; heavy libraries are
imported where they are used. What a user can cause is raised as an `LlxError`.
"""

from __future__ import annotations

import os
import sys

from llx.lazy import hand_on

TYPE_CHECKING = False  # as in `llx.lazy`
if TYPE_CHECKING:
    from llx.api.bench import bench as bench
    from llx.api.build import build as build
    from llx.api.chat import chat as chat
    from llx.api.check import check as check
    from llx.api.collect import collect as collect
    from llx.api.compare import compare as compare
    from llx.api.evaluate import evaluate as evaluate
    from llx.api.export import export as export
    from llx.api.generate import generate as generate
    from llx.api.plan import plan as plan
    from llx.api.reference import reference as reference
    from llx.api.report import Report as Report
    from llx.api.report import report as report
    from llx.api.results import Interrupted as Interrupted
    from llx.api.results import Results as Results
    from llx.api.session import OpenSession as OpenSession
    from llx.artifact import Artifact as Artifact
    from llx.artifact import open_artifact as open_artifact
    from llx.bench.conversation import Conversation as Conversation
    from llx.engine import Engine as Engine
    from llx.errors import BadInput as BadInput
    from llx.errors import GateFailed as GateFailed
    from llx.errors import Lacking as Lacking
    from llx.errors import LlxError as LlxError
    from llx.evaluation import Evaluation as Evaluation
    from llx.plans import Plans as Plans
    from llx.progress import silent as silent
    from llx.reports.compare.pairs import Compared as Compared
    from llx.result import Result as Result

# Libraries that would tell their makers of this machine, and keep an id of it in the home folder,
# are told not to: before they are imported, here and in every process that is started from here.
# ONNX Runtime does from 1.29 on; huggingface_hub does for `datasets` and `evaluate` too.
QUIET = ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY")
for _name in QUIET:
    os.environ.setdefault(_name, "1")
# OpenVINO does as it is imported, where this package is beside it: no variable asks it not to, and
# it does without where the import fails. None makes it fail.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = hand_on(
    __name__,
    {
        "api.bench": "bench",
        "api.build": "build",
        "api.chat": "chat",
        "api.check": "check",
        "api.collect": "collect",
        "api.compare": "compare",
        "api.evaluate": "evaluate",
        "api.export": "export",
        "api.generate": "generate",
        "api.plan": "plan",
        "api.reference": "reference",
        "api.report": "Report report",
        "api.results": "Interrupted Results",
        "api.session": "OpenSession",
        "artifact": "Artifact open_artifact",
        "bench.conversation": "Conversation",
        "engine": "Engine",
        "errors": "BadInput GateFailed Lacking LlxError",
        "evaluation": "Evaluation",
        "plans": "Plans",
        "progress": "silent",
        "reports.compare.pairs": "Compared",
        "result": "Result",
    },
)
