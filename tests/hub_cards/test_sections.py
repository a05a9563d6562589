# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""A card of two authors: the generated parts change, and nothing that a person wrote is ever lost."""

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hub_cards import CardError
from hub_cards.sections import merge_parts, parse_card, update_card


SECTIONS = {
    "notice": "<!-- note -->",
    "title": "# Model",
    "results": "## Results\n\n12 %",
    "limits": "## Limits\n\nmany",
}
METADATA = {
    "license": "mit",
    "tags": ["sacl", "emoji"],
    "model-index": [{"name": "m", "results": [{"task": {"type": "t"}, "dataset": {"type": "d"}, "metrics": [1]}]}],
}


@pytest.fixture
def write(tmp_path):
    """Writes the card of a folder, after a change of its text by a person; the text that is there then."""

    def make(change=lambda text: text, metadata=METADATA, sections=SECTIONS) -> str:
        path = tmp_path / "README.md"
        if path.exists():
            path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")
        return update_card(tmp_path, metadata, sections).read_text(encoding="utf-8")

    return make


def front_matter(text: str) -> dict:
    return yaml.safe_load(text.split("---")[1])


class TestText:
    def test_generated_parts_are_replaced_and_text_around_them_stays(self, write):
        write()
        text = write(
            lambda text: (
                text.replace("# Model\n", "# Model\n").replace(
                    "<!-- sacl:generated results -->", "My words before.\n\n<!-- sacl:generated results -->"
                )
                + "\nMy last words.\n"
            ),
            sections={**SECTIONS, "results": "## Results\n\n99 %"},
        )
        assert "99 %" in text and "12 %" not in text
        assert (
            text.index("# Model") < text.index("My words before.") < text.index("99 %") < text.index("My last words.")
        )

    def test_writing_twice_changes_nothing(self, write):
        first = write()
        assert write() == first
        assert write(lambda text: text + "\nmine\n") == write()

    def test_a_new_section_finds_its_place_and_an_old_one_goes(self, write):
        write(sections={name: SECTIONS[name] for name in ("notice", "title", "limits")})
        text = write()
        assert text.index("# Model") < text.index("## Results") < text.index("## Limits")
        text = write(sections={name: SECTIONS[name] for name in ("notice", "title", "results")})
        assert "Limits" not in text

    def test_a_card_that_a_person_began_comes_first_and_keeps_its_heading(self, write, tmp_path):
        (tmp_path / "README.md").write_text("---\nlicense: gpl\n---\n# Mine\n\nText.\n")
        text = write()
        assert text.index("# Mine") < text.index("Text.") < text.index("## Results")
        assert "# Model" not in text
        assert front_matter(text)["license"] == "gpl"

    def test_an_own_section_is_not_generated(self, write):
        text = write()
        begin, end = (f"<!-- {mark}sacl:generated results -->" for mark in ("", "/"))
        generated = text[text.index(begin) : text.index(end) + len(end)]
        mine = "<!-- sacl:own results -->\n\n## Results\n\nmy own 13 %"
        text = write(lambda text: text.replace(generated, mine))
        assert mine in text
        assert text.count("## Results") == 1
        assert write() == text

    def test_markers_in_code_are_text(self, write):
        write()
        example = "```html\n<!-- sacl:generated results -->\n```"
        assert example in write(lambda text: text + f"\n{example}\n")

    def test_windows_line_ends_stay(self, write, tmp_path):
        write()
        path = tmp_path / "README.md"
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n") + b"mine\r\n")
        update_card(tmp_path, METADATA, SECTIONS)
        assert b"mine\r\n" in path.read_bytes()
        assert path.read_bytes().count(b"\n") == path.read_bytes().count(b"\r\n")

    def test_the_empty_form_of_the_hub_is_nobodys_text(self, write, tmp_path):
        from huggingface_hub import ModelCard, ModelCardData

        form = ModelCard.from_template(ModelCardData(library_name="peft"))
        (tmp_path / "README.md").write_text(f"{form}\n### Framework versions\n\n- PEFT 0.21.0\n")
        assert "More Information Needed" not in write()
        (tmp_path / "README.md").write_text(f"{form}\nMy one sentence.\n")
        assert "My one sentence." in write()

    @settings(max_examples=60, deadline=None)
    @given(
        st.lists(
            st.text(st.characters(codec="utf-8", exclude_categories=["C"]), max_size=30).filter(
                lambda line: (
                    not line.startswith(("<!-- sacl", "<!-- /sacl")) and not line.lstrip().startswith(("`", "~"))
                )
            ),
            min_size=4,
            max_size=4,
        ),
        st.permutations(["title", "results", "limits"]),
    )
    def test_no_line_of_a_person_is_lost(self, lines, order):
        names = iter(order)
        body = "\n".join(
            f"{line}\n<!-- sacl:generated {name} -->\nold\n<!-- /sacl:generated {name} -->"
            if (name := next(names, None))
            else line
            for line in lines
        )
        merged = merge_parts(parse_card(f"---\na: 1\n---\n{body}").parts, SECTIONS)
        left = merged.split("\n")
        for line in lines:
            if line.strip():
                assert line in left
                left = left[left.index(line) + 1 :]


