# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Turns a published checkpoint into a model of ours that computes the same. The file is read without running code in
it, and every tensor is accounted for: carried over, or left out with the reason, in OUTPUT_DIR/conversion.json."""

from dataclasses import dataclass

from .arguments import option
from .output import Output


EXAMPLES = """
  # ALBEF, of pre-training; its kind is recognised by its heads.
  sacl convert albef ALBEF.pth albef-pretrained

  # Fine-tuned on COCO; at another image size, positions are resampled.
  sacl convert albef mscoco.pth albef-coco --image_size 256

  # Without the Hub: the tokenizer from a folder.
  sacl convert albef ALBEF.pth albef-pretrained --tokenizer bert-base-uncased/
"""


@dataclass
class ConvertArguments:
    """What to convert, and where to."""

    _argument_group_name = "conversion"

    format: str = option("whose checkpoint it is", positional=True, choices=["albef"], metavar="FORMAT")
    checkpoint: str = option("the file (.pth or .safetensors)", positional=True)
    output_dir: str = option("folder for model, processor and conversion.json", positional=True)
    task: str | None = option(
        "what it was trained for (by default recognised)",
        None,
        choices=["pretraining", "retrieval", "question_answering", "classification"],
    )
    image_size: int | None = option("pixels along the side of an image, if other than the checkpoint's", None)
    tokenizer: str = option("Hub id or folder of the tokenizer", "google-bert/bert-base-uncased")
    num_vision_heads: int | None = option("attention heads of the image tower (default: width / 64)", None)
    num_text_heads: int | None = option("attention heads of the BERT layers (default: width / 64)", None)
    allow_unknown: bool = option("leave out tensors that the format does not have", False)
    overwrite: bool = option("write into a folder that has files in it", False)


def arguments() -> tuple[type, ...]:
    """The dataclasses of this command."""
    return (ConvertArguments,)


def run(output: Output, options: ConvertArguments) -> None:
    """Converts."""
    from dataclasses import asdict

    from modeling_sacl.convert_albef_to_hf import convert_albef_checkpoint

    settings = {name: value for name, value in asdict(options).items() if name != "format"}
    report = convert_albef_checkpoint(settings.pop("checkpoint"), settings.pop("output_dir"), **settings)
    output.result(report.summary(), report.to_dict())
