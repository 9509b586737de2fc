"""`trt` and `trt-rtx`: a built engine in TensorRT or TensorRT-RTX, with no PyTorch beside it.

It needs what a JetPack has, and Polygraphy: what only `open` needs is imported there.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llx.bench.cuda import Cuda, CudaError
from llx.bench.session import Built, Details, Memory, Tokens
from llx.errors import BadInput, Lacking, LlxError
from llx.gpu import find_gpu, require_gpu
from llx.graphs.contract import (
    INPUT_IDS,
    LOGIT_INDEX,
    LOGITS,
    PAST,
    POSITION_IDS,
    PRESENT,
    GraphContract,
    StepGuard,
    cache_names,
)
from llx.precision import BYTES
from llx.runtime import Runtime
from llx.tensorrt import load, load_engine, new_context

if TYPE_CHECKING:
    from llx.artifact import Artifact
    from llx.engine import Engine

AMPERE = 80  # from here on an engine runs that was built for no chip alone
STEP_INPUTS = (INPUT_IDS, POSITION_IDS, LOGIT_INDEX)  # as `enqueue` takes them


def chosen_engine(artifact: Artifact, runtime: Runtime, rows: int, built: Built) -> Engine:
    """The engine that runs: the one that was named, else the newest that fits this machine.

    It fits if this TensorRT built it, for this GPU or any, and it takes so many rows. Raises
    `Lacking` where there is none.
    """
    from llx.engine import engines_of, open_engine

    if built.folder:
        named = open_engine(built.folder)
        if named.manifest.key.artifact_sha256 != artifact.sha256:
            raise BadInput(
                f"{built.folder} was not built from {artifact.folder} as it is now",
                "build one with `llx build`",
            )
        return named
    version = load(runtime).__version__
    sm = require_gpu(f"engine {runtime}", "bench on a machine with one").sm
    others = ""
    for engine in engines_of(artifact, runtime):
        key = engine.manifest.key
        takes = key.contract.limits.max_rows >= rows
        runs = key.sm == sm or (key.sm is None and sm >= AMPERE)
        if key.version == version and runs and takes:
            if built.trust or engine.own:
                return engine
            others = f", or load {engine.folder.name}, which you have not built, by --trust-engine"
    raise Lacking(
        f"{artifact.folder} has no engine of {runtime} {version} for SM {sm} and {rows} rows",
        f"build one with `llx build --engine {runtime} --batch {rows}`{others}",
    )


class TrtSession:
    """One engine, its cache on the device, one stream.

    Decoding and everything else have a context each, with all shapes and addresses of a decode
    step set once, so that it can be a CUDA graph. Both work in one scratch memory: steps follow
    each other on the stream. With two optimization profiles decoding takes the first, all else the
    second.

    In place, past and present are bound at one address. A delta engine writes what is new into a
    scratch, and it is copied from there into its slots on the device; their addresses change at
    every step, so these copies follow the graph and are not in it.
    """

    reads_capacity = True

    def __init__(
        self,
        runtime: Runtime,
        plan: bytes,
        contract: GraphContract,
        dialect: str,
        rows: int = 1,
        *,
        weights: str = "the engine's",
        refit: tuple[bytes, Path] | None = None,
        about: Details | None = None,
    ) -> None:
        """A session over an engine's bytes, which must be trusted by now.

        `contract` has the engine's own limits; `refit`, of a stripped engine, is its graph and
        where that graph's weights lie. `about` is added to `details`.
        """
        limits = contract.limits
        if not 1 <= rows <= limits.max_rows:
            raise BadInput(
                f"{rows} rows are outside the engine's 1…{limits.max_rows}",
                f"build one with `llx build --engine {runtime} --batch {rows}`",
            )
        self.limits, self.rows, self.weights = limits, rows, weights
        self._contract, self._guard = contract, StepGuard(limits, rows)
        self._cuda = Cuda()
        self._free_before = self._cuda.free_bytes()
        self._loaded = load_engine(runtime, plan, refit)
        self._delta = _is_delta(self._loaded.engine, contract)
        if not self._delta:
            _require_aliases(self._loaded.engine, contract)
        self._cache_bytes = rows * _line_bytes(contract, limits.capacity) * contract.kv_heads
        self._cache = [
            self._cuda.allocate(self._cache_bytes) for _ in cache_names(contract.layers, PAST)
        ]
        for address in self._cache:  # what is masked must be finite all the same
            self._cuda.clear(address, self._cache_bytes)
        scratch_bytes = max(1, self._loaded.engine.device_memory_size_v2)
        self._scratch = (self._cuda.allocate(scratch_bytes), scratch_bytes)
        profiles = self._loaded.engine.num_optimization_profiles
        self._decode = self._phase(runtime, 0, 1)
        self._other = self._phase(runtime, profiles - 1, limits.max_new_tokens)
        self._last, self._pending = self._decode, False
        self._graph, graph_note = self._record(runtime)
        gpu = find_gpu()
        self._details: Details = {
            "tensorrt" if runtime == "trt" else "tensorrt-rtx": self._loaded.api.__version__,
            "gpu": f"{gpu.name}, SM {gpu.sm}" if gpu else None,
            "dialect": dialect,
            "cache": "delta" if self._delta else "in-place",
            "reads_capacity": self.reads_capacity,
            "cuda_graph": graph_note,
            "profiles": profiles,
            "capacity": limits.capacity,
            "engine_bytes": len(plan),
            **(about or {}),
        }

    @classmethod
    def open(
        cls, runtime: Runtime, artifact: Artifact, rows: int = 1, built: Built | None = None
    ) -> TrtSession:
        """A session over an engine that was built of an artifact: the newest that fits, or named.

        Raises as `chosen_engine` and `Engine.plan` do.
        """
        built = built or Built()
        engine = chosen_engine(artifact, runtime, rows, built)
        key, refit = engine.manifest.key, None
        with contextlib.ExitStack() as opening:
            if key.options.strip:
                from llx.graphs.capacity import stamped
                from llx.manifest import WEIGHTS

                graph = artifact.graph(key.dialect)
                # Other weights than the engine was built with would be used.
                opening.enter_context(artifact.held(graph.name, WEIGHTS))
                refit = (stamped(graph, key.contract.limits.capacity), graph)
            return cls(
                runtime,
                engine.plan(built.trust),
                key.contract,
                key.dialect,
                rows,
                weights=artifact.weights_in_words,
                refit=refit,
                about={"engine": engine.folder.name, "build_s": engine.manifest.build_s},
            )

    def enqueue(self, tokens: Tokens, positions: Tokens, logit_index: Tokens) -> None:
        """Begin one step: ids to the device, the engine, new keys into their slots, logits back."""
        self._guard.admit(tokens, positions, logit_index)
        if self._pending:
            self.sync()  # the step before still reads its inputs from the host
        decodes = tokens.shape[1] == logit_index.shape[1] == 1
        phase = self._decode if decodes else self._other
        phase.prepare(tokens, positions, logit_index)
        if decodes and self._graph is not None:
            self._cuda.launch(self._graph)
        else:
            phase.submit()
        if self._delta:
            self._write_new(phase.new, positions[:, 0], tokens.shape[1])
        self._last, self._pending = phase, True

    def sync(self) -> None:
        """Wait for the stream."""
        self._cuda.synchronize()
        self._pending = False

    def logits(self) -> NDArray[np.float32]:
        """The last step's logits, [B, K, V]; gone with the next step, or when it is closed."""
        return self._last.logits

    def reset(self) -> None:
        """Forget the cache; its bytes stay, and are overwritten before they are read."""
        self._guard.reset()

    def memory(self) -> Memory:
        """The cache, and what the device has less of than before, by whomever."""
        used = self._free_before - self._cuda.free_bytes()
        return Memory(self._cache_bytes * len(self._cache), max(0, used))

    def close(self) -> None:
        """Let go of engine, cache and stream."""
        self.sync()
        del self._decode, self._other, self._last, self._loaded
        self._cuda.close()

    def details(self) -> Details:
        """Versions, the engine, and how it is run."""
        return self._details

    def _phase(self, runtime: Runtime, profile: int, at_most: int) -> _Phase:
        context = new_context(runtime, self._loaded)
        try:
            context.set_optimization_profile_async(profile, self._cuda.stream)
        except RuntimeError:  # how the bindings say no
            raise BadInput(
                f"the engine has no optimization profile {profile}: {self._loaded.reason()}",
                "build it again with `llx build --overwrite`",
            ) from None
        context.set_device_memory(*self._scratch)
        return _Phase(
            self._cuda, context, self._contract, self.rows, at_most, self._cache, self._delta
        )

    def _record(self, runtime: Runtime) -> tuple[int | None, str]:
        """A decode step as a CUDA graph, where it can be one, and what to say of it.

        It runs once beforehand, into slots that are empty: TensorRT does what it has put off, and
        TensorRT-RTX compiles its kernels, neither of which can be captured.
        """
        zeros = np.zeros((self.rows, 1), np.int64)
        self._decode.prepare(zeros, zeros, zeros)
        self._decode.submit()
        self._cuda.synchronize()
        if runtime == "trt-rtx":
            return None, "left to TensorRT-RTX"
        context = self._decode.context
        may = getattr(context, "is_stream_capturable", None)  # since TensorRT 10.x; RTX 1.2
        if may is not None and not may(self._cuda.stream):
            return None, "none: the engine cannot be captured"
        try:
            return self._cuda.capture(self._decode.submit), "one for a decode step"
        except LlxError as error:
            return None, f"none: {error.message}"

    def _write_new(self, new: list[int], starts: Tokens, count: int) -> None:
        """Copy new keys and values, [B, Hkv, T, D] each, into their slots of [B, Hkv, S, D].

        Heads lie a pitch of S·D apart, and so do the last head of a row and the first of the next:
        where all rows start at one position, they are copied at once.
        """
        contract, heads = self._contract, self._contract.kv_heads
        slot, line, pitch = (_line_bytes(contract, n) for n in (1, count, self.limits.capacity))
        together = bool((starts == starts[0]).all())
        groups = [(0, self.rows)] if together else [(row, 1) for row in range(self.rows)]
        for target, source in zip(self._cache, new, strict=True):
            for row, rows in groups:
                at = target + row * heads * pitch + int(starts[row]) * slot
                self._cuda.copy_lines(
                    at, pitch, source + row * heads * line, line, line, rows * heads
                )


