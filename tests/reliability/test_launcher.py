"""`langevin train --processes N`: a signal to stop reaches the launcher once, and what it saves is waited for."""

import os
import re
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

CHILD = """
import os, signal, sys, time
heard = []
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: heard.append(number))
os.write(1, b"ready\\n")  # a line at once: print may write its end apart, and two processes share one pipe
while not heard:
    time.sleep(0.01)
time.sleep(1)
os.write(1, ("saved after " + " ".join(map(str, heard)) + "\\n").encode())
sys.exit(int(sys.argv[1]))
"""
# these tests may run in the background of a shell, where Ctrl-C is ignored, which a program leaves so
PARENT = """
import signal, sys
from langevin.cli.training import launched
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(launched([sys.executable, '-c', *sys.argv[1:]]))
"""


@pytest.mark.parametrize(
    ("number", "status", "said"),
    [(signal.SIGINT, 7, 7), (signal.SIGTERM, 7, 7), (signal.SIGINT, 0, 130), (signal.SIGTERM, 0, 143)],
)
def test_a_signal_to_the_group_stops_the_launcher_once(number, status, said):
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, CHILD, str(status)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        assert parent.stdout is not None and parent.stdout.readline() == "ready\n"
        os.killpg(parent.pid, number)  # as a terminal does: to the whole group
        told, errors = parent.communicate(timeout=60)
    finally:
        parent.kill()
    assert (told, errors, parent.returncode) == (f"saved after {int(number)}\n", "", said)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_torch_says_nothing_of_a_stop_that_its_processes_have_told_of(tmp_path, number):
    child = tmp_path / "child.py"
    child.write_text(CHILD)
    command = [sys.executable, "-m", "langevin.cli.launcher", "--standalone", "--nproc-per-node=2", str(child), "0"]
    parent = f"import signal, sys\nfrom langevin.cli.training import launched\nsys.exit(launched({command!r}))"
    before = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    process = subprocess.Popen(
        [sys.executable, "-c", before + parent], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        assert process.stdout is not None and [process.stdout.readline() for _ in range(2)] == ["ready\n"] * 2
        os.killpg(process.pid, number)
        told, errors = process.communicate(timeout=600)
    finally:
        process.kill()
    assert (told, errors, process.returncode) == (f"saved after {int(number)}\n" * 2, "", 128 + number)


SRUN = """#!/bin/bash
# trains two more steps of four, and then fails to evaluate
n=$(ls -d runs/images/checkpoints/step-0000000[24] 2>/dev/null | wc -l)
[ "$n" -ge 2 ] || mkdir -p runs/images/checkpoints/step-0000000$((2 * n + 2)) runs/images/checkpoints/step-00000009.partial
[ -z "$METRICS" ] || [ "$n" -lt 2 ] || touch runs/images/metrics.json
"""


@pytest.mark.parametrize("metrics", ["", "1"])
def test_the_job_of_the_documents_is_queued_again_while_it_gets_further(tmp_path, metrics):
    page = (Path(__file__).parents[2] / "docs" / "distributed.md").read_text()
    job = re.search(r"    #!/bin/bash\n(?:    .*\n)+", page)
    assert job is not None
    bin = tmp_path / "bin"
    bin.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", '#!/bin/bash\n[ "$1" = show ] && echo here || echo again >> queued\n')):
        (bin / name).write_text(text)
        (bin / name).chmod(0o755)
    told = {**os.environ, "PATH": f"{bin}:{os.environ['PATH']}", "SLURM_JOB_ID": "1", "METRICS": metrics}
    queued = []
    for _ in range(3):
        subprocess.run(["bash"], input=job[0].replace("\n    ", "\n").strip(), text=True, cwd=tmp_path, env=told, check=False)
        queued.append((tmp_path / "queued").read_text().count("again"))
    assert queued == [1, 2, 2]  # the third found nothing to train


def test_the_package_runs_as_the_command():
    said = subprocess.run([sys.executable, "-m", "langevin", "--version"], capture_output=True, text=True, check=True).stdout
    assert said.strip() == version("langevin")
