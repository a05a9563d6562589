# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Published towers as a start: the SACL towers compute what the published models compute, at random weights."""

import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    BertModel,
    CamembertConfig,
    CamembertModel,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
    DeiTConfig,
    DeiTModel,
    DistilBertConfig,
    DistilBertForMaskedLM,
    DistilBertModel,
    ElectraConfig,
    ElectraForMaskedLM,
    ElectraModel,
    GPT2Config,
    GPT2Model,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    T5Config,
    T5EncoderModel,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
)

from modeling_sacl import SaclForPreTraining, SaclModel

from .common import assert_same, stir


# Miniatures of the published checkpoints: every size differs from every other, so that a mix-up cannot pass.
VISION = {
    "hidden_size": 48,
    "intermediate_size": 50,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 37,
    "num_hidden_layers": 5,
    "num_attention_heads": 2,
    "vocab_size": 99,
    "max_position_embeddings": 40,
}


def make(model_class, config, std: float = 0.05):
    torch.manual_seed(0)
    return stir(model_class(config), std=std)


def clip_vision(**options) -> CLIPVisionModel:
    return make(CLIPVisionModel, CLIPVisionConfig(**{**VISION, **options}))


def vit(**options) -> ViTModel:
    return make(ViTModel, ViTConfig(**{**VISION, **options}))


def bert(model_class=BertModel, **options):
    return make(model_class, BertConfig(**{**TEXT, **options}))


def warm(vision=None, text=None, model_class=SaclForPreTraining, **options):
    vision = clip_vision() if vision is None else vision
    text = bert() if text is None else text
    return model_class.from_vision_text_pretrained(vision, text, **options).eval()


def images(size: int = 32, batch_size: int = 2) -> torch.Tensor:
    return torch.randn(batch_size, 3, size, size, generator=torch.Generator().manual_seed(0))


def texts(vocab_size: int = 99, pad_token_id: int = 0) -> dict[str, torch.Tensor]:
    input_ids = torch.randint(5, vocab_size, (3, 9), generator=torch.Generator().manual_seed(0))
    attention_mask = torch.ones(3, 9, dtype=torch.long)
    input_ids[1, 6:], attention_mask[1, 6:] = pad_token_id, 0
    return {"input_ids": input_ids, "attention_mask": attention_mask}


@torch.no_grad()
def assert_image_tower_equals_clip(model, clip, pixel_values) -> None:
    ours = model.base_model.vision_model(pixel_values, output_hidden_states=True)
    theirs = clip(pixel_values=pixel_values, output_hidden_states=True)
    assert_same(ours.pooler_output, theirs.pooler_output, tolerance=1e-5)
    assert_same(ours.hidden_states[-1], theirs.last_hidden_state, tolerance=1e-5)
    assert_same(ours.hidden_states, theirs.hidden_states, tolerance=1e-5)


@torch.no_grad()
def assert_image_tower_equals_vit(model, vit, pixel_values) -> None:
    ours = model.base_model.vision_model(pixel_values)
    assert_same(ours.last_hidden_state, vit(pixel_values=pixel_values).last_hidden_state, tolerance=1e-5)


@torch.no_grad()
def assert_text_tower_equals_first_layers(model, encoder, inputs, num_layers: int) -> None:
    """The layer list of the published encoder is cut short; nothing else of it is touched."""
    ours = model.base_model.text_model(**inputs).last_hidden_state
    layers = encoder.encoder.layer
    encoder.encoder.layer = layers[:num_layers]
    theirs = encoder(**inputs).last_hidden_state
    encoder.encoder.layer = layers
    kept = inputs["attention_mask"].bool()
    assert_same(ours[kept], theirs[kept], tolerance=1e-5)


FUSION_NAMES = {
    "self_attention.q_proj": "attention.self.query",
    "self_attention.k_proj": "attention.self.key",
    "self_attention.v_proj": "attention.self.value",
    "self_attention.o_proj": "attention.output.dense",
    "self_attention_layer_norm": "attention.output.LayerNorm",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
    "mlp_layer_norm": "output.LayerNorm",
}


