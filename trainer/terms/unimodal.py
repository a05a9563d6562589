# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Self-supervision within each modality: an image is what its other views are, whatever its caption says."""

from modeling_sacl.loss_sacl import contrastive_logits, weighted_contrastive_loss

from ..objectives.base import ObjectiveOutput
from .base import AdditiveTerm, TermBatch
from .rows import VIEW


class UnimodalSelfSupervisionTerm(AdditiveTerm):
    r"""
    InfoNCE between two views of the same image among those of other images, and of the same text among other texts:

        L_i = -1/2 log softmax_j( cos(x_i, x'_j) / temperature )_i
              -1/2 log softmax_j( cos(y_i, y'_j) / temperature )_i

    with `x, y` the image and text of a pair, `x', y'` their second views, and the temperature that of the contrast. A
    backdoor lives between the modalities: a patch in the image, a caption that it calls for. Within each modality it
    has nothing to say, so this term, which shapes embeddings by content, weakens it.

    A second image is the training augmentation drawn again (the source compares the image as it is with an augmented
    one). A second text is another caption of the pair if it has one, else the same with words left out or swapped (two
    of the four operations of EDA, which the source takes). Second views go through the model in the same forward, as
    rows behind the pairs; matching, language modeling, teacher and queue see the first views alone. Views of rows with
    equal pair ids are positives of one another. The candidates are the views of all processes.

    Source: Bansal et al., ICCV 2023 ([arXiv 2303.03323](https://huggingface.co/papers/2303.03323)), CleanCLIP.
    """

    name = "unimodal_self_supervision"
    reads = ("view_pixel_values", "view_input_ids")
    rows = VIEW
    citation = """@inproceedings{bansal2023cleanclip,
    title = {CleanCLIP: Mitigating Data Poisoning Attacks in Multimodal Contrastive Learning},
    author = {Hritik Bansal and Nishad Singhi and Yu Yang and others},
    booktitle = {ICCV},
    year = {2023},
}"""

    def __call__(self, batch: TermBatch) -> ObjectiveOutput:
        views, anchors = batch.require("views"), batch.student.anchors
        images, texts = (
            weighted_contrastive_loss(contrastive_logits(ours, theirs, batch.logit_scale), batch.positive_mask)
            for ours, theirs in ((anchors.image_embeds, views.image_embeds), (anchors.text_embeds, views.text_embeds))
        )
        return self._output((images + texts) / 2, image_view_loss=images, text_view_loss=texts)


__all__ = ["UnimodalSelfSupervisionTerm"]
