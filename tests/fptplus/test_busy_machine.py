"""Threads spin on an idle machine only, and only if the user has not decided."""

import os
import subprocess
import sys

import pytest

from fptplus import busy_machine


@pytest.fixture
def machine(monkeypatch):
    """A new process on a machine of which others use this much, in percent."""

    def used(percent, **variables):
        monkeypatch.setattr(busy_machine.psutil, "cpu_percent", lambda interval: percent)
        monkeypatch.setattr(os, "environ", dict(variables))
        monkeypatch.delitem(sys.modules, "torch", raising=False)
        return busy_machine.wait_without_spinning_if_busy()

    return used


def test_threads_do_not_spin_on_a_busy_machine_and_the_user_is_told(machine):
    assert machine(80.0).startswith("other processes use 80% of the processors")
    assert os.environ == {"OMP_WAIT_POLICY": "passive"}


@pytest.mark.parametrize(
    ("percent", "variables"),
    [(20.0, {}), (100.0, {"OMP_WAIT_POLICY": "active"}), (100.0, {"GOMP_SPINCOUNT": "5"})],
)
def test_an_idle_machine_and_a_user_s_choice_stay_as_they_are(machine, percent, variables):
    assert machine(percent, **variables) is None
    assert os.environ == variables


def test_it_comes_before_pytorch_which_reads_the_variable_as_it_is_loaded():
    code = "import sys, fptplus.__main__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    assert busy_machine.wait_without_spinning_if_busy() is None, "PyTorch is loaded here"
