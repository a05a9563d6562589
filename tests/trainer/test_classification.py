# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Collators of labelled rows, and the stock `Trainer` with the heads that they are for."""

import logging
import pickle

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from transformers import Trainer, TrainingArguments

from modeling_sacl import SaclForImagesAndTextClassification, SaclForImageTextClassification
from trainer.data import (
    ImagesAndTextClassificationCollator,
    ImageTextClassificationCollator,
    PairCollator,
    pair_augmentation,
    undecoded,
)


LABEL2ID = {"entailment": 0, "neutral": 1, "contradiction": 2}
COLLATORS = (ImageTextClassificationCollator, ImagesAndTextClassificationCollator)


@pytest.fixture
def rows(pairs):
    """Six rows, with one image and with two, so that either collator takes them."""
    return [
        {
            "image": pairs[row]["image"],
            "images": [pairs[row]["image"], pairs[row + 1]["image"]],
            "text": pairs[row]["caption"],
            "label": row % 3,
        }
        for row in range(6)
    ]


def with_labels(rows, labels):
    return [{**row, "label": label} for row, label in zip(rows, labels, strict=False)]


@pytest.mark.parametrize("collator_class", COLLATORS)
class TestBothCollators:
    def test_text_is_that_of_the_processor(self, collator_class, rows, tiny_processor):
        batch = collator_class(tiny_processor)(rows)
        expected = tiny_processor(text=[row["text"] for row in rows], return_tensors="pt")
        assert torch.equal(batch["input_ids"], expected["input_ids"])
        assert torch.equal(batch["attention_mask"], expected["attention_mask"])
        sentences = [{**row, "sentence": row["text"]} for row in rows]
        for row in sentences:
            del row["text"]
        assert torch.equal(collator_class(tiny_processor)(sentences)["input_ids"], expected["input_ids"])
        assert collator_class(tiny_processor, max_length=3)(rows)["input_ids"].shape == (6, 3)

    def test_batch_is_what_the_model_takes(self, collator_class, rows, tiny_processor):
        assert set(collator_class(tiny_processor)(rows)) == {"pixel_values", "input_ids", "attention_mask", "labels"}

    @pytest.mark.parametrize(
        ("labels", "expected"),
        [
            ([2, 0, 1], torch.tensor([2, 0, 1])),
            ([True, False, True], torch.tensor([1, 0, 1])),
            ([np.int64(2), torch.tensor(0), np.int8(1)], torch.tensor([2, 0, 1])),
            ([0.5, np.float32(2.0), -1.0], torch.tensor([0.5, 2.0, -1.0])),
            ([[1, 0], [0.5, 1], np.array([1, 1])], torch.tensor([[1, 0], [0.5, 1], [1, 1]])),
        ],
    )
    def test_labels(self, collator_class, rows, tiny_processor, labels, expected):
        result = collator_class(tiny_processor)(with_labels(rows[:3], labels))["labels"]
        assert torch.equal(result, expected) and result.dtype == expected.dtype

    def test_labels_by_name(self, collator_class, rows, tiny_processor):
        collator = collator_class(tiny_processor, label2id=LABEL2ID)
        named = with_labels(rows, ["neutral", "entailment", "contradiction"])
        assert collator(named)["labels"].tolist() == [1, 0, 2]
        with pytest.raises(ValueError, match="'maybe' is no class: known are entailment, neutral, contradiction"):
            collator(with_labels(rows, ["maybe"]))
        with pytest.raises(ValueError, match="'neutral' is no class: none are known.*label2id=model.config.label2id"):
            collator_class(tiny_processor)(named)

    def test_of_a_single_class_integers_are_numbers(self, collator_class, rows, tiny_processor):
        labels = collator_class(tiny_processor, label2id={"LABEL_0": 0})(with_labels(rows, [5, 1]))["labels"]
        assert torch.equal(labels, torch.tensor([5.0, 1.0]))

    @pytest.mark.parametrize("label", [None, float("nan"), [1, None], [float("inf"), 0], {"a": 1}, [[1], [0]]])
    def test_what_is_no_label_raises(self, collator_class, rows, tiny_processor, label):
        with pytest.raises(ValueError, match="A label has to be.*got .*Leave out rows without a label"):
            collator_class(tiny_processor)(with_labels(rows, [label]))

    @pytest.mark.parametrize("label", [3, -1, -100, 1.0])
    def test_labels_out_of_range_raise(self, collator_class, rows, tiny_processor, label):
        with pytest.raises(ValueError, match=f"label {label} is out of range.*integer from 0 to 2"):
            collator_class(tiny_processor, label2id=LABEL2ID)(with_labels(rows, [0, label]))

    def test_negative_labels_raise_without_classes_too(self, collator_class, rows, tiny_processor):
        with pytest.raises(ValueError, match="label -1 is out of range: a class is 0 or more"):
            collator_class(tiny_processor)(with_labels(rows, [-1]))

    def test_too_few_labels_at_once_raise(self, collator_class, rows, tiny_processor):
        with pytest.raises(ValueError, match="2 labels, .* for 3 classes"):
            collator_class(tiny_processor, label2id=LABEL2ID)(with_labels(rows, [[0, 1]]))

    @pytest.mark.parametrize("labels", [[0, 0.5], [[1, 0], [1, 0, 1]], [[1], 1]])
    def test_labels_of_several_kinds_raise(self, collator_class, rows, tiny_processor, labels):
        with pytest.raises(ValueError, match="of one kind and length"):
            collator_class(tiny_processor)(with_labels(rows, labels))

    @pytest.mark.parametrize("missing", ["image", "text", "label"])
    def test_missing_columns_raise(self, collator_class, rows, tiny_processor, missing):
        kept = [{name: value for name, value in row.items() if not name.startswith(missing)} for row in rows]
        with pytest.raises(ValueError, match=rf"'{missing}s?'.*this one has .*remove_unused_columns=False"):
            collator_class(tiny_processor)(kept)

    def test_rows_to_predict_have_no_labels(self, collator_class, rows, tiny_processor):
        unlabelled = [{name: value for name, value in row.items() if name != "label"} for row in rows]
        expected = collator_class(tiny_processor)(rows)
        batch = collator_class(tiny_processor, with_labels=False)(unlabelled)
        assert set(expected) - set(batch) == {"labels"}
        assert all(torch.equal(batch[name], expected[name]) for name in batch)

    @pytest.mark.parametrize("text", [3, ["a", "b"]])
    def test_texts_have_to_be_strings(self, collator_class, rows, tiny_processor, text):
        with pytest.raises(ValueError, match=f"string, got {type(text).__name__}"):
            collator_class(tiny_processor)([{**rows[0], "text": text}])

    def test_bad_rows_are_left_out_counted_and_logged_once(self, collator_class, rows, tiny_processor, caplog):
        broken = {"bytes": b"\x89PNG", "path": None}
        good = rows[0]["image"]
        bad = [
            {**rows[1], "image": broken, "images": [good, broken]},
            {**rows[2], "text": " "},
            {**rows[3], "text": None},
            {**rows[4], "image": None, "images": [None, good]},
        ]
        collator = collator_class(tiny_processor)
        with caplog.at_level(logging.WARNING):
            batch = collator([rows[0], *bad, rows[5]])
        assert batch["labels"].tolist() == [0, 2]
        assert {len(value) for value in batch.values()} == {2}
        assert collator.skipped == {"unreadable image": 1, "no text": 2, "no image": 1}
        messages = [record.getMessage() for record in caplog.records if record.name.startswith("trainer.data")]
        assert len(messages) == 3
        assert all(f"`{collator_class.__name__}.skipped`" in message for message in messages)
        with pytest.raises(ValueError, match="Of 4 pairs none is usable: 1 with unreadable image"):
            collator(bad)

    def test_augmentation_is_for_training(self, collator_class, rows, tiny_processor):
        plain = collator_class(tiny_processor, label2id=LABEL2ID, max_length=5)
        training = plain.for_training(fill=255)
        assert (training.label2id, training.max_length) == (plain.label2id, plain.max_length)
        torch.manual_seed(0)
        first, second = training(rows)["pixel_values"], training(rows)["pixel_values"]
        assert first.shape == plain(rows)["pixel_values"].shape
        assert not torch.equal(first, second)
        state = torch.get_rng_state()
        evaluation = training.for_evaluation()
        assert torch.equal(evaluation(rows)["pixel_values"], plain(rows)["pixel_values"])
        assert torch.equal(torch.get_rng_state(), state)

    def test_pickles(self, collator_class, rows, tiny_processor):
        collator = collator_class(tiny_processor, pair_augmentation(32), LABEL2ID)
        batches = []
        for each in (collator, pickle.loads(pickle.dumps(collator))):
            torch.manual_seed(0)
            batches.append(each(rows))
        assert all(torch.equal(batches[0][name], batches[1][name]) for name in batches[0])

    @pytest.mark.parametrize("arguments", [{"max_length": 0}, {"pad_to_multiple_of": -1}])
    def test_bad_arguments_raise(self, collator_class, tiny_processor, arguments):
        with pytest.raises(ValueError, match=next(iter(arguments))):
            collator_class(tiny_processor, **arguments)


