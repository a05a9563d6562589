# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Searches a folder that `sacl embed` wrote: by text, by image, or by an image with a text that says what should be
different. Without a query it asks for one after another."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..text import one_line
from .arguments import option
from .errors import CommandError, UsageError
from .output import Output
from .sources import ModelArguments


EXAMPLES = """
  sacl search photos-index "two dogs on a beach" "a red bus" --top_k 3

  # The images found, as one picture.
  sacl search photos-index "two dogs on a beach" --picture found.png

  # What looks like this image; what it would be with a difference; which captions fit it.
  sacl search photos-index --image cat.png
  sacl search photos-index "with a hat" --image cat.png
  sacl search photos-index --image cat.png --find texts

  # One query after another; a line is a query if they come from a file.
  sacl search photos-index
  sacl search photos-index --json < queries.txt
"""


@dataclass
class SearchArguments:
    """What to look for, and where."""

    _argument_group_name = "search"

    folder: str = option("folder that `sacl embed` wrote", positional=True)
    queries: list[str] = option("texts to look for", [], positional=True, nargs="*", metavar="QUERY")
    model: str | None = option("model that embedded the folder (by default the one that the folder names)", None)
    model_revision: str | None = option("branch, tag or commit of the model on the Hub", None)
    trust_remote_code: bool = option("run code that lies beside the model; needed for models that are not ours", False)
    device: str | None = option("where to compute: cpu, cuda ... (by default a GPU if there is one)", None)
    image: str | None = option("image file to look for", None)
    find: str = option("what to find", "images", choices=["images", "texts"])
    top_k: int = option("how many to find", 10)
    rerank_top_k: int = option("candidates that the matching head puts in order (0: none)", 0)
    text_weight: float = option("with --image and a text: share of the text", 0.5)
    picture: str | None = option("file to draw the images found into (.png)", None)


def arguments() -> tuple[type, ...]:
    """The dataclasses of this command."""
    return (SearchArguments,)


def run(output: Output, options: SearchArguments) -> None:
    """Answers each query."""
    from ..search import SaclSearcher
    from .loading import load_model_and_processor

    source = _model_of(options)
    if options.find == "texts" and (options.image is None or options.queries):
        raise UsageError("--find texts looks for the captions of an image: give --image and no text.")
    if options.image is not None and not Path(options.image).is_file():
        raise CommandError(f"There is no image file {options.image!r}.")
    model, processor = load_model_and_processor(source, "matching" if options.rerank_top_k else "none")
    searcher = SaclSearcher.from_pretrained(options.folder, model, processor)
    output.say(f"{len(searcher.dataset):,} rows; {source.model} on {model.device}")

    answers = []
    for query in _queries(options, output):
        if query is None:
            continue
        found = _search(searcher, options, query)
        answers.append({"query": query, "image": options.image, "results": _described(searcher, found)})
        if not output.as_json:
            output.result(_text(answers[-1]), None)
    if output.as_json:
        output.result("", answers)
    if options.picture is not None:
        _draw(searcher, answers, options.picture)
        output.say(f"The images are in {options.picture}")


def _model_of(options: SearchArguments) -> ModelArguments:
    from ..search.searcher import read_settings

    try:
        settings = read_settings(options.folder)
    except (FileNotFoundError, ValueError) as error:
        raise CommandError(
            f"{options.folder!r} cannot be searched: `sacl embed` did not write it (to its end). {error}"
        ) from error
    name = options.model or settings["model"]
    return ModelArguments(name, options.model_revision, options.trust_remote_code, options.device)


def _queries(options: SearchArguments, output: Output) -> Iterator[str | None]:
    """Those that were given, or those that are typed; an image without a text is a query without words."""
    if options.queries:
        yield from options.queries
    elif options.image is not None:
        yield ""
    elif sys.stdin.isatty():
        output.say("What to look for? (an empty line ends)")
        while True:
            sys.stderr.write("> ")
            sys.stderr.flush()
            line = sys.stdin.readline()
            if not line.strip():
                return
            yield line.strip()
    else:
        yield from (line.strip() or None for line in sys.stdin)


def _search(searcher: Any, options: SearchArguments, query: str) -> Any:
    rerank = {"rerank_top_k": options.rerank_top_k}
    if options.image is None:
        return searcher.search_images(query, options.top_k, **rerank)
    if query:
        return searcher.search_composed(options.image, query, options.top_k, text_weight=options.text_weight, **rerank)
    if options.find == "texts":
        return searcher.search_texts(options.image, options.top_k, **rerank)
    if options.rerank_top_k:
        raise UsageError("--rerank_top_k compares images with texts: give a text, or --find texts.")
    return searcher.search_similar_images(options.image, options.top_k)


def _described(searcher: Any, found: Any) -> list[dict[str, Any]]:
    from ..data import undecoded
    from .loading import one_caption

    rows = undecoded(searcher.dataset.with_format(None))
    described = []
    for row, score in found:
        values = rows[row]
        image = values.get("image")
        path = image.get("path") if isinstance(image, dict) else None
        described.append({"row": row, "score": score, "caption": one_caption(values), "path": path})
    return described


def _text(answer: dict[str, Any]) -> str:
    title = " + ".join(one_line(part) for part in (answer["image"], answer["query"]) if part)
    lines = [
        f"  {result['score']:6.3f}  row {result['row']:<7} {one_line(result['caption'])}"
        + (f"  {one_line(result['path'], 80)}" if result["path"] else "")
        for result in answer["results"]
    ]
    return "\n".join([title, *lines])


def _draw(searcher: Any, answers: list[dict[str, Any]], file: str) -> None:
    from hub_cards import plot_retrieval_grid

    if not answers:
        raise CommandError("There was no query, so there is nothing to draw.")
    pictures = [[searcher.dataset[result["row"]]["image"] for result in answer["results"]] for answer in answers]
    plot_retrieval_grid([answer["query"] or str(answer["image"]) for answer in answers], pictures, file)
