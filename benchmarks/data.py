# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""From files to batches: images a second and core, ours against other loaders in the same run, as a file.

    python benchmarks/data.py

Pictures like photographs (colours that change over all scales, and noise), 500 to 640 pixels wide and high as those of
web data sets are, drawn from a seed and saved as JPEG, WebP (both at quality 90) and PNG; as an image folder, as a
Parquet file, and as tar shards. Each loader gives batches of float32 pixels, normalised, and tokens, of the same size
from the same files, with the same tokenizer and no masking:

- ours: `load_pairs`, what the trainer puts around it to seed rows and replace broken ones, `PairCollator`;
- torchvision + PIL: a `Dataset` that opens the image with PIL, `torchvision.transforms`, the default collation;
- torchvision v2: the same with `torchvision.transforms.v2` on uint8 tensors, as torchvision recommends;
- open_clip: its WebDataset loader and its transforms, for tar shards alone (`pip install ".[benchmark]"`).

Evaluation is a bicubic resize to a square, training a random crop of 0.5 to 1 of the area, bicubically resized,
without further augmentation. Measured is the time that a processor worked (`time.process_time`), in one process, one
thread: on a busy machine it is nearer to the truth than the clock. Rounds go over all loaders in turn; the first does
not count. Writes benchmarks/results/data.md. Photographs as cameras make them, of which fewer pixels are enough:

    python benchmarks/data.py --sides 1500 2000 --formats JPEG --sources folder --images 32 --name data_large
