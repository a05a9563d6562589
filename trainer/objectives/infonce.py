# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""InfoNCE: the contrastive loss of CLIP, in which every negative counts in full."""

from .base import ContrastiveObjective


class InfoNCEObjective(ContrastiveObjective):
    r"""
    The baseline: softmax cross-entropy over all candidates.

        L_i = -log f_ii / ( f_ii + sum_{j != i} f_ij ),    f = exp(cos / temperature)

    Several positives of one anchor share its target evenly.

    Source: van den Oord et al., 2018 ([arXiv 1807.03748](https://huggingface.co/papers/1807.03748)); for images and
    texts Radford et al., ICML 2021 ([arXiv 2103.00020](https://huggingface.co/papers/2103.00020)).
    """

    name = "infonce"
    citation = """@inproceedings{radford2021clip,
    title = {Learning Transferable Visual Models From Natural Language Supervision},
    author = {Alec Radford and Jong Wook Kim and Chris Hallacy and others},
    booktitle = {ICML},
    year = {2021},
}"""
