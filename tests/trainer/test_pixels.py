# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The quick way from a file to pixels gives what the slow way gives: to the bit, or as near as it says."""

import dataclasses
import io
import math
from types import SimpleNamespace

import numpy as np
import PIL.ExifTags
import PIL.Image
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import functional as F
from transformers import (
    BlipImageProcessor,
    CLIPImageProcessor,
    ConvNextImageProcessor,
    Siglip2ImageProcessor,
    SiglipImageProcessor,
    ViTImageProcessor,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from trainer.data import ImageDecodingError, PairAugmentation, PairCollator, decode_image, pair_augmentation
from trainer.data.pixels import PixelSteps
from trainer.preparation import default_collator


STANDARD = {
    "blip": lambda: BlipImageProcessor(size={"height": 40, "width": 56}),
    "clip": lambda: CLIPImageProcessor(size={"shortest_edge": 48}, crop_size={"height": 40, "width": 44}),
    "crop larger than the image": lambda: CLIPImageProcessor(size={"shortest_edge": 24}, crop_size=40),
    "siglip": lambda: SiglipImageProcessor(size={"height": 32, "width": 32}),
    "vit": lambda: ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.1, 0.2, 0.3]),
    "not normalised": lambda: BlipImageProcessor(size={"height": 32, "width": 32}, do_normalize=False),
    "not rescaled": lambda: BlipImageProcessor(size={"height": 32, "width": 32}, do_rescale=False),
    "neither": lambda: BlipImageProcessor(size={"height": 32, "width": 32}, do_rescale=False, do_normalize=False),
    "other scale": lambda: BlipImageProcessor(size={"height": 32, "width": 32}, rescale_factor=1 / 127.5),
}


def photograph(width: int, height: int, seed: int = 0) -> PIL.Image.Image:
    """Smooth colours, an edge, and noise."""
    generator = np.random.default_rng(seed)
    coarse = PIL.Image.fromarray(generator.integers(0, 256, (9, 9, 3), dtype=np.uint8))
    picture = np.asarray(coarse.resize((width, height), PIL.Image.Resampling.BICUBIC)).astype(np.float32)
    picture[height // 3 :, : width // 2] *= 0.7
    picture += generator.normal(0, 3, picture.shape)
    return PIL.Image.fromarray(picture.clip(0, 255).astype(np.uint8))


def jpeg(image: PIL.Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **{"quality": 90, **options})
    return buffer.getvalue()


def as_tensor(image: PIL.Image.Image | torch.Tensor) -> torch.Tensor:
    return F.pil_to_tensor(image) if isinstance(image, PIL.Image.Image) else image


@pytest.fixture
def make_processor(tiny_tokenizer):
    return lambda image_processor: SimpleNamespace(tokenizer=tiny_tokenizer, image_processor=image_processor)


def undecoded(content: bytes) -> dict:
    return {"bytes": content, "path": None}


class TestPixelSteps:
    @pytest.mark.parametrize("name", STANDARD)
    def test_bits_are_those_of_the_image_processor(self, name):
        processor = STANDARD[name]()
        assert PixelSteps.are_those_of(processor)
        steps = PixelSteps(processor)
        images = [photograph(*size, seed) for seed, size in enumerate([(61, 47), (30, 90), (56, 40), (200, 120)])]
        expected = processor(images, return_tensors="pt")["pixel_values"].float()
        for forms in (images, list(map(F.pil_to_tensor, images)), [as_tensor(i).contiguous() for i in images]):
            resized = [steps.resize(image) for image in forms]
            assert all(image.dtype == torch.uint8 for image in resized)
            assert torch.equal(steps.normalize(resized), expected)
            # As a device would do it: a batch in one piece.
            assert torch.equal(steps.normalize(torch.stack(resized)), expected)

    def test_every_level_of_every_channel(self):
        steps = PixelSteps(STANDARD["blip"]())
        assert steps._mean_and_std() is not None  # the quick way is the one that is tested
        levels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16).expand(3, -1, -1)
        expected = steps.image_processor(levels, do_resize=False, return_tensors="pt")["pixel_values"]
        assert torch.equal(steps.normalize([levels]), expected)

    def test_follows_changes_of_the_image_processor(self):
        processor = STANDARD["blip"]()
        steps, image = PixelSteps(processor), photograph(50, 60)
        steps.normalize([steps.resize(image)])
        processor.size, processor.image_mean = {"height": 20, "width": 24}, [0.5, 0.4, 0.3]
        expected = processor(image, return_tensors="pt")["pixel_values"]
        assert torch.equal(steps.normalize([steps.resize(image)]), expected)

    @pytest.mark.parametrize(
        "processor",
        [
            Siglip2ImageProcessor(),
            ConvNextImageProcessor(),
            CLIPImageProcessorPil(),
            BlipImageProcessor(do_pad=True),
            SimpleNamespace(),
        ],
        ids=lambda processor: type(processor).__name__,
    )
    def test_others_are_called_as_they_are(self, processor):
        assert not PixelSteps.are_those_of(processor)


