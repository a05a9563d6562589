# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Questions and answers: the collator, VQA's files, answering and judging, and the stock `Trainer` with all of it."""

import json
import pickle

import pytest
import torch
from datasets import Dataset
from PIL import Image
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast, Trainer, TrainingArguments, set_seed

from modeling_sacl import SaclForQuestionAnswering, SaclModel, SaclProcessor
from trainer import (
    PairCollator,
    QuestionAnsweringCollator,
    answer_questions,
    evaluate_question_answering,
    frequent_answers,
    load_vqa,
)
from trainer.data import undecoded, weigh_answers
from trainer.data.question_answering import tokenize_answers


PEOPLE = [["red"] * 7 + ["a red bus"] * 3, ["green"] * 10, ["blue", "a blue cat", "blue", "this"]]
SHARES = [{"red": 0.7, "a red bus": 0.3}, {"green": 1.0}, {"blue": 0.5, "a blue cat": 0.25, "this": 0.25}]


@pytest.fixture
def rows(pairs):
    """Three questions about three images, answered by ten, ten and four people."""
    return [
        {"image": pairs[row]["image"], "question": question, "answers": people}
        for row, (question, people) in enumerate(
            zip(["this is the house", "of two", "a dog runs on this"], PEOPLE, strict=True)
        )
    ]


@pytest.fixture
def question_model(without_dropout, tiny_tokenizer):
    set_seed(0)
    model = SaclForQuestionAnswering(without_dropout)
    model.generation_config.update(
        decoder_start_token_id=tiny_tokenizer.cls_token_id, eos_token_id=tiny_tokenizer.sep_token_id, max_new_tokens=6
    )
    return model


def without(row, *names):
    return {name: value for name, value in row.items() if name not in names}


