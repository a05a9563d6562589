# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""How fast pairs stream from tar files and Parquet, how fast a stream goes on, and what a guide costs: as a file.

    python benchmarks/stream.py

Writes shards of photographs' size (256 px, JPEG) to a temporary folder and reads them undecoded, by one reader on one
thread. Rates are by processor time, of which a busy machine takes nothing; the files are in the kernel's cache, so
that no disk is measured. Writes benchmarks/results/stream.md.
"""

import argparse
import io
import itertools
import os
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from common import table, write_results
from datasets import Dataset, Features, Image, IterableDataset, Value, load_dataset

from trainer import Guide, PairCollator, load_pairs
from trainer.data import SeededStream, undecoded


sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))


def jpeg(generator: np.random.Generator, side: int, quality: int) -> bytes:
    """A picture with coarse and fine detail, which compresses about as photographs do."""
    layers = [generator.integers(0, 256, (size, size, 3), dtype=np.uint8) for size in (4, 24, side)]
    resized = [np.asarray(PIL.Image.fromarray(layer).resize((side, side)), dtype=np.float32) for layer in layers]
    mixed = 0.6 * resized[0] + 0.3 * resized[1] + 0.1 * resized[2]
    buffer = io.BytesIO()
    PIL.Image.fromarray(mixed.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def write_shards(folder: Path, shards: int, rows: int, side: int, quality: int) -> int:
    """The same pairs as tar files and as Parquet; the bytes of their images."""
    generator, size = np.random.default_rng(0), 0
    for shard in range(shards):
        images = [jpeg(generator, side, quality) for _ in range(rows)]
        captions = [f"a picture of {shard * rows + row} things, of which some are large" for row in range(rows)]
        size += sum(map(len, images))
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as archive:
            for row, (image, caption) in enumerate(zip(images, captions, strict=True)):
                key = f"{shard:05d}{row:04d}"
                fields = f'{{"caption": "{caption}", "key": "{key}", "width": {side}, "status": "success"}}'
                for suffix, content in (("jpg", image), ("json", fields.encode()), ("txt", caption.encode())):
                    info = tarfile.TarInfo(f"{key}.{suffix}")
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
        columns = {
            "image": [{"bytes": image, "path": None} for image in images],
            "caption": captions,
            "id": [f"{shard:05d}{row:04d}" for row in range(rows)],
        }
        features = Features({"image": Image(), "caption": Value("string"), "id": Value("string")})
        Dataset.from_dict(columns, features=features).to_parquet(str(folder / f"{shard:05d}.parquet"), batch_size=100)
    return size


def members(paths: Iterable[Path]) -> Iterable[bytes]:
    """What no reader of tar files is faster than: `tarfile`, member by member."""
    for path in paths:
        with tarfile.open(path, "r|") as archive:
            for member in archive:
                content = archive.extractfile(member).read()
                if member.name.endswith(".jpg"):
                    yield content


def pairs(folder: Path, kind: str, with_ids: bool) -> Iterable[dict]:
    """One pass of the stream that a trainer reads."""
    id_column = {"tar": "__key__", "parquet": "id"}[kind] if with_ids else None
    stream = load_pairs(str(folder / f"*.{kind}"), streaming=True, pair_id_column=id_column)
    return SeededStream(undecoded(stream), seed=0)


def processor_seconds(read: Callable[[], Iterable], rows: int, repeats: int) -> float:
    """Median time of the processor for so many rows, after one pass that does not count."""
    times = []
    for _ in range(repeats + 1):
        start = time.process_time()
        assert sum(1 for _ in itertools.islice(read(), rows)) == rows
        times.append(time.process_time() - start)
    return statistics.median(times[1:])


def seconds_to_go_on(folder: Path, kind: str, rows: int, repeats: int) -> float:
    """Time of the processor until the first row, nine tenths into a shard."""
    stream = pairs(folder, kind, with_ids=True)
    before = next(itertools.islice(stream, int(0.9 * rows) - 1, None))
    stream.note({"__stream_place__": before["__stream_place__"]})
    state, times = stream.state_dict(), []
    for _ in range(repeats):
        resumed = pairs(folder, kind, with_ids=True)
        resumed.load_state_dict(state)
        start = time.process_time()
        next(iter(resumed))
        times.append(time.process_time() - start)
    return statistics.median(times)


def milliseconds_to_choose(shards: int, repeats: int) -> float:
    """Time of the processor to get at one shard among so many, at the end of the one before."""
    dataset = IterableDataset.from_generator(
        lambda names: iter(()), gen_kwargs={"names": [f"s3://bucket/{shard:06d}.tar" for shard in range(shards)]}
    )
    stream, times = SeededStream(dataset, seed=0, shuffle_shards=True), []
    for _ in range(repeats):
        start = time.process_time()
        assert next(stream._shard(0, stream._order(1, 1)[0]), None) is None
        times.append(time.process_time() - start)
    return 1000 * statistics.median(times)


def batch_milliseconds(folder: Path, repeats: int, batch_size: int = 64) -> float:
    """Decoding, augmentation at 224 px, tokens: milliseconds a pair of the collator's."""
    from demo import build_processor

    collator = PairCollator(build_processor(image_size=224)).for_training()
    rows = list(itertools.islice(pairs(folder, "tar", with_ids=True), batch_size))
    times = []
    for _ in range(repeats + 1):
        start = time.process_time()
        collator(rows)
        times.append(time.process_time() - start)
    return 1000 * statistics.median(times[1:]) / batch_size


