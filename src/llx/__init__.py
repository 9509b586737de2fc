"""llx: export a LLaMA to ONNX and TensorRT, measure it, and prove it against PyTorch."""

__version__ = "0.1.0"