class TestCollator:
    def test_questions_and_images_are_those_of_other_collators(self, rows, tiny_processor):
        batch = QuestionAnsweringCollator(tiny_processor)(rows)
        pairs = [{"image": row["image"], "caption": row["question"]} for row in rows]
        expected = PairCollator(tiny_processor, mlm_probability=0)(pairs)
        for name in ("pixel_values", "input_ids", "attention_mask"):
            assert torch.equal(batch[name], expected[name])
        assert set(batch) == {"pixel_values", "input_ids", "attention_mask", "labels", "answer_weights"}

    def test_every_answer_once_with_its_share(self, rows, tiny_processor):
        batch = QuestionAnsweringCollator(tiny_processor)(rows)
        assert batch["labels"].shape == (3, 3, 5)
        assert batch["answer_weights"].dtype == torch.float32
        found = []
        for labels, weights in zip(batch["labels"], batch["answer_weights"], strict=True):
            answers = {}
            for tokens, weight in zip(labels.tolist(), weights.tolist(), strict=True):
                kept = [token for token in tokens if token != -100]
                assert bool(kept) == bool(weight)
                if kept:
                    assert kept == tokens[: len(kept)]
                    assert (kept[0], kept[-1]) == (2, 3)  # [CLS] and [SEP]
                    answers[tiny_processor.tokenizer.decode(kept, skip_special_tokens=True)] = pytest.approx(weight)
            found.append(answers)
        assert found == SHARES

    def test_other_forms_of_answers(self, rows, tiny_processor):
        collator = QuestionAnsweringCollator(tiny_processor)
        expected = collator(rows)
        dictionaries = [
            {**row, "answers": [{"answer": f" {answer}", "answer_id": 1} for answer in row["answers"]]} for row in rows
        ]
        for name, value in collator(dictionaries).items():
            assert torch.equal(value, expected[name])
        single = [{**without(row, "answers"), "answer": row["answers"][0]} for row in rows]
        batch = collator(single)
        assert torch.equal(batch["labels"], expected["labels"][:, :1, :3])
        assert batch["answer_weights"].tolist() == [[1.0]] * 3
        single[0]["answers"] = None  # as where data sets are joined
        assert torch.equal(collator(single)["labels"], batch["labels"])

    def test_weights_of_ones_own(self, rows, tiny_processor):
        rows[2]["weights"] = [1.0, 0.5, 2.0, 0.0]
        weights = QuestionAnsweringCollator(tiny_processor)(rows[2:])["answer_weights"]
        assert weights.tolist() == [[3.0, 0.5, 0.0]]
        for wrong in ([1.0, 2.0], [1.0, 1.0, 1.0, -1.0], [float("nan")] * 4):
            with pytest.raises(ValueError, match="`weights` have to be .* each of the 4 answers"):
                QuestionAnsweringCollator(tiny_processor)([{**rows[2], "weights": wrong}])

    def test_rows_without_answers_can_be_answered(self, rows, tiny_processor):
        collator = QuestionAnsweringCollator(tiny_processor)
        asked = [without(row, "answers") for row in rows]
        assert set(collator(asked)) == {"pixel_values", "input_ids", "attention_mask"}
        with pytest.raises(ValueError, match="Some rows.*have answers and some have none"):
            collator([rows[0], asked[1]])

    def test_what_is_unusable_is_left_out(self, rows, tiny_processor):
        collator = QuestionAnsweringCollator(tiny_processor)
        broken = [
            {**rows[0], "question": "  "},
            {**rows[0], "question": None},
            {**rows[0], "image": {"bytes": b"broken", "path": None}},
            {**rows[0], "answers": ["", " "]},
            {**rows[0], "answers": []},
        ]
        batch = collator([*broken, rows[1]])
        assert len(batch["input_ids"]) == len(batch["labels"]) == 1
        assert collator.skipped == {"no question": 2, "unreadable image": 1, "no answer": 2}
        assert weigh_answers(["red", "", "red", "blue"]) == {"red": 0.5, "blue": 0.25}

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"question": ["a", "b"]}, "question has to be a string, got list"),
            ({"answers": "red"}, "`answers` has to be a list.*there is `answer`.*'red'"),
            ({"answers": ["red", None]}, "An answer has to be a string, got"),
            ({"answers": [{"text": "red"}]}, "An answer has to be a string, got"),
        ],
    )
    def test_what_cannot_be_meant_raises(self, rows, tiny_processor, change, message):
        with pytest.raises(ValueError, match=message):
            QuestionAnsweringCollator(tiny_processor)([{**rows[0], **change}])

    @pytest.mark.parametrize("missing", ["image", "question"])
    def test_missing_columns_raise(self, rows, tiny_processor, missing):
        with pytest.raises(ValueError, match=f"'{missing}'.*this one has .*remove_unused_columns=False"):
            QuestionAnsweringCollator(tiny_processor)([without(rows[0], missing)])

    def test_lengths(self, rows, tiny_processor):
        batch = QuestionAnsweringCollator(tiny_processor, max_length=4, max_answer_length=4)(rows)
        assert batch["input_ids"].shape == (3, 4)
        assert batch["labels"].shape == (3, 3, 4)
        assert (batch["labels"][2, 1, [0, 3]] == torch.tensor([2, 3])).all()  # cut between the special tokens
        with pytest.raises(ValueError, match="`max_answer_length`.*at least 3, got 2"):
            QuestionAnsweringCollator(tiny_processor, max_answer_length=2)

    def test_augments_in_training_only(self, rows, tiny_processor):
        collator = QuestionAnsweringCollator(tiny_processor, max_answer_length=4)
        training = collator.for_training(min_scale=0.5)
        torch.manual_seed(0)
        first, second = training(rows), training(rows)
        assert not torch.equal(first["pixel_values"], second["pixel_values"])
        assert torch.equal(first["labels"], second["labels"])
        for name, value in training.for_evaluation()(rows).items():
            assert torch.equal(value, collator(rows)[name])

    def test_travels_to_the_workers_of_a_data_loader(self, rows, tiny_processor):
        collator = QuestionAnsweringCollator(tiny_processor)
        again = pickle.loads(pickle.dumps(collator))
        assert torch.equal(again(rows)["labels"], collator(rows)["labels"])

    def test_pads_answers_on_the_right_whatever_the_tokenizer_does(self, rows, tiny_processor):
        expected = tokenize_answers(tiny_processor, ["a red bus", "cat"])
        tiny_processor.tokenizer.padding_side = "left"
        try:
            tokens = tokenize_answers(tiny_processor, ["a red bus", "cat"])
        finally:
            tiny_processor.tokenizer.padding_side = "right"
        assert tokens["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
        assert torch.equal(tokens["input_ids"], expected["input_ids"])

    @pytest.mark.parametrize("max_length", [None, 4])
    def test_an_end_is_put_where_the_tokenizer_puts_none(self, tiny_processor, max_length):
        """As ALBEF's tokenizer, which begins a text and does not end it."""
        answers = ["a red bus", "cat"]
        expected = tokenize_answers(tiny_processor, answers, max_length)
        inner = tiny_processor.tokenizer.backend_tokenizer.__class__.from_str(
            tiny_processor.tokenizer.backend_tokenizer.to_str()
        )
        begin = tiny_processor.tokenizer.cls_token
        inner.post_processor = TemplateProcessing(
            single=f"{begin} $A", special_tokens=[(begin, tiny_processor.tokenizer.cls_token_id)]
        )
        names = {name: getattr(tiny_processor.tokenizer, name) for name in ("pad_token", "cls_token", "sep_token")}
        endless = PreTrainedTokenizerFast(tokenizer_object=inner, model_max_length=64, **names)
        assert endless("cat")["input_ids"] == expected["input_ids"][1, :2].tolist()
        processor = SaclProcessor(tiny_processor.image_processor, tiny_processor.tokenizer)
        processor.tokenizer = endless
        tokens = tokenize_answers(processor, answers, max_length)
        for name, value in expected.items():
            assert torch.equal(tokens[name], value)

    def test_tokenizer_without_beginning_and_end_raises(self, rows, tiny_processor):
        inner = tiny_processor.tokenizer.backend_tokenizer.__class__.from_str(
            tiny_processor.tokenizer.backend_tokenizer.to_str()
        )
        inner.post_processor = None
        bare = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="[PAD]", model_max_length=64)
        processor = SaclProcessor(tiny_processor.image_processor, tiny_processor.tokenizer)
        processor.tokenizer = bare
        with pytest.raises(ValueError, match="does not put special tokens around a text"):
            QuestionAnsweringCollator(processor)(rows)


