# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""A card without problems has none, and each problem is found and names its way out."""

from pathlib import Path

import pytest

from hub_cards import validate_card


ROOT = Path(__file__).parents[2]
GOOD = """---
license: mit
library_name: transformers
tags:
- sacl
language: en
model-index:
- name: m
  results:
  - task: {type: image-text-retrieval}
    dataset: {type: emoji, name: Emoji}
    metrics:
    - {type: recall, value: 12.5}
---

# Model

See [the results](#results--more) and [the code](code.py).

## Results & more

![a curve](curves.png)
"""


@pytest.fixture
def problems(tmp_path):
    """The problems of the good card after a change."""
    for name in ("code.py", "curves.png"):
        (tmp_path / name).write_text("")

    def find(old: str = "", new: str = "", repo_type: str = "model") -> list[str]:
        assert old in GOOD
        (tmp_path / "README.md").write_text(GOOD.replace(old, new, 1) if old else GOOD)
        return validate_card(tmp_path, repo_type)

    return find


class TestModelCard:
    def test_a_good_card_has_no_problem(self, problems, tmp_path):
        assert problems() == []
        assert validate_card(str(tmp_path / "README.md")) == []
        # Of a text, files cannot be looked up.
        assert validate_card(GOOD.replace("code.py", "elsewhere.py")) == []

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("license: mit\n", "", "`license` is missing"),
            ("license: mit", "license: MIT License", "none that the Hub knows"),
            ("license: mit", "license: other", "`license_name`"),
            ("library_name: transformers", "library_name: peft", "`base_model` is missing"),
            ("language: en", "language: no", "false"),
            ("language: en", "language: English", "no code of ISO 639"),
            ("{type: emoji, name: Emoji}", "{type: emoji}", "the key 'name' is missing"),
            ("value: 12.5", "value: .nan", "a number is expected"),
            ("  results:", "  result:", "another form than the Hub reads"),
            ("curves.png", "lost.png", "picture lost.png leads nowhere"),
            ("code.py", "/home/me/code.py", "is absolute"),
            ("code.py", "javascript:alert(1)", "is of a kind that the Hub removes"),
            ("#results--more", "#nowhere", "there is no such heading"),
            ("![a curve]", "![]", "has no description"),
            ("![a curve](curves.png)", "", "The section 'Results & more' is empty"),
            ("# Model\n", "", "no title"),
            ("a curve](curves.png)", "a curve](curves.png)\n\n[More Information Needed]", "was left in"),
            ("# Model\n", "# Model\n\n<!-- sacl:generated results -->\n", "has no end"),
            ("license: mit", "license: [mit", "no valid YAML"),
            ("# Model\n", f"# Model\n\nUse hf_{'a' * 34}.\n", "access token"),
        ],
    )
    def test_each_problem_is_found_alone(self, problems, old, new, message):
        (found,) = problems(old, new)
        assert message in found

    def test_a_token_is_not_repeated(self, problems):
        (found,) = problems("# Model\n", f"# Model\n\nUse hf_{'a' * 34}.\n")
        assert "a" * 10 not in found

    def test_code_and_comments_are_not_looked_at(self, problems):
        text = "\n\n```\n[x](lost.py) TODO\n# no heading\n```\n\n<!-- ![](lost.png) TODO -->\n\n`[x](lost.py)`\n"
        assert problems("](curves.png)\n", f"](curves.png)\n{text}") == []

    def test_no_front_matter(self):
        found = validate_card("# Model\n\ntext\n")
        assert any("no front matter" in problem for problem in found)
        assert any("`license` is missing" in problem for problem in found)

    def test_no_card(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="does not exist"):
            validate_card(tmp_path)
        with pytest.raises(ValueError, match="`repo_type` must be one of model, dataset, space"):
            validate_card(GOOD, "models")


class TestOtherCards:
    def test_data_set_of_the_repository(self):
        assert validate_card(ROOT / "examples" / "data" / "emoji", "dataset") == []

    @pytest.mark.parametrize(
        "card", sorted((ROOT / "trainer" / "evaluation" / "metrics").glob("*/README.md")), ids=str
    )
    def test_metrics_of_the_repository(self, card):
        assert validate_card(card, "space") == []

    def test_data_files_that_are_not_there(self, tmp_path):
        card = (ROOT / "examples" / "data" / "emoji" / "README.md").read_text()
        (tmp_path / "README.md").write_text(card)
        (tmp_path / "NOTICE").write_text("")
        found = validate_card(tmp_path, "dataset")
        assert len(found) == 4
        assert all("train-" in problem or "validation-" in problem or "test_" in problem for problem in found)

    def test_space(self, tmp_path):
        (tmp_path / "README.md").write_text(
            "---\ntitle: T\nsdk: notebook\ncolorFrom: brown\nshort_description: " + "x" * 61 + "\n---\n# T\n\nx\n"
        )
        found = " ".join(validate_card(tmp_path, "space"))
        for part in ("sdk: notebook", "colorFrom: brown", "61 characters"):
            assert part in found
        (tmp_path / "README.md").write_text("---\ntitle: T\nsdk: gradio\n---\n# T\n\nx\n")
        (problem,) = validate_card(tmp_path, "space")
        assert "app.py" in problem
        (tmp_path / "app.py").write_text("")
        assert validate_card(tmp_path, "space") == []
