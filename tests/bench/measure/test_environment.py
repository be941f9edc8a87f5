"""Where a record was made is asked of this checkout's git alone, and of a user who may have no name."""

import getpass
import subprocess

import pytest

from bench.measure import environment
from bench.measure.device_lock import device_lock
from bench.measure.environment import provenance


@pytest.fixture
def other_repository(tmp_path):
    who = ["-c", "user.name=x", "-c", "user.email=x@y"]
    for command in (["init", "-q"], [*who, "commit", "-q", "--allow-empty", "-mx"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    return tmp_path


def test_the_git_folder_of_a_hook_is_not_asked(other_repository, monkeypatch):
    right = provenance()["git_commit"]
    monkeypatch.setenv("GIT_DIR", str(other_repository / ".git"))
    assert provenance()["git_commit"] == right


def test_an_installation_inside_another_repository_has_no_commit_of_its_own(other_repository, monkeypatch):
    installed = other_repository / "venv" / "site-packages"
    installed.mkdir(parents=True)
    monkeypatch.setattr(environment, "_ROOT", installed)
    assert provenance()["git_commit"] is None and provenance()["git_dirty"] is None


@pytest.mark.parametrize("error", [KeyError("getpwuid(): uid not found: 4711"), OSError("No username set")])
def test_a_user_without_a_name_has_a_lock_too(monkeypatch, error):
    def nobody():
        raise error

    monkeypatch.setattr(getpass, "getuser", nobody)
    with device_lock("cpu"):
        assert getpass.getuser is nobody
