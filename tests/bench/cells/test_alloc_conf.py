"""Settings of PyTorch's allocator: those asked for override the environment's, and only one variable remains."""

import pytest

from bench.cells.alloc_conf import check, in_force, process_environment, remark, without_settings
from fptplus import InvalidInput

BOTH = {"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:32", "PYTORCH_ALLOC_CONF": "max_split_size_mb:64", "HOME": "/"}


@pytest.mark.parametrize(
    "settings",
    [
        "expandable_segments:True",
        "max_split_size_mb:128, garbage_collection_threshold:0.8",
        "roundup_power2_divisions:[256:1,512:2,>:4],backend:cudaMallocAsync",
    ],
)
def test_settings_as_pytorch_documents_them_are_accepted(settings):
    check(settings)


@pytest.mark.parametrize("settings", ["", "expandable_segments", "a:b:c", "a:[1,2", "a:1,", "a=1"])
def test_what_is_no_list_of_settings_is_refused_with_an_example(settings):
    with pytest.raises(InvalidInput, match=r"alloc-conf must be settings such as expandable_segments:True .*got '"):
        check(settings)


def test_what_is_asked_for_takes_the_place_of_the_environment_s():
    assert process_environment("backend:native", BOTH) == {"PYTORCH_ALLOC_CONF": "backend:native", "HOME": "/"}


def test_the_environment_s_settings_stay_the_older_name_first_as_pytorch_reads_them():
    assert in_force(None, BOTH) == "max_split_size_mb:32"
    assert process_environment(None, BOTH) == {"PYTORCH_ALLOC_CONF": "max_split_size_mb:32", "HOME": "/"}
    assert process_environment(None, {"HOME": "/"}) == without_settings(BOTH) == {"HOME": "/"}


def test_settings_found_are_warned_of_in_one_line_that_names_the_variable():
    (line,) = remark(None, BOTH).splitlines()
    assert line.startswith("warning: PYTORCH_CUDA_ALLOC_CONF is set to 'max_split_size_mb:32'")
    assert remark("backend:native", BOTH) is None
    assert remark(None, {"HOME": "/"}) is None
