"""The Python door: what the command line parses for, one module for each of its words.

`llx` itself hands their functions on. What needs several folders at once (an engine that is built
because a measurement needs it, a reference that is captured from the checkpoint) is decided here.
"""