@pytest.fixture
def vqa(tmp_path):
    """Two images and three questions in the files of VQA v2."""
    folder = tmp_path / "val2014"
    folder.mkdir()
    for image_id, color in ((42, "red"), (7, "blue")):
        Image.new("RGB", (20, 10), color).save(folder / f"COCO_val2014_{image_id:012d}.jpg")
    asked = [(42, 42000, "Is it red?"), (7, 7000, "What color is it?"), (42, 42001, "How many?")]
    answers = [["yes"] * 10, ["blue"] * 8 + ["sky blue", "navy"], ["1"] * 10]
    questions = {
        "info": {},
        "task_type": "Open-Ended",
        "data_type": "mscoco",
        "data_subtype": "val2014",
        "questions": [{"image_id": i, "question": q, "question_id": n} for i, n, q in asked],
    }
    annotations = {
        "data_subtype": "val2014",
        "annotations": [
            {
                "question_type": "none of the above",
                "multiple_choice_answer": people[0],
                "answers": [
                    {"answer": answer, "answer_confidence": "yes", "answer_id": number + 1}
                    for number, answer in enumerate(people)
                ],
                "image_id": image_id,
                "answer_type": kind,
                "question_id": number,
            }
            for (image_id, number, _), people, kind in reversed(
                list(zip(asked, answers, ["yes/no", "other", "number"], strict=True))
            )
        ],
    }
    (tmp_path / "questions.json").write_text(json.dumps(questions))
    (tmp_path / "annotations.json").write_text(json.dumps(annotations))
    return tmp_path