"""

import argparse
import importlib.metadata
import io
import itertools
import json
import os
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from common import table, write_results
from datasets import disable_progress_bars
from open_clip.transform import AugmentationCfg, image_transform
from open_clip_train.data import get_wds_dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as v1
from torchvision.transforms import v2
from transformers import BlipImageProcessor, PreTrainedTokenizerFast
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from modeling_sacl import SaclProcessor
from trainer import PairCollator, load_pairs
from trainer.data import SeededPairs, SeededStream, undecoded
from trainer.data.usable import usable_rows


FORMATS = {
    "JPEG": ("jpg", {"quality": 90}),
    "WebP": ("webp", {"quality": 90}),
    "PNG": ("png", {}),
}
SHARDS = 2
MIN_SCALE = 0.5
LENGTH = 30
SPECIAL_WORDS = ("[PAD]", "[UNK]")
WORDS = "a red blue green bus cat dog house in on under the rain street park with two three people and".split()


# Files -----------------------------------------------------------------------------------------------------------


def photograph(generator: np.random.Generator, shortest: int, longest: int) -> PIL.Image.Image:
    """Colours that change over all scales, some things with edges, and the noise of a sensor."""
    width, height = (int(side) for side in generator.integers(shortest, longest + 1, size=2))
    picture = np.zeros((height, width, 3), np.float32)
    for octave in range(1, 10):
        coarse = generator.standard_normal((1, 3, 2**octave, 2**octave), dtype=np.float32)
        fine = torch.nn.functional.interpolate(torch.from_numpy(coarse), size=(height, width), mode="bicubic")
        picture += 0.6**octave * fine[0].permute(1, 2, 0).numpy()
    picture = 0.5 + 0.4 * picture
    rows, columns = np.mgrid[:height, :width]
    for _ in range(20):
        row, column = generator.uniform(0, height), generator.uniform(0, width)
        radius, squareness = generator.uniform(10, 120) * longest / 640, generator.uniform(1, 6)
        distance = np.abs((rows - row) / radius) ** squareness + np.abs((columns - column) / radius) ** squareness
        picture[distance < 1] = 0.5 * picture[distance < 1] + 0.5 * generator.uniform(0, 1, size=3)
    picture += 0.02 * generator.standard_normal(picture.shape, dtype=np.float32)
    return PIL.Image.fromarray((255 * picture).clip(0, 255).astype(np.uint8))


def encoded(picture: PIL.Image.Image, image_format: str) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, image_format, **FORMATS[image_format][1])
    return buffer.getvalue()


def write_folder(folder: Path, images: list[bytes], captions: list[str], suffix: str) -> None:
    folder.mkdir(parents=True)
    lines = []
    for number, (image, caption) in enumerate(zip(images, captions, strict=True)):
        (folder / f"{number:06}.{suffix}").write_bytes(image)
        lines.append(json.dumps({"file_name": f"{number:06}.{suffix}", "caption": caption}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))


def write_parquet(folder: Path, images: list[bytes], captions: list[str], suffix: str) -> None:
    folder.mkdir(parents=True)
    column = [{"bytes": image, "path": f"{number:06}.{suffix}"} for number, image in enumerate(images)]
    content = pa.table({"image": column, "caption": captions})
    features = {"image": {"_type": "Image"}, "caption": {"_type": "Value", "dtype": "string"}}
    content = content.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(content, folder / "pairs.parquet", row_group_size=100)


def write_tar(folder: Path, images: list[bytes], captions: list[str], suffix: str) -> None:
    folder.mkdir(parents=True)
    for shard in range(SHARDS):
        with tarfile.open(folder / f"{shard:05}.tar", "w") as archive:
            for number in range(shard, len(images), SHARDS):
                for ending, content in ((suffix, images[number]), ("txt", captions[number].encode())):
                    member = tarfile.TarInfo(f"{number:06}.{ending}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))


WRITERS = {"folder": write_folder, "parquet": write_parquet, "tar": write_tar}


def write_sources(
    root: Path, formats: Sequence[str], num_images: int, sides: Sequence[int], seed: int
) -> dict[str, int]:
    """Writes the same pictures in all formats to all sources; returns the mean size of a file for each format."""
    generator = np.random.default_rng(seed)
    pictures = [photograph(generator, *sides) for _ in range(num_images)]
    captions = [" ".join(generator.choice(WORDS, size=10)) for _ in pictures]
    sizes = {}
    for image_format in formats:
        suffix = FORMATS[image_format][0]
        images = [encoded(picture, image_format) for picture in pictures]
        sizes[image_format] = sum(map(len, images)) // len(images)
        for source, write in WRITERS.items():
            write(root / source / suffix, images, captions, suffix)
    return sizes


# Loaders ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """What is loaded, and what is made of it."""

    folder: Path
    source: str
    size: int
    mode: str
    num_images: int
    batch_size: int

    @property
    def suffix(self) -> str:
        """That of the images, after which their folder is named."""
        return self.folder.name

    @property
    def num_batches(self) -> int:
        """Of a pass; the stream of a trainer goes on for ever."""
        return self.num_images // self.batch_size

    @property
    def cache(self) -> Path:
        """Where `datasets` may keep what it prepares."""
        return self.folder.parent / "cache"


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Whole words, as fast tokenizers take them; nothing is downloaded."""
    padding, unknown = SPECIAL_WORDS
    vocabulary = {word: number for number, word in enumerate((*SPECIAL_WORDS, *WORDS))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token=padding, unk_token=unknown, model_max_length=LENGTH
    )


def ours(case: Case, tokenizer: PreTrainedTokenizerFast) -> Iterable:
    image_processor = BlipImageProcessor(size={"height": case.size, "width": case.size})
    collator = PairCollator(
        SaclProcessor(image_processor, tokenizer), mlm_probability=0.0, max_length=LENGTH, pad_to_multiple_of=LENGTH
    )
    if case.mode == "training":
        collator = collator.for_training(min_scale=MIN_SCALE, num_ops=0)
    is_stream = case.source == "tar"
    options = {"streaming": True} if is_stream else {"cache_dir": case.cache}
    dataset = undecoded(load_pairs(case.folder, split="train", **options))
    seeded = SeededStream(dataset, 0) if is_stream else SeededPairs(dataset, 0)
    return DataLoader(usable_rows(seeded, collator), batch_size=case.batch_size, collate_fn=collator)


def plain_pixels(size: int, mode: str) -> Callable:
    bicubic = v1.InterpolationMode.BICUBIC
    if mode == "training":
        resize = v1.RandomResizedCrop(size, scale=(MIN_SCALE, 1.0), interpolation=bicubic)
    else:
        resize = v1.Resize((size, size), interpolation=bicubic)
    return v1.Compose([resize, v1.ToTensor(), v1.Normalize(OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)])