class TestReducedDecoding:
    @pytest.mark.parametrize(
        "enough, size",
        [((300, 250), (300, 250)), ((301, 10), (600, 500)), ((10, 251), (600, 500)), ((150, 125), (150, 125))],
    )
    def test_no_fewer_pixels_than_are_enough(self, enough, size):
        found = decode_image(undecoded(jpeg(photograph(600, 500))), enough=lambda width, height: enough)
        assert found.mode == "RGB" and found.size == size

    @pytest.mark.parametrize("mode", ["L", "CMYK"])
    def test_other_colours(self, mode):
        content = jpeg(photograph(600, 500).convert(mode))
        found = decode_image(undecoded(content), enough=lambda width, height: (300, 250))
        assert found.mode == "RGB" and found.size == (300, 250)

    @pytest.mark.parametrize("orientation", [3, 6])
    def test_is_asked_for_the_upright_picture(self, orientation):
        exif = PIL.Image.Exif()
        exif[PIL.ExifTags.Base.Orientation] = orientation
        size = (500, 600) if orientation == 6 else (600, 500)
        asked = []

        def enough(*size):
            asked.append(size)
            return size[0] // 2, size[1] // 2

        found = decode_image(undecoded(jpeg(photograph(600, 500), exif=exif)), enough=enough)
        assert asked == [size] and found.size == (size[0] // 2, size[1] // 2)

    def test_other_formats_are_decoded_whole(self):
        image = photograph(60, 50)
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        assert decode_image(undecoded(buffer.getvalue()), enough=lambda *size: (1, 1)).tobytes() == image.tobytes()

    def test_pictures_that_are_open_stay_whole(self):
        opened = PIL.Image.open(io.BytesIO(jpeg(photograph(600, 500))))
        assert decode_image(opened, enough=lambda *size: (1, 1)).size == opened.size == (600, 500)

    @pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.99])
    def test_files_that_end_too_early_raise(self, share):
        content = jpeg(photograph(300, 260))
        with pytest.raises(ImageDecodingError):
            decode_image(undecoded(content[: int(share * len(content))]), enough=lambda *size: (10, 10))

    @pytest.mark.parametrize("target", [64, 100, 128, 224, 256])
    def test_looks_the_same(self, target):
        """Resized, a photograph differs from its whole decoding no more than by a bilinear resize for a bicubic."""
        sample = pytest.importorskip("matplotlib.cbook").get_sample_data("grace_hopper.jpg", asfileobj=False)
        whole, reduced = decode_image(sample), decode_image(sample, enough=lambda *size: (target, target))
        assert reduced.width <= whole.width / 2 and min(reduced.size) >= target
        bicubic, bilinear, found = (
            F.resize(F.pil_to_tensor(image), [target, target], interpolation=F.InterpolationMode(name)).float()
            for image, name in ((whole, "bicubic"), (whole, "bilinear"), (reduced, "bicubic"))
        )
        assert (found - bicubic).abs().mean() < 1.05 * (bilinear - bicubic).abs().mean() < 3


