"""`langevin train --processes N`: a signal to stop reaches the launcher once, and what it saves is waited for."""

import os
import signal
import subprocess
import sys

import pytest

CHILD = """
import signal, sys, time
heard = []
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: heard.append(number))
print("ready", flush=True)
while not heard:
    time.sleep(0.01)
time.sleep(1)
print("saved after", *heard, flush=True)
sys.exit(7)
"""
# these tests may run in the background of a shell, where Ctrl-C is ignored, which a program leaves so
PARENT = """
import signal, sys
from langevin.cli.training import launched
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(launched([sys.executable, '-c', sys.argv[1]]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_group_stops_the_launcher_once(number):
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, CHILD], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert parent.stdout is not None and parent.stdout.readline() == "ready\n"
        os.killpg(parent.pid, number)  # as a terminal does: to the whole group
        said, errors = parent.communicate(timeout=60)
    finally:
        parent.kill()
    assert (said, errors, parent.returncode) == (f"saved after {int(number)}\n", "", 7)