def v2_pixels(size: int, mode: str) -> Callable:
    bicubic = v2.InterpolationMode.BICUBIC
    if mode == "training":
        resize = v2.RandomResizedCrop(size, scale=(MIN_SCALE, 1.0), interpolation=bicubic, antialias=True)
    else:
        resize = v2.Resize((size, size), interpolation=bicubic, antialias=True)
    to_float = v2.ToDtype(torch.float32, scale=True)
    return v2.Compose([v2.PILToTensor(), resize, to_float, v2.Normalize(OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)])


def folder_rows(folder: Path) -> list[tuple[Callable, str]]:
    lines = map(json.loads, (folder / "metadata.jsonl").read_text().splitlines())
    return [(partial(open, folder / line["file_name"], "rb"), line["caption"]) for line in lines]


def parquet_rows(folder: Path) -> list[tuple[Callable, str]]:
    content = pq.read_table(folder / "pairs.parquet")
    images = content["image"].combine_chunks().field("bytes")
    return [
        (lambda number=number: io.BytesIO(images[number].as_py()), caption)
        for number, caption in enumerate(content["caption"].to_pylist())
    ]


def tar_rows(folder: Path) -> list[tuple[Callable, str]]:
    """Members that an index finds at once, as random access to shards does."""

    def member(shard: Path, offset: int, size: int) -> io.BytesIO:
        with open(shard, "rb") as file:
            file.seek(offset)
            return io.BytesIO(file.read(size))

    rows = []
    for shard in sorted(folder.glob("*.tar")):
        with tarfile.open(shard) as archive:
            members = archive.getmembers()
            for image, text in zip(members[::2], members[1::2], strict=True):
                caption = archive.extractfile(text).read().decode()
                rows.append((partial(member, shard, image.offset_data, image.size), caption))
    return rows


ROWS = {"folder": folder_rows, "parquet": parquet_rows, "tar": tar_rows}


class PlainPairs(Dataset):
    """Images by PIL and a transform, as tutorials have it."""

    def __init__(self, rows: list[tuple[Callable, str]], transform: Callable, tokenizer: PreTrainedTokenizerFast):
        self.rows = rows
        self.transform = transform
        self.tokenizer = tokenizer

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        open_image, caption = self.rows[index]
        with open_image() as file:
            image = PIL.Image.open(file).convert("RGB")
        return self.transform(image), tokens_of(caption, self.tokenizer)


def tokens_of(caption: str, tokenizer: PreTrainedTokenizerFast) -> torch.Tensor:
    encoded_caption = tokenizer(caption, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt")
    return encoded_caption["input_ids"][0]


def plain(case: Case, tokenizer: PreTrainedTokenizerFast, pixels: Callable = plain_pixels) -> Iterable:
    pairs = PlainPairs(ROWS[case.source](case.folder), pixels(case.size, case.mode), tokenizer)
    return DataLoader(pairs, batch_size=case.batch_size)


def from_open_clip(case: Case, tokenizer: PreTrainedTokenizerFast) -> Iterable:
    training = case.mode == "training"
    shards = sorted(map(str, case.folder.glob("*.tar")))
    options = SimpleNamespace(
        train_data="::".join(shards),
        val_data="::".join(shards),
        train_num_samples=case.num_images,
        val_num_samples=case.num_images,
        train_data_upsampling_factors=None,
        dataset_resampled=False,
        batch_size=case.batch_size,
        workers=0,
        world_size=1,
        seed=0,
    )
    pixels = image_transform(
        case.size, training, resize_mode="squash", aug_cfg=AugmentationCfg(scale=(MIN_SCALE, 1.0))
    )
    # What takes a text and gives a list of one, as the tokenizers of open_clip do.
    data = get_wds_dataset(options, pixels, training, tokenizer=lambda caption: [tokens_of(caption, tokenizer)])
    return data.dataloader


LOADERS: dict[str, Callable[[Case, PreTrainedTokenizerFast], Iterable]] = {
    "ours": ours,
    "torchvision + PIL": plain,
    "torchvision v2": partial(plain, pixels=v2_pixels),
    "open_clip": from_open_clip,
}


def loaders_of(case: Case, tokenizer: PreTrainedTokenizerFast) -> dict[str, Iterable]:
    names = [name for name in LOADERS if name != "open_clip" or case.source == "tar"]
    return {name: LOADERS[name](case, tokenizer) for name in names}


# Measuring -------------------------------------------------------------------------------------------------------


def shapes(batch: dict[str, torch.Tensor] | Sequence[torch.Tensor]) -> tuple[torch.Size, torch.Size]:
    """Of pixels and tokens; what is no batch of normalised pixels is not compared."""
    pixels, ids = (batch["pixel_values"], batch["input_ids"]) if isinstance(batch, dict) else batch
    assert pixels.dtype == torch.float32 and ids.dtype == torch.int64, (pixels.dtype, ids.dtype)
    return pixels.shape, ids.shape


def rate(loader: Iterable, case: Case) -> float:
    """Images of a second of processor time."""
    start = time.process_time()
    found = [shapes(batch) for batch in itertools.islice(loader, case.num_batches)]
    seconds = time.process_time() - start
    expected = [((case.batch_size, 3, case.size, case.size), (case.batch_size, LENGTH))] * case.num_batches
    assert found == expected, f"{found}, expected {expected}"
    return case.num_images / seconds


def measure(case: Case, tokenizer: PreTrainedTokenizerFast, rounds: int) -> dict[str, list[float]]:
    """Rates of all loaders, round by round, each time begun by another."""
    loaders = loaders_of(case, tokenizer)
    names = list(loaders)
    rates: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds + 1):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            value = rate(loaders[name], case)
            if number > 0:
                rates[name].append(value)
    return rates