class TestPairAugmentation:
    @given(
        st.integers(1, 2000),
        st.integers(1, 2000),
        st.integers(1, 500),
        st.floats(0.05, 1.0),
        st.sampled_from([2, 4, 8]),
    )
    @settings(max_examples=50, deadline=None)
    def test_no_crop_of_what_is_enough_is_enlarged(self, width, height, target, min_scale, factor):
        augment = pair_augmentation((target, 2 * target), min_scale=min_scale, num_ops=0)
        reduced = math.ceil(width / factor), math.ceil(height / factor)
        enough = augment.enough(width, height)
        crop = augment.transforms[0]
        sides = crop.smallest(width, height)
        # To one pixel of the reduced image, to which crops are rounded.
        scale = reduced[0] / width, reduced[1] / height
        if reduced[0] >= enough[0] and reduced[1] >= enough[1]:
            assert sides[0] * scale[0] >= 2 * target - 1 and sides[1] * scale[1] >= target - 1
        for seed in range(2):
            torch.manual_seed(seed)
            drawn = crop.make_params([torch.empty(3, height, width, device="meta")])
            assert drawn["width"] >= math.floor(sides[0]) and drawn["height"] >= math.floor(sides[1])

    def test_is_what_the_function_returns(self):
        assert isinstance(pair_augmentation(16), PairAugmentation)

    def test_a_smaller_decoding_shows_the_same(self):
        """The same crop of a file that is decoded in part and of the whole picture."""
        content = jpeg(photograph(800, 640))
        augment = pair_augmentation(96, min_scale=0.5, num_ops=0)
        reduced = decode_image(undecoded(content), enough=augment.enough)
        assert reduced.size == (200, 160)
        crop = augment.transforms[0]
        for seed in range(5):
            torch.manual_seed(seed)
            params = crop.make_params([reduced])
            found = crop.transform(reduced, params)
            expected = crop.transform(decode_image(undecoded(content)), {name: 4 * params[name] for name in params})
            assert (as_tensor(found).float() - as_tensor(expected).float()).abs().mean() < 1.5

    def test_can_be_switched_off(self):
        assert pair_augmentation(96, reduced_decoding=False).enough(800, 640) == (800, 640)


class TestPairCollatorPixels:
    @pytest.mark.parametrize("name", ["blip", "clip", "not normalised"])
    def test_evaluation_is_the_image_processor_to_the_bit(self, name, make_processor):
        processor = make_processor(STANDARD[name]())
        sizes = [(300, 260), (640, 480), (60, 50)]
        rows = [
            {"image": undecoded(jpeg(photograph(*size, seed))), "caption": "a bus", "pair_id": seed}
            for seed, size in enumerate(sizes)
        ]
        expected = processor.image_processor([decode_image(row["image"]) for row in rows], return_tensors="pt")
        batch = PairCollator(processor, mlm_probability=0)(rows)
        assert torch.equal(batch["pixel_values"], expected["pixel_values"])

    @pytest.mark.parametrize("reduced_decoding", [False, True])
    def test_training_decodes_no_more_than_it_needs(self, reduced_decoding, make_processor):
        processor = make_processor(BlipImageProcessor(size={"height": 64, "width": 64}))
        collator = PairCollator(processor, mlm_probability=0).for_training(reduced_decoding=reduced_decoding)
        files = [undecoded(jpeg(photograph(600, 500, seed))) for seed in range(4)]
        enough = collator.image_transform.enough if reduced_decoding else None
        pictures = [decode_image(file, enough=enough) for file in files]
        assert pictures[0].size == ((150, 125) if reduced_decoding else (600, 500))
        batches = []
        for images in (files, pictures):
            torch.manual_seed(0)
            batches.append(collator([{"image": image, "caption": "a bus", "pair_id": 0} for image in images]))
        assert torch.equal(*(batch["pixel_values"] for batch in batches))

    def test_shapes_that_differ_are_left_to_the_image_processor(self, make_processor):
        processor = make_processor(CLIPImageProcessor(size={"shortest_edge": 32}, do_center_crop=False))
        rows = [{"image": photograph(*size), "caption": "a bus", "pair_id": 0} for size in [(40, 50), (64, 80)]]
        batch = PairCollator(processor, lambda image: F.pil_to_tensor(image), mlm_probability=0)(rows)
        expected = processor.image_processor([row["image"] for row in rows], return_tensors="pt")
        assert torch.equal(batch["pixel_values"], expected["pixel_values"])