def assert_fusion_equals_last_layers(model, encoder, num_layers: int) -> None:
    layers = model.base_model.fusion_model.layers
    assert len(layers) == num_layers
    for ours, theirs in zip(layers, encoder.encoder.layer[-num_layers:], strict=True):
        taken = set()
        for our_name, their_name in FUSION_NAMES.items():
            for kind in ("weight", "bias"):
                left, right = ours.get_parameter(f"{our_name}.{kind}"), theirs.get_parameter(f"{their_name}.{kind}")
                assert torch.equal(left, right), (our_name, kind)
                taken.add(f"{our_name}.{kind}")
        # All that is left over is the cross-attention, and everything of the published layer was used.
        assert {name.split(".")[0] for name, _ in ours.named_parameters() if name not in taken} == {
            "cross_attention",
            "cross_attention_layer_norm",
        }
        assert len(taken) == len(list(theirs.parameters()))


class TestImageTower:
    def test_equals_clip(self):
        clip = clip_vision()
        for model_class in (SaclModel, SaclForPreTraining):
            model = warm(clip, model_class=model_class)
            assert type(model) is model_class
            assert_image_tower_equals_clip(model, clip, images())

    def test_equals_vit(self):
        tower = vit()
        assert_image_tower_equals_vit(warm(tower), tower, images())

    @pytest.mark.parametrize("option", [{"qkv_bias": False}, {"hidden_act": "relu", "layer_norm_eps": 1e-3}])
    def test_equals_unusual_vit(self, option):
        tower = vit(**option)
        assert_image_tower_equals_vit(warm(tower), tower, images())

    def test_equals_unusual_clip(self):
        tower = clip_vision(hidden_act="gelu", layer_norm_eps=1e-3, num_channels=3)
        assert_image_tower_equals_clip(warm(tower), tower, images())

    def test_equals_published_clip_base(self):
        # openai/clip-vit-base-patch16
        config = CLIPVisionConfig(
            hidden_size=768,
            intermediate_size=3072,
            num_hidden_layers=12,
            num_attention_heads=12,
            image_size=224,
            patch_size=16,
            hidden_act="quick_gelu",
            layer_norm_eps=1e-5,
            projection_dim=512,
        )
        clip = make(CLIPVisionModel, config, std=0.01)
        assert_image_tower_equals_clip(warm(clip, model_class=SaclModel), clip, images(224, batch_size=1))

    def test_equals_published_vit_base(self):
        # google/vit-base-patch16-224-in21k
        config = ViTConfig(
            hidden_size=768,
            intermediate_size=3072,
            num_hidden_layers=12,
            num_attention_heads=12,
            image_size=224,
            patch_size=16,
            hidden_act="gelu",
            layer_norm_eps=1e-12,
            qkv_bias=True,
        )
        tower = make(ViTModel, config, std=0.01)
        assert_image_tower_equals_vit(warm(tower, model_class=SaclModel), tower, images(224, batch_size=1))

    @pytest.mark.parametrize("size", [48, 16, 40])
    def test_positions_of_another_size_are_those_of_clip(self, size):
        clip = clip_vision()
        model = warm(clip, image_size=size)
        assert model.config.vision_config.image_size == size
        embeddings = clip.base_model.embeddings
        theirs = embeddings.interpolate_pos_encoding(torch.zeros(1, 1 + (size // 8) ** 2, 48), size, size)
        ours = model.sacl.vision_model.embeddings.position_embedding
        assert ours.shape == (1, 1 + (size // 8) ** 2, 48)
        assert_same(ours, theirs.view_as(ours), tolerance=1e-4)
        with torch.no_grad():
            expected = clip(pixel_values=images(size), interpolate_pos_encoding=True).pooler_output
            assert_same(model.sacl.vision_model(images(size)).pooler_output, expected, tolerance=1e-4)

    def test_positions_of_another_size_are_those_of_vit(self):
        tower = vit()
        model = warm(tower, image_size=48)
        with torch.no_grad():
            expected = tower(pixel_values=images(48), interpolate_pos_encoding=True).last_hidden_state
            assert_same(model.sacl.vision_model(images(48)).last_hidden_state, expected, tolerance=1e-4)

    def test_positions_of_the_own_size_are_copied(self):
        clip = clip_vision()
        for size in (None, 32):
            ours = warm(clip, image_size=size).sacl.vision_model.embeddings.position_embedding
            assert torch.equal(ours[0], clip.base_model.embeddings.position_embedding.weight)

    def test_impossible_image_size_raises(self):
        with pytest.raises(ValueError, match=r"`image_size` \(45\).*`patch_size` \(8\)"):
            warm(image_size=45)

    @pytest.mark.parametrize(
        ("model_class", "config"),
        [
            (DeiTModel, DeiTConfig(**VISION)),
            (SiglipVisionModel, SiglipVisionConfig(**VISION)),
            (BertModel, BertConfig(**TEXT)),
        ],
    )
    def test_other_families_raise(self, model_class, config):
        with pytest.raises(ValueError, match=f"`{model_class.__name__}`.*`{config.model_type}`.*give a CLIP or ViT"):
            warm(model_class(config))

    def test_distilled_deit_is_named(self, tmp_path):
        DeiTModel(DeiTConfig(**VISION)).save_pretrained(tmp_path)
        with pytest.raises(ValueError, match="distilled DeiT"):
            warm(str(tmp_path))


class TestTextTower:
    @pytest.mark.parametrize("num_layers", [1, 2, 4])
    def test_equals_the_first_layers_of_bert(self, num_layers):
        encoder = bert()
        model = warm(text=encoder, num_text_layers=num_layers)
        assert model.config.text_config.num_hidden_layers == num_layers
        assert_text_tower_equals_first_layers(model, encoder, texts(), num_layers)
        assert_fusion_equals_last_layers(model, encoder, 5 - num_layers)

    @pytest.mark.parametrize(("layers", "expected"), [(4, (2, 2)), (5, (2, 3)), (2, (1, 1))])
    def test_splits_in_the_middle_by_default(self, layers, expected):
        config = warm(text=bert(num_hidden_layers=layers)).config
        assert (config.text_config.num_hidden_layers, config.fusion_encoder_config.num_hidden_layers) == expected

    def test_towers_may_overlap_or_leave_a_gap(self):
        encoder = bert()
        for num_text, num_fusion in ((4, 4), (1, 1), (5, 5)):
            model = warm(text=encoder, num_text_layers=num_text, num_fusion_layers=num_fusion)
            assert_text_tower_equals_first_layers(model, encoder, texts(), num_text)
            assert_fusion_equals_last_layers(model, encoder, num_fusion)

    def test_equals_published_bert_base(self):
        # google-bert/bert-base-uncased, with 3 of its 12 layers
        config = BertConfig(
            vocab_size=30522,
            hidden_size=768,
            num_hidden_layers=3,
            num_attention_heads=12,
            intermediate_size=3072,
            hidden_act="gelu",
            max_position_embeddings=512,
            type_vocab_size=2,
            layer_norm_eps=1e-12,
        )
        encoder = make(BertModel, config, std=0.01)
        model = warm(text=encoder, num_text_layers=2, model_class=SaclModel)
        assert_text_tower_equals_first_layers(model, encoder, texts(30522), 2)
        assert_fusion_equals_last_layers(model, encoder, 1)

    @pytest.mark.parametrize(
        ("model_class", "config"),
        [
            (RobertaModel, RobertaConfig(**TEXT, pad_token_id=1)),
            (CamembertModel, CamembertConfig(**TEXT, pad_token_id=1)),
            (XLMRobertaForMaskedLM, XLMRobertaConfig(**TEXT, pad_token_id=1)),
            (ElectraModel, ElectraConfig(**TEXT, embedding_size=16)),
        ],
    )
    def test_equals_relatives_of_bert(self, model_class, config):
        checkpoint = make(model_class, config)
        model = warm(text=checkpoint)
        encoder = checkpoint.base_model
        assert_text_tower_equals_first_layers(model, encoder, texts(pad_token_id=config.pad_token_id), 2)
        assert_fusion_equals_last_layers(model, encoder, 3)

    def test_fusion_encoder_is_configured_like_the_checkpoint(self):
        encoder = bert(hidden_act="relu", hidden_dropout_prob=0.3, layer_norm_eps=1e-3)
        fusion = warm(text=encoder).config.fusion_encoder_config
        assert (fusion.hidden_act, fusion.hidden_dropout, fusion.layer_norm_eps) == ("relu", 0.3, 1e-3)
        assert fusion.encoder_hidden_size == 48

    @pytest.mark.parametrize(
        ("num_text", "num_fusion", "message"),
        [
            (6, None, "6 text layers and -1 fusion layers.*5 layers"),
            (5, None, "5 text layers and 0 fusion layers"),
            (0, None, "0 text layers"),
            (-1, 3, "-1 text layers"),
            (2, 6, "6 fusion layers.*between 1 and 5"),
            (2, 0, "0 fusion layers"),
        ],
    )
    def test_impossible_split_raises(self, num_text, num_fusion, message):
        with pytest.raises(ValueError, match=message):
            warm(num_text_layers=num_text, num_fusion_layers=num_fusion)

    def test_one_layer_cannot_be_split(self):
        with pytest.raises(ValueError, match="0 text layers and 1 fusion layers out of a text checkpoint of 1 layers"):
            warm(text=bert(num_hidden_layers=1))

    def test_decoder_raises(self):
        with pytest.raises(ValueError, match="`BertModel` is a decoder"):
            warm(text=bert(is_decoder=True))

    @pytest.mark.parametrize(
        ("model_class", "config"),
        [
            (GPT2Model, GPT2Config(n_embd=32, n_layer=4, n_head=2, vocab_size=99)),
            (DistilBertModel, DistilBertConfig(dim=32, n_layers=4, n_heads=2, hidden_dim=37, vocab_size=99)),
            (DistilBertForMaskedLM, DistilBertConfig(dim=32, n_layers=4, n_heads=2, hidden_dim=37, vocab_size=99)),
            (T5EncoderModel, T5Config(d_model=32, d_ff=37, num_layers=2, num_heads=2, d_kv=16, vocab_size=99)),
            (CLIPTextModel, CLIPTextConfig(**TEXT, pad_token_id=0, bos_token_id=1, eos_token_id=2)),
        ],
    )
    def test_families_without_bert_layers_raise(self, model_class, config, tmp_path):
        checkpoint = model_class(config)
        expected = (
            f"`{config.model_type}` has no BERT layers.*give BERT, MiniLM.*or build the model from a `SaclConfig`"
        )
        with pytest.raises(ValueError, match=f"`{model_class.__name__}`.*{expected}"):
            warm(text=checkpoint)
        if model_class is not T5EncoderModel:  # `AutoModel` reads a T5 folder as encoder and decoder.
            checkpoint.save_pretrained(tmp_path)
            with pytest.raises(ValueError, match=expected):
                warm(text=str(tmp_path))


class TestMaskedLanguageHead:
    @staticmethod
    def assert_equals(model, head) -> None:
        states = torch.randn(3, 4, 32, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            assert_same(model.mlm_head(states), head(states), tolerance=1e-5)
        assert model.mlm_head.decoder.weight is model.get_input_embeddings().weight

    @pytest.mark.parametrize("model_class", [BertForMaskedLM, BertForPreTraining])
    def test_is_that_of_bert(self, model_class):
        checkpoint = bert(model_class)
        self.assert_equals(warm(text=checkpoint), checkpoint.cls.predictions)

    @pytest.mark.parametrize(
        ("model_class", "config_class"),
        [(RobertaForMaskedLM, RobertaConfig), (XLMRobertaForMaskedLM, XLMRobertaConfig)],
    )
    def test_is_that_of_roberta(self, model_class, config_class):
        checkpoint = make(model_class, config_class(**TEXT, pad_token_id=1))
        self.assert_equals(warm(text=checkpoint), checkpoint.lm_head)

    def test_is_that_of_electra(self):
        checkpoint = make(ElectraForMaskedLM, ElectraConfig(**TEXT, embedding_size=16))

        def head(states):
            return checkpoint.generator_lm_head(checkpoint.generator_predictions(states))

        self.assert_equals(warm(text=checkpoint), head)

    def test_takes_a_decoder_that_is_not_the_word_embeddings(self):
        checkpoint = bert(BertForMaskedLM, tie_word_embeddings=False)
        model = warm(text=checkpoint, tie_word_embeddings=False)
        assert_same(model.mlm_head.decoder.weight, checkpoint.cls.predictions.decoder.weight)

    def test_starts_at_random_where_the_checkpoint_has_none(self):
        head = warm(text=bert()).mlm_head
        assert head.decoder.bias.count_nonzero() == 0
        assert 0.01 < head.dense.weight.std() < 0.03

    def test_dual_encoder_has_none(self):
        model = warm(text=bert(BertForMaskedLM), model_class=SaclModel)
        assert not any("mlm" in name for name in model.state_dict())


class TestSources:
    """Model objects and folders on disk give the same start."""

    @pytest.mark.parametrize("model_class", [CLIPModel, CLIPVisionModel, CLIPVisionModelWithProjection])
    def test_clip(self, model_class, tmp_path):
        config = CLIPVisionConfig(**VISION)
        if model_class is CLIPModel:
            config = CLIPConfig(text_config=CLIPTextConfig(**TEXT).to_dict(), vision_config=config.to_dict())
        checkpoint = make(model_class, config)
        reference = CLIPVisionModel(CLIPVisionConfig(**VISION)).eval()
        tower = getattr(checkpoint, "vision_model", checkpoint)
        reference.base_model.load_state_dict(
            {name.removeprefix("vision_model."): weight for name, weight in tower.state_dict().items()}
        )
        checkpoint.save_pretrained(tmp_path)
        for source in (checkpoint, str(tmp_path)):
            assert_image_tower_equals_clip(warm(source), reference, images())

    @pytest.mark.parametrize("model_class", [ViTModel, ViTForImageClassification])
    def test_vit(self, model_class, tmp_path):
        checkpoint = make(model_class, ViTConfig(**VISION))
        checkpoint.save_pretrained(tmp_path)
        for source in (checkpoint, str(tmp_path)):
            assert_image_tower_equals_vit(warm(source), checkpoint.base_model, images())

    @pytest.mark.parametrize(
        ("model_class", "config_class"),
        [
            (BertModel, BertConfig),
            (BertForMaskedLM, BertConfig),
            (BertForPreTraining, BertConfig),
            (RobertaModel, RobertaConfig),
            (RobertaForMaskedLM, RobertaConfig),
            (ElectraModel, ElectraConfig),
        ],
    )
    def test_text(self, model_class, config_class, tmp_path):
        checkpoint = make(model_class, config_class(**TEXT))
        checkpoint.save_pretrained(tmp_path)
        for source in (checkpoint, str(tmp_path)):
            model = warm(text=source)
            inputs = texts(pad_token_id=checkpoint.config.pad_token_id)
            assert_text_tower_equals_first_layers(model, checkpoint.base_model, inputs, 2)
            assert_fusion_equals_last_layers(model, checkpoint.base_model, 3)
            if "For" in model_class.__name__:
                head = checkpoint.lm_head if hasattr(checkpoint, "lm_head") else checkpoint.cls.predictions
                TestMaskedLanguageHead.assert_equals(model, head)
            else:
                assert model.mlm_head.decoder.bias.count_nonzero() == 0

    def test_half_precision_checkpoints_give_a_model_of_one_dtype(self, tmp_path):
        clip_vision().half().save_pretrained(tmp_path / "clip")
        bert(BertForMaskedLM).bfloat16().save_pretrained(tmp_path / "bert")
        model = warm(str(tmp_path / "clip"), str(tmp_path / "bert"))
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        assert_fusion_equals_last_layers(model, bert(BertForMaskedLM).bfloat16().float().bert, 3)

    def test_sources_are_left_as_they_were(self):
        clip, encoder = clip_vision(), bert(BertForMaskedLM)
        before = {name: weight.clone() for model in (clip, encoder) for name, weight in model.state_dict().items()}
        options = (clip.config.to_dict(), encoder.config.to_dict())
        model = warm(clip, encoder, image_size=48)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1.0)
        after = {name: weight for model in (clip, encoder) for name, weight in model.state_dict().items()}
        assert_same(after, before)
        assert (clip.config.to_dict(), encoder.config.to_dict()) == options


class TestResult:
    def test_options_of_the_configuration(self):
        model = warm(projection_dim=24, logit_scale_init_value=1.0)
        assert model.sacl.text_projection.weight.shape == (24, 32)
        assert model.sacl.logit_scale.item() == 1.0
        with pytest.raises(TypeError, match="`projecton_dim`. Did you mean `projection_dim`"):
            warm(projecton_dim=24)

    def test_new_parts_start_at_random(self):
        model = warm()
        for layer in model.sacl.fusion_model.layers:
            for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
                assert 0.01 < layer.cross_attention.get_submodule(name).weight.std() < 0.03
                assert layer.cross_attention.get_submodule(name).bias.count_nonzero() == 0
        assert model.sacl.text_projection.weight.std() > 0.01
        assert model.itm_head.weight.std() > 0

    def test_survives_saving(self, tmp_path):
        model = warm(vit(qkv_bias=False), bert(BertForMaskedLM), image_size=48)
        model.save_pretrained(tmp_path)
        loaded, report = SaclForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
        assert not any(report.values())
        inputs = {**texts(), "pixel_values": images(48, batch_size=3)}
        with torch.no_grad():
            assert_same(loaded.sacl(**inputs), model.sacl(**inputs))
            assert_same(loaded.sacl.get_fusion_features(**inputs), model.sacl.get_fusion_features(**inputs))

    def test_trains(self):
        model = warm(text=bert(BertForMaskedLM)).train()
        inputs = {**texts(), "pixel_values": images(batch_size=3)}
        model(**inputs, return_loss=True).loss.backward()
        assert all(
            parameter.grad is not None
            for name, parameter in model.named_parameters()
            if not name.startswith("mlm_head")
        )
