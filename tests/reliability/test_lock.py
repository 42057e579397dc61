"""One trainer to a run directory; the lock falls away with its process, however that ends."""

import errno
import os
import signal
import socket
import subprocess
import sys

import pytest

from langevin.training import Lock, load_latest
from tests.field.test_complaints import trainer

HOLD = (
    "import sys, time; from langevin.training.lock import Lock\n"
    "lock = Lock(sys.argv[1]); print('held', flush=True); time.sleep(60)"
)


def test_a_second_trainer_is_refused_and_a_killed_one_lets_go(tmp_path):
    trainer(tmp_path, steps=4).run(progress=False)
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=rf"is being trained by process {other.pid} on {socket.gethostname()}; stop it, or"):
            Lock(tmp_path)
        fresh = trainer(tmp_path, steps=4, resume=True)
        with pytest.raises(ValueError, match="is being trained by process"):
            fresh.run(progress=False)
        assert load_latest(tmp_path / "checkpoints").step == 4  # pyright: ignore  # readers need no lock
    finally:
        other.send_signal(signal.SIGKILL)
        other.wait()
        if other.stdout is not None:
            other.stdout.close()
    with Lock(tmp_path):
        pass


def test_the_lock_is_let_go_of(tmp_path):
    for _ in range(2):
        with Lock(tmp_path), pytest.raises(ValueError, match=f"process {os.getpid()} on"):
            Lock(tmp_path)
    lock = Lock(tmp_path)
    del lock  # forgotten
    lock = Lock(tmp_path)
    lock.release()
    lock.release()


def test_a_forked_worker_does_not_hold_it(tmp_path):
    lock = Lock(tmp_path)
    ready, done = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.write(ready[1], b"1")
        os.read(done[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    with pytest.raises(ValueError, match="is being trained"):
        Lock(tmp_path)  # the child closing its copy did not let go of ours
    lock.release()  # as if this process had died
    Lock(tmp_path).release()
    os.write(done[1], b"1")
    os.waitpid(child, 0)
    for end in (*ready, *done):
        os.close(end)


def test_a_foreign_lock_file_is_not_believed(tmp_path):
    (tmp_path / ".lock").write_bytes(b"\xff\0\x1b[31m evil\n" * 10)
    Lock(tmp_path).release()  # nobody holds it, whatever it says


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_a_directory_that_cannot_be_written(tmp_path, monkeypatch, code):
    def refused(path, *args, **kwargs):
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(OSError, match=r"\.lock"):
        Lock(tmp_path)


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch, capsys):
    import fcntl

    def none(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    Lock(tmp_path).release()
    assert "cannot be locked here; start one trainer on it at a time" in capsys.readouterr().err