def cells(rates: dict[str, list[float]]) -> list[str]:
    """Medians, and the ratio to the fastest of the others: its median, and the smallest and largest of a round."""
    medians = {name: statistics.median(values) for name, values in rates.items()}
    best = max((name for name in medians if name != "ours"), key=medians.__getitem__)
    ratios = [mine / other for mine, other in zip(rates["ours"], rates[best], strict=True)]
    ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    return [*(f"{medians[name]:.0f}" if name in medians else "" for name in LOADERS), ratio]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--formats", nargs="+", default=list(FORMATS), choices=FORMATS)
    parser.add_argument("--sources", nargs="+", default=list(ROWS), choices=ROWS)
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 256, 384])
    parser.add_argument("--modes", nargs="+", default=["training", "evaluation"], choices=["training", "evaluation"])
    parser.add_argument("--sides", type=int, nargs=2, default=[500, 640], help="shortest and longest of a picture")
    parser.add_argument("--name", default="data", help="of the file with the results")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.images % args.batch_size:
        parser.error("`--images` has to be a multiple of `--batch_size`: open_clip drops what is left")

    torch.set_num_threads(1)
    disable_progress_bars()
    load, rows, tokenizer = os.getloadavg()[0], [], make_tokenizer()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        bytes_of = write_sources(root, args.formats, args.images, args.sides, args.seed)
        for mode, image_format, source, size in itertools.product(args.modes, args.formats, args.sources, args.sizes):
            folder = root / source / FORMATS[image_format][0]
            case = Case(folder, source, size, mode, args.images, args.batch_size)
            rates = measure(case, tokenizer, args.rounds)
            rows.append([mode, image_format, source, str(size), *cells(rates)])
            print(rows[-1], flush=True)

    kilobytes = ", ".join(f"{name} {size / 1000:.0f} kB" for name, size in bytes_of.items())
    packages = ("torchvision", "pillow", "open_clip_torch", "webdataset", "datasets")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    lines = [
        f"Images a second of processor time, the median of {args.rounds} rounds of {args.images} images; and how many "
        "times as many as the fastest of the others: the median, and the smallest and largest of a round. Pictures "
        f"of {args.sides[0]} to {args.sides[1]} pixels a side; mean size of a file: {kilobytes}. "
        f"The load average of the machine went from {load:.1f} to {os.getloadavg()[0]:.1f} on "
        f"{os.cpu_count()} processors. {versions}.",
        "",
        *table(["mode", "format", "from", "px", *LOADERS, "ours / fastest other"], rows, text_columns=3),
    ]
    write_results(f"{args.name}.py", "Loading pairs", lines, threads=1)


if __name__ == "__main__":
    main()