def guide_milliseconds(repeats: int) -> tuple[float, int, int]:
    """A guide of the demonstration's size: milliseconds a pair, parameters, and how many numbers it writes."""
    from demo import build_model, build_processor

    processor = build_processor(image_size=48)
    model = build_model(processor)
    guide = Guide(model.eval(), processor)
    image = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8))
    rows = [{"image": image, "caption": f"a red apple with {number} leaves"} for number in range(64)]
    times = []
    for _ in range(repeats + 1):
        start = time.process_time()
        features = guide.encode(rows)
        times.append(time.process_time() - start)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return 1000 * statistics.median(times[1:]) / len(rows), parameters, sum(f.shape[1] for f in features.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--rows", type=int, default=2000, help="pairs in a shard")
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--quality", type=int, default=85)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)

    total, rows = args.shards * args.rows, []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = write_shards(folder, args.shards, args.rows, args.side, args.quality)
        tars = sorted(folder.glob("*.tar"))
        builder = partial(load_dataset, split="train", streaming=True)
        readers = {
            ("tar", "`tarfile`, member by member"): lambda: members(tars),
            ("tar", "`datasets`"): lambda: undecoded(builder("webdataset", data_files=list(map(str, tars))), "jpg"),
            ("tar", "`load_pairs`, ids by the names"): lambda: pairs(folder, "tar", True),
            ("tar", "`load_pairs`, ids by the contents"): lambda: pairs(folder, "tar", False),
            ("Parquet", "`datasets`"): lambda: undecoded(builder("parquet", data_files=str(folder / "*.parquet"))),
            ("Parquet", "`load_pairs`, ids of a column"): lambda: pairs(folder, "parquet", True),
            ("Parquet", "`load_pairs`, ids by the contents"): lambda: pairs(folder, "parquet", False),
        }
        for (kind, reader), read in readers.items():
            seconds = processor_seconds(read, total, args.repeats)
            rows.append([kind, reader, f"{total / seconds:,.0f}", f"{size / seconds / 2**20:,.0f}"])
        batch = batch_milliseconds(folder, args.repeats)
        on = {kind: seconds_to_go_on(folder, kind, args.rows, args.repeats) for kind in ("tar", "parquet")}
    milliseconds, parameters, numbers = guide_milliseconds(args.repeats)
    load = os.getloadavg()[0]
    lines = [
        f"{args.shards} shards of {args.rows:,} pairs; images of {args.side} px, {size / total / 1024:.1f} KiB each. "
        "Read by one reader, undecoded, from the cache of the kernel: nothing here waits for a disk or a network. By "
        f"processor time, median of {args.repeats}; the load average was {load:.1f} on {os.cpu_count()} processors.",
        "",
        *table(["files", "read by", "pairs/s", "MiB/s of images"], rows, text_columns=2),
        "",
        f"Going on at nine tenths of a shard of {args.rows:,} pairs: {on['tar']:.2f} s until the first row from tar "
        f"files, {on['parquet']:.2f} s from Parquet.",
        "",
        f"To decode, augment at 224 px and tokenize takes {batch:.2f} ms a pair on top. Among 100,000 shards, to get "
        f"at the next one takes {milliseconds_to_choose(100_000, args.repeats):.0f} ms.",
        "",
        f"A guide of the demonstration's size ({parameters / 1e6:.1f} million parameters with its heads, 48 px): "
        f"{milliseconds:.2f} ms a pair; it writes {numbers} numbers for each.",
    ]
    write_results(__file__, "Streaming", lines, threads=1)


if __name__ == "__main__":
    main()