class _Phase:
    """One kind of step: a context, and its inputs and outputs at addresses of their own."""

    def __init__(
        self,
        cuda: Cuda,
        context: Any,
        contract: GraphContract,
        rows: int,
        at_most: int,
        cache: list[int],
        delta: bool,
    ) -> None:
        """Allocate for steps of up to `at_most` tokens with one pick a row, and bind everything."""
        self._cuda, self.context = cuda, context
        self._rows, self._vocab = rows, contract.limits.vocab
        size = rows * at_most
        self._host = {name: cuda.pinned(size, np.int64) for name in STEP_INPUTS}
        self._inputs = {name: cuda.allocate(8 * size) for name in STEP_INPUTS}
        for name, address in self._inputs.items():
            self._set_address(name, address)
        count = size * contract.kv_heads * _line_bytes(contract, 1)
        self.new = [cuda.allocate(count) for _ in cache] if delta else []
        past, present = (cache_names(contract.layers, end) for end in (PAST, PRESENT))
        shape = (rows, contract.kv_heads, contract.limits.capacity, contract.head_dim)
        for name, address in zip(past, cache, strict=True):
            self._set_address(name, address)
            self._set_shape(name, shape)
        for name, address in zip(present, self.new or cache, strict=True):
            self._set_address(name, address)
        self._shapes: tuple[tuple[int, int], ...] = ()  # of the inputs of a step
        self._room = self._logits_at = 0
        self._make_room(1)

    def prepare(self, *inputs: Tokens) -> None:
        """Lay a step's inputs out on the host, and tell the context their shapes."""
        picks = inputs[-1].shape[1]
        if picks > self._room:
            self._make_room(picks)
        shapes = tuple((len(array), array.shape[1]) for array in inputs)
        if shapes != self._shapes:
            for name, shape in zip(STEP_INPUTS, shapes, strict=True):
                self._set_shape(name, shape)
            self._shapes = shapes
        for name, array in zip(STEP_INPUTS, inputs, strict=True):
            self._host[name][: array.size] = array.ravel()

    def submit(self) -> None:
        """Begin the step that was prepared."""
        for name, (rows, count) in zip(STEP_INPUTS, self._shapes, strict=True):
            self._cuda.to_device(self._inputs[name], self._host[name][: rows * count])
        if not self.context.execute_async_v3(self._cuda.stream):
            raise CudaError(
                f"TensorRT refuses a step of {self._shapes[0]} tokens",
                "report it with the file that `llx doctor --bundle` writes",
            )
        self._cuda.to_host(self.logits, self._logits_at)

    @property
    def logits(self) -> NDArray[np.float32]:
        """The logits of the step that was submitted, [B, K, V]."""
        rows, picks = self._shapes[-1]
        shape = (rows, picks, self._vocab)
        return self._logits[: rows * picks * self._vocab].reshape(shape)

    def _make_room(self, picks: int) -> None:
        """Hold the logits of so many picks a row. No step may be under way."""
        if self._room:
            self._cuda.free(self._logits_at)
            self._cuda.unpin(self._logits)
        size = self._rows * picks * self._vocab
        self._logits: NDArray[np.float32] = self._cuda.pinned(size, np.float32)
        self._logits_at = self._cuda.allocate(4 * size)
        self._set_address(LOGITS, self._logits_at)
        self._room = picks

    def _set_address(self, name: str, address: int) -> None:
        if not self.context.set_tensor_address(name, address):
            raise CudaError(f"TensorRT takes no address for {name}", "build the engine again")

    def _set_shape(self, name: str, shape: tuple[int, ...]) -> None:
        if not self.context.set_input_shape(name, shape):
            raise CudaError(f"TensorRT takes no {shape} for {name}", "build the engine again")