class TestImages:
    def test_one_image_is_that_of_pairs(self, rows, tiny_processor):
        captions = [{"image": row["image"], "caption": row["text"], "pair_id": 0} for row in rows]
        expected = PairCollator(tiny_processor, mlm_probability=0)(captions)["pixel_values"]
        assert torch.equal(ImageTextClassificationCollator(tiny_processor)(rows)["pixel_values"], expected)

    def test_two_images_stay_in_their_order(self, rows, tiny_processor):
        pixels = ImagesAndTextClassificationCollator(tiny_processor)(rows)["pixel_values"]
        assert pixels.shape == (6, 2, 3, 32, 32)
        for row, both in zip(rows, pixels, strict=True):
            for image, values in zip(row["images"], both, strict=True):
                assert torch.equal(values, tiny_processor(images=image, return_tensors="pt")["pixel_values"][0])

    def test_each_of_two_images_is_augmented_by_itself(self, rows, tiny_processor):
        row = {**rows[0], "images": [rows[0]["image"]] * 2}
        torch.manual_seed(0)
        pixels = ImagesAndTextClassificationCollator(tiny_processor).for_training()([row])["pixel_values"]
        assert not torch.equal(pixels[0, 0], pixels[0, 1])

    @pytest.mark.parametrize(("number", "found"), [(1, "1"), (3, "3"), (0, "0"), (None, "NoneType")])
    def test_other_numbers_of_images_raise(self, rows, tiny_processor, number, found):
        images = None if number is None else [rows[0]["image"]] * number
        with pytest.raises(ValueError, match=f"two `images` in a list, got {found}"):
            ImagesAndTextClassificationCollator(tiny_processor)([{**rows[0], "images": images}])

    def test_data_sets_with_undecoded_images(self, rows, tiny_processor):
        columns = {"image": Image(), "images": List(Image()), "text": Value("string")}
        features = Features({**columns, "label": ClassLabel(names=list(LABEL2ID))})
        dataset = Dataset.from_list(rows, features=features)
        for collator_class in COLLATORS:
            collator = collator_class(tiny_processor)
            expected = collator(rows)
            for source in (dataset, undecoded(dataset)):
                batch = collator(list(source))
                assert all(torch.equal(batch[name], expected[name]) for name in expected)


