"""What the system refuses is named by what was refused."""

from __future__ import annotations

import subprocess
import sys

import pytest

START_THREADS = """
import resource, threading
from llx.refused import refused
resource.setrlimit(resource.RLIMIT_{limit}, ({most},) * 2)
ended = threading.Event()
try:
    for _ in range(400):
        threading.Thread(target=ended.wait, daemon=True).start()
except BaseException as error:
    print(refused(error))
ended.set()
"""


@pytest.mark.parametrize("limit", ["DATA", "AS"])
def test_a_thread_without_memory_for_its_stack_is_no_thread_too_many(limit):
    code = START_THREADS.format(limit=limit, most=1 << 30)
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "memory for their stacks" in ended.stdout