def _line_bytes(contract: GraphContract, positions: int) -> int:
    """Bytes of so many positions of one head."""
    return positions * contract.head_dim * BYTES[contract.compute]


def _is_delta(engine: Any, contract: GraphContract) -> bool:
    """Whether new keys and values come out alone; the engine's own shapes tell.

    Raises `BadInput` where the engine is not of this contract: it would write outside its buffers.
    """
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    present = cache_names(contract.layers, PRESENT)
    delta = present[0] in names and tuple(engine.get_tensor_shape(present[0]))[2] == -1
    wanted = contract.inputs() | contract.outputs("delta" if delta else "in-place")
    for name, (_, shape) in wanted.items():
        found = tuple(engine.get_tensor_shape(name)) if name in names else ()
        if len(found) != len(shape) or any(
            isinstance(size, int) and size != there
            for size, there in zip(shape, found, strict=True)
        ):
            raise BadInput(
                f"the engine's {name} is {list(found)}, not {list(shape)}",
                "build it again with `llx build --overwrite`",
            )
    if len(names) != len(wanted):
        raise BadInput(
            f"the engine has {len(names)} inputs and outputs, not {len(wanted)}",
            "build it again with `llx build --overwrite`",
        )
    return delta


def _require_aliases(engine: Any, contract: GraphContract) -> None:
    """Raise `BadInput` where an engine does not write each present at its own past's address."""
    if not hasattr(engine, "get_aliased_input_tensor"):
        return
    present, past = (cache_names(contract.layers, end) for end in (PRESENT, PAST))
    for output, wanted in zip(present, past, strict=True):
        found = engine.get_aliased_input_tensor(output)
        if found != wanted:
            raise BadInput(
                f"the engine writes {output} over {found or 'nothing'}, not over {wanted}",
                "build it again with `llx build --overwrite`",
            )