# ---------------------------------------------------------------------------------------------------------- training


HEADS = {
    SaclForImageTextClassification: ImageTextClassificationCollator,
    SaclForImagesAndTextClassification: ImagesAndTextClassificationCollator,
}
LABELS = {
    "single_label_classification": [0, 1, 2, 0, 1, 2],
    "multi_label_classification": [[1, 0, 0], [1, 1, 0], [0, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]],
    "regression": [[0.5, 1.0, -1.0], [0.0, 0.0, 2.0], [1.0, 1.0, 1.0], [2.0, 0.0, 0.0], [-1.0, 0.5, 0.5], [0, 0, 0]],
}


@pytest.mark.parametrize("model_class", HEADS)
class TestStockTrainer:
    @pytest.fixture
    def make(self, model_class, make_model, without_dropout, tiny_processor, rows, tmp_path):
        def make(**options):
            without_dropout.num_labels = 3
            arguments = {
                "output_dir": str(tmp_path / "run"),
                "use_cpu": True,
                "report_to": "none",
                "disable_tqdm": True,
                "save_strategy": "no",
                "remove_unused_columns": False,
                "dataloader_pin_memory": False,
                "per_device_train_batch_size": 6,
                "max_steps": 1,
                **options,
            }
            return Trainer(
                make_model(model_class),
                TrainingArguments(**arguments),
                data_collator=HEADS[model_class](tiny_processor),
                train_dataset=rows,
                eval_dataset=rows,
            )

        return make

    @pytest.mark.parametrize("problem", LABELS)
    def test_accumulated_steps_equal_one(self, make, without_dropout, rows, problem):
        rows[:] = with_labels(rows, LABELS[problem])
        without_dropout.problem_type = problem
        options = {"optim": "sgd", "learning_rate": 1.0, "max_grad_norm": 1e9}
        whole, parts = make(**options), make(**options, per_device_train_batch_size=2, gradient_accumulation_steps=3)
        start = {name: value.detach().clone() for name, value in whole.model.named_parameters()}
        losses = [trainer.train().training_loss for trainer in (whole, parts)]
        assert losses[0] == pytest.approx(losses[1], abs=1e-6)
        moved = 0
        for name, value in whole.model.named_parameters():
            assert (value - parts.model.get_parameter(name)).abs().max() <= 1e-5, name
            moved += not torch.equal(value, start[name])
        assert moved > len(start) / 2

    def test_learns_predicts_and_saves(self, make, model_class, rows, tmp_path):
        trainer = make(max_steps=60, learning_rate=3e-3, lr_scheduler_type="constant")
        before = trainer.evaluate()["eval_loss"]
        trainer.train()
        prediction = trainer.predict(rows)
        assert prediction.metrics["test_loss"] < before / 2
        assert prediction.predictions.shape == (6, 3)
        assert prediction.label_ids.tolist() == [row["label"] for row in rows]
        trainer.save_model(str(tmp_path / "saved"))
        loaded = model_class.from_pretrained(tmp_path / "saved")
        batch = trainer.data_collator(rows)
        with torch.no_grad():
            logits = loaded(**batch).logits
        assert np.abs(logits.numpy() - prediction.predictions).max() <= 1e-5

    def test_checkpointing_trains_the_same(self, make):
        plain, checkpointed = make(learning_rate=1e-2), make(learning_rate=1e-2, activation_checkpointing=True)
        losses = [trainer.train().training_loss for trainer in (plain, checkpointed)]
        assert losses[0] == pytest.approx(losses[1], abs=1e-6)
        for name, value in plain.model.named_parameters():
            assert torch.allclose(value, checkpointed.model.get_parameter(name), atol=1e-5), name

    def test_columns_that_were_dropped_are_named(self, make):
        trainer = make(remove_unused_columns=True)
        with pytest.raises(ValueError, match="this one has 'label'. .*remove_unused_columns=False"):
            trainer.train()
