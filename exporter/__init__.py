"""From a checkpoint to an artifact: sources, trace, weights."""
