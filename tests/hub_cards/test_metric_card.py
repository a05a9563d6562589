# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The card of a metric says what its script says, and its examples give what they claim."""

import doctest
import re
import shutil
from pathlib import Path

import evaluate
import pytest

from hub_cards import describe_metric, validate_card, write_metric_card


METRICS = Path(__file__).parents[2] / "trainer" / "evaluation" / "metrics"


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "vqa_accuracy"
    folder.mkdir()
    shutil.copy(METRICS / "vqa_accuracy" / "vqa_accuracy.py", folder)
    return folder


class TestWriteMetricCard:
    @pytest.mark.parametrize("name", sorted(path.parent.name for path in METRICS.glob("*/*.py")))
    def test_all_arguments_and_results_are_there(self, name):
        facts = describe_metric(METRICS / name)
        arguments = {argument for argument, _, _ in facts.inputs}
        assert {"predictions", "references"} <= arguments
        assert facts.outputs.startswith("- `")
        assert facts.citation.startswith("@")
        assert facts.examples.count(">>>") > 2

    def test_card_is_valid_and_its_examples_are_true(self, folder, monkeypatch):
        card = write_metric_card(folder, describe_metric(folder, title="VQA accuracy")).read_text()
        assert validate_card(folder, "space") == []
        assert "# Metric card: VQA accuracy" in card
        code = "\n".join(re.findall(r"```python\n(>>>.*?)```", card, re.DOTALL))
        load = evaluate.load
        monkeypatch.setattr(evaluate, "load", lambda path: load(path.replace("path/to/vqa_accuracy", str(folder))))
        test = doctest.DocTestParser().get_doctest(code, {}, "card", None, 0)
        outcome = doctest.DocTestRunner(verbose=False).run(test)
        assert outcome.attempted >= 3 and outcome.failed == 0

    def test_a_persons_text_stays(self, folder):
        card = write_metric_card(folder)
        card.write_text(card.read_text() + "\n## Limitations\n\nSome.\n")
        assert "Some." in write_metric_card(folder).read_text()

    def test_no_script(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="a script of the folder's name"):
            write_metric_card(tmp_path)
