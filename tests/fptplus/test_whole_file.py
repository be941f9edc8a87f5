"""Files appear whole, with the user's umask, and what a killed process leaves is known from what others leave."""

import os
import stat
import subprocess
import sys

import pytest

from fptplus.data.new_folder import new_folder
from fptplus.own_folder import own_folder
from fptplus.whole_file import unfinished_files, whole_file


@pytest.fixture(params=[0o022, 0o002, 0o077])
def umask(request):
    earlier = os.umask(request.param)
    yield request.param
    os.umask(earlier)


def test_a_file_and_a_folder_have_the_mode_that_the_umask_gives(tmp_path, umask):
    with whole_file(tmp_path / "file") as beside:
        beside.write_text("new")
    with new_folder(tmp_path / "folder") as beside:
        (beside / "file").touch()
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~umask
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o777 & ~umask


def test_a_file_that_fails_leaves_the_old_one_alone(tmp_path):
    (tmp_path / "file").write_text("old")
    with pytest.raises(KeyboardInterrupt), whole_file(tmp_path / "file") as beside:
        beside.write_text("half")
        raise KeyboardInterrupt
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_only_what_a_killed_process_left_is_unfinished(tmp_path):
    for name in (".a.json.swp", ".a.json.x1y2z3w4", ".a.json.backup.unfinished", ".b.txt.0123abcd.unfinished"):
        (tmp_path / name).touch()
    with whole_file(tmp_path / "a.json") as beside:
        assert list(unfinished_files(tmp_path, "*.json")) == [beside]


LEAVE = """
import os, sys
from pathlib import Path
from fptplus.data.new_folder import new_folder
with new_folder(Path(sys.argv[1])) as beside:
    (beside / "half").write_text("")
    os.kill(os.getpid(), 9)
"""


def test_a_half_made_folder_of_a_killed_process_is_removed_by_the_next_and_nobody_else_s(tmp_path):
    foreign = [tmp_path / name for name in (".out-0123abcd", ".out-notes", ".other-0123abcd.lock")]
    for path in foreign:
        path.mkdir()
    assert subprocess.run([sys.executable, "-c", LEAVE, str(tmp_path / "out")]).returncode == -9
    left = [path for path in tmp_path.iterdir() if path not in foreign]
    assert [path for path in left if path.is_dir()]
    with new_folder(tmp_path / "out") as beside, own_folder(tmp_path, ".out-") as at_the_same_time:
        assert beside.is_dir() and at_the_same_time.is_dir()
        assert not [path for path in left if path.exists()]
    assert sorted(tmp_path.iterdir()) == sorted([*foreign, tmp_path / "out"])
