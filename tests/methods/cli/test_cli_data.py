import pytest
from PIL import Image

from fptplus.__main__ import main


def test_synthesize_writes_class_folders_and_says_where(tmp_path, capsys):
    assert main(["synthesize", "--out", str(tmp_path / "fundus"), "--images-per-class", "10", "--res", "64"]) == 0
    assert "20 images of 64 px in" in capsys.readouterr().out
    assert len(list((tmp_path / "fundus" / "train" / "healthy").iterdir())) == 7
    assert main(["synthesize", "--out", str(tmp_path / "fundus"), "--images-per-class", "10"]) == 2
    assert "new or empty folder" in capsys.readouterr().err


def test_a_negative_seed_is_refused_by_name(tmp_path, capsys):
    assert main(["synthesize", "--out", str(tmp_path / "out"), "--images-per-class", "10", "--seed", "-1"]) == 2
    assert "error: seed must be at least 0, got -1." in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("sizes", [("1", "nan"), ("nan", "1"), ("inf", "1"), ("0", "1")])
def test_memory_that_is_no_number_above_0_is_refused_by_name(capsys, sizes):
    assert main(["evaluate", "--checkpoint", "none", "--store", "none", "--memory-mib", *sizes]) == 2
    assert "memory-mib must be two numbers above 0" in capsys.readouterr().err


def test_prepare_tells_counts_source_and_licence(tmp_path, capsys):
    for index in range(10):
        for label in (0, 1):
            path = tmp_path / "raw" / "CXR_png" / f"CHNCXR_{index + 1:04d}_{label}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (2, 2)).save(path)
    options = ["--raw", str(tmp_path / "raw"), "--out", str(tmp_path / "out")]
    assert main(["prepare", "--preset", "chncxr", *options]) == 0
    printed = capsys.readouterr().out
    assert "20 images in" in printed and "662 labelled images, this one 20" in printed and "licence:" in printed
    assert main(["prepare", "--preset", "chn", *options]) == 2
    assert "did you mean chncxr?" in capsys.readouterr().err