class TestVqaFiles:
    def test_reads_a_split(self, vqa, tiny_processor):
        dataset = load_vqa(vqa / "questions.json", vqa / "val2014", vqa / "annotations.json")
        assert dataset["question"][:] == ["Is it red?", "What color is it?", "How many?"]
        assert dataset["question_id"][:] == [42000, 7000, 42001]
        assert dataset["image_id"][:] == [42, 7, 42]
        assert dataset["answers"][1] == ["blue"] * 8 + ["sky blue", "navy"]
        assert dataset["answer_type"][:] == ["yes/no", "other", "number"]
        assert set(dataset["question_type"]) == {"none of the above"}
        assert [row["image"].getpixel((0, 0))[0] > 128 for row in dataset] == [True, False, True]
        batch = QuestionAnsweringCollator(tiny_processor)([undecoded(dataset)[row] for row in range(3)])
        assert batch["answer_weights"][1].tolist() == pytest.approx([0.8, 0.1, 0.1])
        assert frequent_answers(dataset, min_count=1) == ["1", "blue", "yes"]

    def test_a_test_split_has_no_answers(self, vqa):
        content = json.loads((vqa / "questions.json").read_text())
        content["data_subtype"] = "test-dev2015"
        (vqa / "questions.json").write_text(json.dumps(content))
        (vqa / "val2014").rename(vqa / "test2015")
        for file in (vqa / "test2015").iterdir():
            file.rename(file.with_name(file.name.replace("val2014", "test2015")))
        dataset = load_vqa(vqa / "questions.json", vqa / "test2015")
        assert dataset.column_names == ["image", "question", "question_id", "image_id"]
        assert len(dataset) == 3

    def test_images_by_another_name(self, vqa):
        for file in (vqa / "val2014").iterdir():
            file.rename(file.with_name(file.name.removeprefix("COCO_val2014_")))
        with pytest.raises(FileNotFoundError, match="Of 2 images 2 are not in .*COCO_val2014_000000000007.jpg"):
            load_vqa(vqa / "questions.json", vqa / "val2014")
        assert len(load_vqa(vqa / "questions.json", vqa / "val2014", image_file="{image_id:012d}.jpg")) == 3

    def test_files_of_two_splits_raise(self, vqa):
        content = json.loads((vqa / "annotations.json").read_text())
        del content["annotations"][0]
        (vqa / "annotations.json").write_text(json.dumps(content))
        with pytest.raises(ValueError, match="1 of 3 questions have no annotation, such as question 42001"):
            load_vqa(vqa / "questions.json", vqa / "val2014", vqa / "annotations.json")

    def test_exchanged_files_raise(self, vqa):
        with pytest.raises(ValueError, match="annotations.json is no file of VQA questions"):
            load_vqa(vqa / "annotations.json", vqa / "val2014", vqa / "questions.json")

    def test_frequent_answers(self):
        rows = [{"answers": ["b", "a", "a"]}, {"answer": "b"}, {"answers": ["b"] * 3}, {"answer": "c"}]
        assert frequent_answers(rows, min_count=1) == ["b", "a", "c"]
        both = [{"answers": row.get("answers"), "answer": row.get("answer")} for row in rows]
        assert frequent_answers(Dataset.from_list(both), min_count=2) == ["b"]
        with pytest.raises(ValueError, match="of 3 questions: lower `min_count`"):
            frequent_answers(rows, min_count=3)
        with pytest.raises(ValueError, match="needs 'answers' or 'answer'; this one has 'question'"):
            frequent_answers([{"question": "?"}])


class TestEvaluation:
    ANSWERS = ["red", "green", "blue", "a red bus", "this"]

    def test_ranked_answers_are_those_of_the_model(self, question_model, rows, tiny_processor):
        answers = answer_questions(
            question_model, rows, tiny_processor, answer_list=self.ANSWERS, batch_size=2, show_progress=False
        )
        choices = tiny_processor.tokenizer(self.ANSWERS, padding=True, return_tensors="pt")
        for row, answer in zip(rows, answers, strict=True):
            inputs = tiny_processor(text=row["question"], images=row["image"], return_tensors="pt")
            _, ranked = question_model.eval().rank_answers(
                **inputs, answer_input_ids=choices["input_ids"], answer_attention_mask=choices["attention_mask"]
            )
            assert answer == self.ANSWERS[ranked[0, 0]]

    def test_written_answers_are_those_of_the_model(self, question_model, rows, tiny_processor):
        options = {"num_beams": 2, "max_new_tokens": 4}
        answers = answer_questions(
            question_model, rows, tiny_processor, generation_options=options, show_progress=False
        )
        for row, answer in zip(rows, answers, strict=True):
            inputs = tiny_processor(text=row["question"], images=row["image"], return_tensors="pt")
            written = question_model.eval().generate(**inputs, **options)
            assert answer == tiny_processor.batch_decode(written, skip_special_tokens=True)[0].strip()

    def test_leaves_the_model_as_it_was(self, question_model, rows, tiny_processor):
        question_model.train()
        question_model.sacl.vision_model.eval()
        answer_questions(question_model, iter(rows), tiny_processor, show_progress=False)
        assert question_model.training
        assert not question_model.sacl.vision_model.training
        assert torch.is_grad_enabled()
        with pytest.raises(ValueError, match="question of row 1"):
            answer_questions(
                question_model,
                [rows[0], {**rows[1], "question": 1}],
                tiny_processor,
                batch_size=1,
                show_progress=False,
            )
        assert torch.is_grad_enabled()
        assert question_model.training

    def test_accuracy_is_that_of_the_metric(self, question_model, rows, tiny_processor, monkeypatch):
        # Seven of ten, three of ten, and none.
        for answer, expected in (("red", 100.0), ("a red bus", 100 * (3 * 2 / 3 + 7) / 10), ("green", 0.0)):
            result = evaluate_question_answering(
                question_model, rows[:1], tiny_processor, answer_list=[answer], show_progress=False
            )
            assert result == {"accuracy": pytest.approx(expected)}

    def test_accuracy_by_type(self, question_model, rows, tiny_processor):
        rows = [
            {**row, "answer_type": kind, "question_type": "what"}
            for row, kind in zip(rows, ["other", "number", "other"], strict=True)
        ]
        result = evaluate_question_answering(
            question_model, rows, tiny_processor, answer_list=["red"], batch_size=2, show_progress=False
        )
        assert result == {
            "accuracy": pytest.approx(100 / 3),
            "accuracy_by_answer_type": {"other": 50.0, "number": 0.0},
            "accuracy_by_question_type": {"what": pytest.approx(100 / 3)},
        }

    def test_one_answer_counts_as_one_that_all_gave(self, question_model, rows, tiny_processor):
        single = [{**without(row, "answers"), "answer": row["answers"][0]} for row in rows]
        result = evaluate_question_answering(
            question_model, single, tiny_processor, answer_list=["blue"], show_progress=False
        )
        assert result["accuracy"] == pytest.approx(100 / 3)

    def test_columns_by_another_name(self, question_model, rows, tiny_processor):
        renamed = [{"picture": row["image"], "text": row["question"], "answers": row["answers"]} for row in rows]
        options = {"answer_list": self.ANSWERS, "show_progress": False}
        assert answer_questions(
            question_model, renamed, tiny_processor, image_column="picture", question_column="text", **options
        ) == answer_questions(question_model, rows, tiny_processor, **options)
        with pytest.raises(ValueError, match="no column 'question', only .*: set `question_column`"):
            answer_questions(question_model, renamed, tiny_processor, image_column="picture", **options)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"batch_size": 0}, "`batch_size` must be at least 1"),
            ({"answer_list": []}, "`answer_list` is empty"),
            ({"answer_list": ["a"], "generation_options": {"num_beams": 2}}, "one of the two"),
        ],
    )
    def test_impossible_options_raise(self, question_model, rows, tiny_processor, options, message):
        with pytest.raises(ValueError, match=message):
            answer_questions(question_model, rows, tiny_processor, show_progress=False, **options)

    def test_nothing_to_answer_raises(self, question_model, rows, tiny_processor, without_dropout):
        with pytest.raises(ValueError, match="no rows"):
            answer_questions(question_model, [], tiny_processor, show_progress=False)
        with pytest.raises(TypeError, match="SaclModel is no model that ranks answers"):
            answer_questions(SaclModel(without_dropout), rows, tiny_processor, answer_list=["a"], show_progress=False)


