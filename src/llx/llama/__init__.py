"""The model itself: its specification, presets, semantic ops, and one forward pass."""