class TestNormalizingOnTheDevice:
    def collators(self, processor, **options):
        whole = PairCollator(processor, mlm_probability=0, **options)
        return whole, dataclasses.replace(whole, normalize=False)

    @pytest.mark.parametrize("training", [False, True])
    @pytest.mark.parametrize("num_workers", [0, 1])
    def test_gives_the_same_bits(self, training, num_workers, make_processor):
        rows = [
            {"image": undecoded(jpeg(photograph(90, 80, seed))), "caption": "a bus", "pair_id": seed}
            for seed in range(6)
        ]
        batches = []
        for collator in self.collators(make_processor(STANDARD["blip"]())):
            collator = collator.for_training() if training else collator
            torch.manual_seed(0)
            loader = DataLoader(rows, batch_size=3, collate_fn=collator, num_workers=num_workers)
            batches.append(list(loader))
        assert all(batch["pixel_values"].dtype == torch.uint8 for batch in batches[1])
        for expected, batch in zip(*batches, strict=True):
            assert torch.equal(collator.normalized(batch)["pixel_values"], expected["pixel_values"])
            assert torch.equal(collator.normalized(expected)["pixel_values"], expected["pixel_values"])

    def test_image_processors_that_do_more_are_refused(self, make_processor):
        with pytest.raises(ValueError, match="Siglip2ImageProcessor does more"):
            PairCollator(make_processor(Siglip2ImageProcessor()), mlm_probability=0, normalize=False)
        with pytest.raises(ValueError, match="CLIPImageProcessor does more"):
            processor = make_processor(CLIPImageProcessor(size={"shortest_edge": 32}, do_center_crop=False))
            PairCollator(processor, F.pil_to_tensor, mlm_probability=0, normalize=False)

    @pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
    @pytest.mark.parametrize("kind", ["blip", "siglip2"])
    def test_a_trainer_leaves_it_to_accelerators(self, make_trainer, make_processor, pairs, device, kind):
        """By default, where that can be done."""
        trainer = make_trainer(momentum=None)
        processor = trainer.processing_class
        if kind == "siglip2":
            processor = make_processor(Siglip2ImageProcessor())
        args = SimpleNamespace(**{**vars(trainer.args), "device": torch.device(device)})
        collator = default_collator(trainer.model, processor, args, masks_text=True)
        assert collator.normalize == (device == "cpu" or kind == "siglip2")

    def test_training_and_evaluation_are_the_same(self, make_trainer, plain_collator, pairs):
        logs = []
        for normalize in (True, False):
            collator = dataclasses.replace(plain_collator, normalize=normalize)
            options = {"data_collator": collator, "eval_dataset": pairs}
            trainer = make_trainer(trainer_options=options, max_steps=2, logging_steps=1, momentum=None)
            trainer.train()
            trainer.evaluate()
            logs.append(
                [
                    {name: value for name, value in log.items() if "loss" in name or "recall" in name}
                    for log in trainer.state.log_history
                ]
            )
        assert logs[0] == logs[1] and any("eval_loss" in log for log in logs[0])