class TestTraining:
    def test_stock_trainer_learns_to_answer(self, without_dropout, pairs, tiny_processor, tiny_tokenizer, tmp_path):
        """Two questions about coloured shapes, whose answers are in their captions."""
        rows = []
        for pair in pairs:
            _, color, shape = pair["caption"].split()
            rows.append({"image": pair["image"], "question": "this is of", "answers": [f"a {shape}"] * 10})
            rows.append({"image": pair["image"], "question": "a photo is", "answers": [color] * 7 + ["photo"] * 3})
        for key in without_dropout.sub_configs:
            getattr(without_dropout, key).initializer_range = 0.2  # of 32 dimensions
        set_seed(0)
        model = SaclForQuestionAnswering(without_dropout)
        model.generation_config.update(
            decoder_start_token_id=tiny_tokenizer.cls_token_id,
            eos_token_id=tiny_tokenizer.sep_token_id,
            max_new_tokens=6,
        )
        arguments = TrainingArguments(
            str(tmp_path),
            use_cpu=True,
            max_steps=100,
            per_device_train_batch_size=12,
            learning_rate=3e-3,
            logging_steps=20,
            save_strategy="no",
            report_to="none",
            remove_unused_columns=False,
            disable_tqdm=True,
        )
        trainer = Trainer(
            model,
            arguments,
            data_collator=QuestionAnsweringCollator(tiny_processor),
            train_dataset=rows,
            eval_dataset=rows[:5],
            processing_class=tiny_processor,
        )
        before = trainer.evaluate()["eval_loss"]
        trainer.train()
        assert trainer.evaluate()["eval_loss"] < before / 3
        for options in ({"answer_list": frequent_answers(rows, min_count=1)}, {}):
            result = evaluate_question_answering(model, rows, tiny_processor, show_progress=False, **options)
            assert result["accuracy"] > 80
        trainer.save_model(str(tmp_path / "model"))
        saved = SaclForQuestionAnswering.from_pretrained(tmp_path / "model")
        assert answer_questions(saved, rows, tiny_processor, show_progress=False) == answer_questions(
            model, rows, tiny_processor, show_progress=False
        )
