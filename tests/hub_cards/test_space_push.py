# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""A Space on a Hub on loopback: one commit with all that it needs, replaced without leftovers, refused in words."""

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from hub_cards.space import push_space, write_space
from tests.hub.conftest import hub  # noqa: F401


@pytest.fixture
def space(tmp_path):
    return write_space(tmp_path / "space", "user/sacl", "user/photos", title="Photos")


class TestPushSpace:
    def test_all_that_it_needs_in_one_commit(self, hub, space):  # noqa: F811
        (space / "trainer" / "__pycache__").mkdir()
        (space / "trainer" / "__pycache__" / "left.pyc").write_bytes(b"left")
        address = push_space(space, "user/page", private=True)
        assert address == f"{hub.url}/spaces/user/page"
        info = HfApi().space_info("user/page")
        assert info.private and info.sdk == "gradio"
        there = {file.rfilename for file in info.siblings} - {".gitattributes"}
        here = {str(path.relative_to(space)) for path in space.rglob("*") if path.is_file()}
        assert there == {path for path in here if "__pycache__" not in path}
        assert {"README.md", "app.py", "requirements.txt", "hub_cards/space/page.css"} <= there
        titles = [commit.title for commit in HfApi().list_repo_commits("user/page", repo_type="space")]
        assert titles.count("Upload the page") == 1

    def test_pushing_again_leaves_no_code_behind_and_no_file_of_others(self, hub, space):  # noqa: F811
        push_space(space, "user/page")
        HfApi().upload_file(path_or_fileobj=b"ours", path_in_repo="notes.txt", repo_id="user/page", repo_type="space")
        (space / "trainer" / "queue.py").unlink()
        push_space(space, "user/page")
        there = HfApi().list_repo_files("user/page", repo_type="space")
        assert "trainer/queue.py" not in there and "notes.txt" in there and "trainer/guide.py" in there

    def test_without_a_right_nothing_is_there(self, hub, space):  # noqa: F811
        with pytest.raises(HfHubHTTPError):
            push_space(space, "user/page", token="hf_reader")
        with pytest.raises(HfHubHTTPError):
            push_space(space, "user/page", token="hf_stranger")
        assert not HfApi().repo_exists("user/page", repo_type="space")

    def test_as_a_pull_request(self, hub, space):  # noqa: F811
        push_space(space, "user/page")
        (space / "README.md").write_text((space / "README.md").read_text(encoding="utf-8") + "\nMore.\n")
        address = push_space(space, "user/page", create_pr=True)
        assert address == f"{hub.url}/spaces/user/page/discussions/1"
