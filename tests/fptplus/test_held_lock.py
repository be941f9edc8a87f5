"""A lock says who holds it, and nobody waits for ever."""

import logging
import subprocess
import sys

import pytest
from filelock import FileLock

from fptplus.held_lock import HeldByAnother, held, holder_note

HOLD = """
import sys, time
from pathlib import Path
from fptplus.held_lock import held
with held(Path(sys.argv[1]), limit_s=0):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def holder(tmp_path):
    def hold(seconds):
        command = (sys.executable, "-c", HOLD, str(tmp_path / "a.lock"), str(seconds))
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        running.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    running = []
    yield hold
    for process in running:
        process.kill()
        process.communicate()


def test_the_process_waited_for_is_named_and_the_wait_ends(tmp_path, holder, caplog):
    path, process = tmp_path / "a.lock", holder(60)
    with pytest.raises(HeldByAnother, match=rf"process {process.pid} \(-c .+\) has held it for 0.1 s"):
        held(path, limit_s=0.1).__enter__()
    with pytest.raises(HeldByAnother, match="holds it; wait until it ends"), held(path, limit_s=0):
        raise AssertionError
    (waiting,) = caplog.messages
    assert waiting.startswith(f"waiting for process {process.pid} (-c ") and waiting.endswith("for at most 0.1 s")
    process.kill()
    process.wait()
    with held(path, limit_s=0):  # whatever the killed process has left
        assert holder_note(path).exists()
    assert not holder_note(path).exists()


def test_a_lock_that_becomes_free_is_taken(tmp_path, holder, caplog):
    holder(0.3)
    with held(tmp_path / "a.lock", limit_s=60):
        assert "waiting for process" in caplog.text


@pytest.mark.parametrize("note", [None, "", "nonsense", "-1 \x00\n", "99999999999999999999 host\n", b"\xff\xfe"])
def test_a_holder_that_is_not_known_is_another_process(tmp_path, note, caplog):
    caplog.set_level(logging.WARNING)
    path = tmp_path / "a.lock"
    if note is not None:
        holder_note(path).write_bytes(note if isinstance(note, bytes) else note.encode())
    with FileLock(path), pytest.raises(HeldByAnother, match="another process|process .+ on "), held(path, limit_s=0):
        raise AssertionError
