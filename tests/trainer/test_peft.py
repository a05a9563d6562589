# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Adapters: little that trains, saved alone, loaded and merged to the same model."""

import pytest
import torch
from peft import LoraConfig, PeftModel

from modeling_sacl import SaclForPreTraining, SaclModel
from trainer import SaclTrainer, embed_pairs


LORA = {"r": 2, "target_modules": ["q_proj", "v_proj", "query", "value"]}


@pytest.fixture
def adapt(make_model, make_arguments, plain_collator, pairs):
    """A trainer of adapters on a tiny model."""

    def make(model_class=SaclForPreTraining, **options):
        args = make_arguments(**{"max_steps": 12, "per_device_train_batch_size": 12, "learning_rate": 5e-3, **options})
        return SaclTrainer(
            make_model(model_class),
            args,
            data_collator=plain_collator,
            train_dataset=pairs,
            eval_dataset=pairs,
            processing_class=plain_collator.processor,
            peft_config=LoraConfig(**LORA),
        )

    return make


class TestAdapters:
    @pytest.mark.parametrize("model_class", [SaclForPreTraining, SaclModel])
    def test_only_adapters_train_and_the_loss_falls(self, adapt, model_class):
        trainer = adapt(model_class, itm_weight=0.0, mlm_weight=0.0, momentum=None, max_steps=40)
        before = {name: weight.clone() for name, weight in trainer.model.named_parameters()}
        trainer.train()
        for name, weight in trainer.model.named_parameters():
            # Without matching and language modeling nothing asks the fusion encoder.
            trains = "lora" in name and "fusion_model" not in name
            assert torch.equal(weight, before[name]) != trains, name
        losses = [entry["itc_loss"] for entry in trainer.state.log_history if "itc_loss" in entry]
        assert min(losses[-5:]) < losses[0] - 0.1

    def test_teacher_follows_the_adapters_alone(self, adapt):
        trainer = adapt()
        trainer.train()
        assert all("lora" in name for name in trainer.teacher.state_dict())
        ours, theirs = dict(trainer.teacher.model.named_parameters()), dict(trainer.model.named_parameters())
        assert all((ours[name] is theirs[name]) == ("lora" not in name) for name in theirs)

    def test_saved_adapters_load_and_merge_to_the_same_model(self, adapt, make_model, pairs, tmp_path):
        trainer = adapt()
        trainer.train()
        trainer.save_model(str(tmp_path / "adapter"))
        assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()
        assert not (tmp_path / "adapter" / "model.safetensors").exists()

        processor = trainer.processing_class
        expected = embed_pairs(trainer.model, pairs, processor, show_progress=False)
        loaded = PeftModel.from_pretrained(make_model(), tmp_path / "adapter").eval()
        found = embed_pairs(loaded, pairs, processor, show_progress=False)
        assert torch.equal(found.image_embeds, expected.image_embeds)
        merged = embed_pairs(loaded.merge_and_unload(), pairs, processor, show_progress=False)
        assert torch.allclose(merged.image_embeds, expected.image_embeds, atol=1e-5)
        assert torch.allclose(merged.text_embeds, expected.text_embeds, atol=1e-5)

    def test_evaluates_and_resumes(self, adapt):
        whole = adapt(max_steps=4, save_strategy="steps", save_steps=2)
        whole.train()
        assert "eval_text_to_image_recall@1" in whole.evaluate()
        resumed = adapt(max_steps=4, save_strategy="steps", save_steps=2)
        resumed.train(resume_from_checkpoint=f"{resumed.args.output_dir}/checkpoint-2")
        losses, again = (
            [entry["loss"] for entry in trainer.state.log_history if "loss" in entry] for trainer in (whole, resumed)
        )
        assert losses == again

    def test_few_parameters_train_in_a_model_of_published_size(self):
        from peft import get_peft_model

        from modeling_sacl import SaclConfig

        with torch.device("meta"):
            model = get_peft_model(SaclForPreTraining(SaclConfig()), LoraConfig(**{**LORA, "r": 8}))
        trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
        assert 0 < trained < 0.03 * sum(weight.numel() for weight in model.parameters())
