# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""What travels with a checkpoint: configuration, model, processor and loss of SACL.

Importing this package registers the Auto classes.
"""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    AutoModelForVisualQuestionAnswering,
    AutoModelForZeroShotImageClassification,
    AutoProcessor,
)

from .classification_sacl import SaclForImageTextClassification
from .configuration_sacl import SaclConfig, SaclFusionConfig, SaclVisionConfig
from .images_and_text_sacl import SaclForImagesAndTextClassification
from .loss_sacl import regulation_weights, similarity_regulated_contrastive_loss
from .modeling_sacl import SaclFusionModel, SaclModel, SaclVisionModel
from .patch_selection_sacl import patch_relevance, select_patches
from .pretraining_sacl import SaclForPreTraining
from .processing_sacl import SaclProcessor
from .question_answering_sacl import SaclForQuestionAnswering
from .retrieval_sacl import SaclForImageTextRetrieval
from .streamed_loss_sacl import streamed_similarity_regulated_contrastive_loss


AutoConfig.register("sacl", SaclConfig)
AutoConfig.register("sacl_vision_model", SaclVisionConfig)
AutoConfig.register("sacl_fusion_model", SaclFusionConfig)
AutoModel.register(SaclConfig, SaclModel)
AutoModel.register(SaclVisionConfig, SaclVisionModel)
AutoModel.register(SaclFusionConfig, SaclFusionModel)
AutoModelForPreTraining.register(SaclConfig, SaclForPreTraining)
AutoModelForSequenceClassification.register(SaclConfig, SaclForImageTextClassification)
AutoModelForVisualQuestionAnswering.register(SaclConfig, SaclForQuestionAnswering)
AutoModelForZeroShotImageClassification.register(SaclConfig, SaclModel)
AutoProcessor.register(SaclConfig, SaclProcessor)

__all__ = [
    "SaclConfig",
    "SaclForImageTextClassification",
    "SaclForImageTextRetrieval",
    "SaclForImagesAndTextClassification",
    "SaclForPreTraining",
    "SaclForQuestionAnswering",
    "SaclFusionConfig",
    "SaclFusionModel",
    "SaclModel",
    "SaclProcessor",
    "SaclVisionConfig",
    "SaclVisionModel",
    "patch_relevance",
    "regulation_weights",
    "select_patches",
    "similarity_regulated_contrastive_loss",
    "streamed_similarity_regulated_contrastive_loss",
]
