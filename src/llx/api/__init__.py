"""The Python door: what the command line parses for, as functions."""
