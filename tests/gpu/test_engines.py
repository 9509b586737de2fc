"""Every engine on a real GPU against PyTorch in fp32 on the CPU. `make test-gpu` runs these.

Written without a GPU at hand: the session's logic is tested on doubles, these are the proof.
"""

from __future__ import annotations

import numpy as np
import pytest

from llx.api.reference import open_reference
from llx.bench.roofline.work import bytes_per_decode_step
from llx.bench.sessions import ENGINES
from llx.bench.speed import steps
from llx.bench.speed.samples import Workload
from llx.graphs.contract import ContractError
from tests.gpu.conftest import GPU_ENGINES, ready
from tests.parity import compare
from tests.rows import measure

FP16_TOLERANCE = 0.2  # of the standard deviation of logits; right engines show a tenth of it

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(1800),
    pytest.mark.usefixtures("state"),
    pytest.mark.filterwarnings("default"),  # CUDA's packages warn of what is not ours
]


@pytest.fixture(params=["tiny_fp16", "smollm2_fp16"])
def artifact(request):
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("name", GPU_ENGINES)
def test_it_answers_as_pytorch_in_fp32_does(gpu, artifact, name):
    ready(name, artifact, 1, gpu)
    session = ENGINES[name].open(artifact, 1)
    found = compare(session, open_reference(artifact))
    session.close()
    allowed = FP16_TOLERANCE * found.spread
    assert max(found.prefill_error, found.decode_error) <= allowed


@pytest.mark.parametrize("name", GPU_ENGINES)
def test_rows_do_not_see_each_other_and_stand_where_they_like(gpu, tiny_fp16, name):
    ready(name, tiny_fp16, 3, gpu)
    session, alone = (ENGINES[name].open(tiny_fp16, rows) for rows in (3, 1))
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, session.limits.vocab, (3, 9), dtype=np.int64)
    steps.prefill(session, tokens)
    starts = np.array([[3], [9], [0]])
    session.enqueue(tokens[:, :1].copy(), starts, np.zeros((3, 1), np.int64))
    session.sync()
    found = session.logits().copy()
    for row, (start,) in enumerate(starts):
        alone.reset()
        if start:
            steps.prefill(alone, tokens[row : row + 1, :start].copy())
        steps.decode_step(alone, tokens[row : row + 1, :1].copy(), int(start))
        wanted = alone.logits()[0]
        np.testing.assert_allclose(found[row], wanted, atol=0.05 * wanted.std(), rtol=0)
    session.close()
    alone.close()


@pytest.mark.parametrize("name", GPU_ENGINES)
def test_a_step_past_the_capacity_is_refused(gpu, tiny_fp16, name):
    ready(name, tiny_fp16, 1, gpu)
    session = ENGINES[name].open(tiny_fp16, 1)
    capacity = session.limits.capacity
    steps.prefill(session, np.ones((1, capacity), np.int64))
    with pytest.raises(ContractError, match="outside the cache"):
        steps.decode_step(session, np.array([[1]]), capacity)
    session.close()


@pytest.mark.parametrize("name", GPU_ENGINES)
def test_decodings_share_of_the_bandwidth_is_recorded(
    gpu, bandwidth, smollm2_fp16, name, record_property, capsys
):
    ready(name, smollm2_fp16, 1, gpu)
    manifest = smollm2_fp16.manifest
    (row,) = measure(
        lambda rows: ENGINES[name].open(smollm2_fp16, rows),
        Workload(prompts=(), generated=(128,)),
        manifest.spec,
        manifest.precision,
    )
    assert row.tpot_ms is not None
    assert row.bytes_per_step is not None
    assert row.bytes_per_step_actual is not None
    per_second = row.bytes_per_step_actual / (row.tpot_ms.mean / 1e3)
    share = per_second / bandwidth
    record_property("roofline_share", share)
    with capsys.disabled():
        print(
            f"\n{name} on {gpu.name}: {row.mean:.0f} tok/s, {per_second / 1e9:.0f} GB/s of "
            f"{bandwidth / 1e9:.0f} GB/s that a copy reaches: {100 * share:.0f} %"
        )
    assert row.bytes_per_step <= row.bytes_per_step_actual
    assert row.bytes_per_step_actual <= bytes_per_decode_step(
        manifest.spec, manifest.precision, manifest.contract.limits.capacity, 1
    )
    # More than the memory gives is a step that was not waited for, or a probe that is wrong.
    assert share < 1.2
