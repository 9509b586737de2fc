"""The harness: sessions, one clock, speed and fidelity."""
