"""Files appear whole, with the user's umask, and what a killed process leaves is known from what others leave."""

import os
import stat

import pytest

from fptplus.data.new_folder import new_folder
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