class TestFrontMatter:
    def test_what_a_person_changed_added_or_removed_stays_so(self, write):
        write()
        text = write(
            lambda text: text.replace("license: mit", "license: gpl\nextra: 1").replace("- emoji\n", "- mine\n"),
            metadata={**METADATA, "license": "apache-2.0", "tags": ["sacl", "emoji", "new"]},
        )
        found = front_matter(text)
        assert (found["license"], found["extra"]) == ("gpl", 1)
        assert set(found["tags"]) == {"sacl", "new", "mine"}
        found = front_matter(write(lambda text: text.replace("license: gpl\n", "")))
        assert "license" not in found
        assert "emoji" not in found["tags"]
        assert "license" not in front_matter(write())

    def test_what_was_generated_follows(self, write):
        write()
        found = front_matter(write(metadata={"license": "apache-2.0", "tags": ["emoji", "new"]}))
        assert found == {"license": "apache-2.0", "tags": ["emoji", "new"]}

    def test_results_of_a_person_stay_beside_new_ones(self, write):
        text = write()
        mine = {"task": {"type": "t"}, "dataset": {"type": "mine"}, "metrics": [3]}

        def add(text: str) -> str:
            found = front_matter(text)
            found["model-index"][0]["results"].append(mine)
            return text.replace(text.split("---")[1], "\n" + yaml.safe_dump(found))

        results = [{**METADATA["model-index"][0]["results"][0], "metrics": [2]}]
        text = write(add, metadata={**METADATA, "model-index": [{"name": "m", "results": results}]})
        assert front_matter(text)["model-index"][0]["results"] == [*results, mine]

    def test_untouched_it_keeps_comments(self, write):
        write()
        assert "# because" in write(lambda text: text.replace("license: mit", "license: mit # because"))


class TestBrokenCards:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("---\nlicense: [mit\n---\n# Mine\n", "no valid YAML in line"),
            ("---\n- a\n---\n# Mine\n", "must be a mapping"),
            ("---\nlicense: mit\n# Mine\n", "has no end"),
            ("# Mine\n<!-- sacl:generated results -->\n", "'results' has no end"),
            ("<!-- /sacl:generated results -->\n", "without a beginning"),
            ("<!-- sacl:generated a -->\n<!-- /sacl:generated b -->\n", "'a' ends as 'b'"),
            ("<!-- sacl:generated a -->\n<!-- sacl:own b -->\n<!-- /sacl:generated a -->\n", "within the section 'a'"),
            ("<!-- sacl:own a -->\n<!-- sacl:own a -->\n", "twice"),
        ],
    )
    def test_an_error_names_the_way_out_and_nothing_changes(self, write, tmp_path, text, message):
        (tmp_path / "README.md").write_text(text)
        with pytest.raises(CardError, match=message):
            write()
        assert (tmp_path / "README.md").read_text() == text
        assert [path.name for path in tmp_path.iterdir()] == ["README.md"]

    def test_not_utf8(self, write, tmp_path):
        (tmp_path / "README.md").write_bytes("# Müll".encode("latin-1"))
        with pytest.raises(CardError, match="not UTF-8"):
            update_card(tmp_path, METADATA, SECTIONS)
