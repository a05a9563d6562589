# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The page itself, in Gradio: tabs, what they ask the backend, and where answers appear."""

import functools
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.events import Dependency
from transformers.utils import logging

from . import render
from .backend import MAX_BATCH, MIN_BATCH, RERANKED, Backend, Refusal


logger = logging.get_logger(__name__)

# The model answers one question after another: it is put into other modes for some of them.
_ONE_AT_A_TIME: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "model", "api_visibility": "private"}
_EXAMPLE_TEXTS, _EXAMPLE_PICTURES = 4, 6
_LONGEST_EXAMPLE = 60
_LONGEST_QUERY = 2000


class Page(gr.Blocks):
    """Blocks that bring their looks along, and that send nothing anywhere: no analytics, no fonts, no share link."""

    def __init__(self, title: str):
        super().__init__(title=title, analytics_enabled=False, delete_cache=(3600, 3600))

    def launch(self, *args: Any, **options: Any) -> Any:
        """[`gradio.Blocks.launch`] with this page's theme and without links, history or server-side rendering."""
        ours = {
            "theme": gr.themes.Default(
                primary_hue="indigo",
                secondary_hue="indigo",
                neutral_hue="slate",
                font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"],
                font_mono=["ui-monospace", "Consolas", "monospace"],
            ).set(
                # Enough contrast to be read (4.5 : 1 and more), which the default has not.
                body_text_color_subdued="*neutral_600",
                body_text_color_subdued_dark="*neutral_300",
                block_label_text_color="*neutral_600",
                block_label_text_color_dark="*neutral_300",
                block_info_text_color="*neutral_600",
                block_info_text_color_dark="*neutral_300",
                input_placeholder_color="*neutral_500",
                input_placeholder_color_dark="*neutral_400",
                button_primary_background_fill="*primary_600",
                button_primary_background_fill_hover="*primary_700",
            ),
            "css": Path(__file__).with_name("page.css").read_text(encoding="utf-8"),
            "share": False,
            "footer_links": [],
            "run_history": False,
            "ssr_mode": False,
            "max_file_size": "20mb",
        }
        return super().launch(*args, **{**ours, **options})


def build_page(backend: Backend, *, title: str, subtitle: str, examples: Sequence[str] | None) -> Page:
    """The page over a backend. `subtitle` is plain text; without `examples`, short captions of the data set are."""
    if examples is None:
        captions = [backend.caption(row) for row in backend.spread_rows(40)]
        examples = [text for text in dict.fromkeys(captions) if 0 < len(text) <= _LONGEST_EXAMPLE]
        examples = examples[:: max(1, len(examples) // _EXAMPLE_TEXTS)][:_EXAMPLE_TEXTS]
    with Page(title) as page:
        gr.HTML(
            f'<header class="sacl-header"><h1>{escape(title)}</h1><p>{escape(subtitle)}</p></header>',
            js_on_load=None,
            apply_default_css=False,
        )
        with gr.Tabs():
            _find_images(backend, examples)
            _find_texts(backend)
            _compose(backend)
            _ground(backend)
            _patches(backend)
            _negatives(backend)
    return page


# Parts that tabs share -----------------------------------------------------------------------------------------------


def _answering(function: Callable[..., str]) -> Callable[..., str]:
    """An answer, or in its place what is wrong, in words: never a traceback."""

    @functools.wraps(function)
    def answer(*inputs: Any) -> str:
        try:
            return function(*inputs)
        except Refusal as refusal:
            return render.notice(str(refusal))
        except ValueError as error:
            # The library's own: they name the value, what was expected and the way out.
            logger.info(f"{function.__name__}: {error}")
            return render.notice(str(error))
        except Exception:
            logger.exception(f"{function.__name__} failed.")
            return render.notice("Something went wrong here. The log of the server says what; try another question.")

    return answer


def _intro(text: str) -> None:
    gr.HTML(f'<p class="sacl-intro">{escape(text)}</p>', js_on_load=None, apply_default_css=False)


def _answers(elem_id: str, value: str = "") -> gr.HTML:
    """Where answers appear; screen readers say when they do."""
    return gr.HTML(
        value,
        html_template='<div aria-live="polite">${value}</div>',
        js_on_load=None,
        apply_default_css=False,
        elem_id=elem_id,
        min_height=60,
    )


def _is_lacking(backend: Backend, name: str) -> bool:
    """Says why a tab is empty, if it has to be."""
    if name in backend.lacking:
        gr.HTML(render.notice(backend.lacking[name]), js_on_load=None, apply_default_css=False)
    return name in backend.lacking


def _count_and_rerank(backend: Backend, label: str) -> tuple[gr.Slider, gr.Checkbox]:
    with gr.Accordion("Options", open=False):
        count = gr.Slider(1, 48, value=12, step=1, label=label)
        rerank = gr.Checkbox(
            False,
            label="Look twice",
            info=f"The matching head puts the best {RERANKED} in order. It must have been trained to mean something.",
            visible="rerank" not in backend.lacking,
        )
    return count, rerank


def _picture_to_ask_with(
    backend: Backend, *, caption_into: gr.Textbox | None = None
) -> tuple[gr.Image, Dependency | None]:
    """A place for a picture, pictures of the data set to put there (and their captions elsewhere), and that event."""
    picture = gr.Image(
        label="Picture", type="filepath", format="png", sources=["upload", "clipboard"], height=240, buttons=[]
    )
    if backend.image_column is None:
        return picture, None
    rows = backend.spread_rows(_EXAMPLE_PICTURES)
    rows = [row for row in rows if backend.picture(row) is not None]
    gallery = gr.Gallery(
        [(backend.thumbnail(row, render.SMALL), backend.caption(row) or f"row {row}") for row in rows],
        label="Or take one of these",
        columns=_EXAMPLE_PICTURES,
        height="auto",
        object_fit="contain",
        allow_preview=False,
        interactive=False,
        buttons=[],
        elem_classes="sacl-pictures",
    )

    def take(chosen: gr.SelectData) -> Any:
        row = rows[chosen.index]
        return (backend.picture(row), backend.caption(row)) if caption_into else backend.picture(row)

    taken = gallery.select(
        take, outputs=[picture, caption_into] if caption_into else picture, api_visibility="private"
    )
    return picture, taken


def _ask(answer: Callable[..., str], inputs: Sequence[Any], output: gr.HTML, *triggers: Any) -> None:
    """
    Asks at each of the triggers. Inputs come as the browser sends them, since Gradio would open an uploaded picture
    itself and fail on a broken one without a word; that a file is one that was uploaded is checked all the same.
    """
    gr.on(list(triggers), _answering(answer), list(inputs), output, preprocess=False, **_ONE_AT_A_TIME)


def _ask_then(event: Dependency, answer: Callable[..., str], inputs: Sequence[Any], output: gr.HTML) -> None:
    """Asks after something else was done."""
    event.then(_answering(answer), list(inputs), output, preprocess=False, **_ONE_AT_A_TIME)


def _file_of(upload: dict[str, Any] | None) -> str | None:
    """Where an uploaded picture lies."""
    return upload.get("path") if upload else None


# Tabs ----------------------------------------------------------------------------------------------------------------


def _find_images(backend: Backend, examples: Sequence[str]) -> None:
    with gr.Tab("Find images", id="find-images"):
        if _is_lacking(backend, "find images"):
            return
        _intro("Describe something. The pictures whose embeddings are nearest to that of the text come first.")
        query = gr.Textbox(
            label="What should the pictures show?",
            placeholder=f"for example: {examples[0]}" if examples else None,
            submit_btn="Search",
            max_length=_LONGEST_QUERY,
            elem_id="find-images-query",
        )
        with gr.Row(elem_classes="sacl-examples"):
            buttons = [gr.Button(text, size="sm") for text in examples]
        count, rerank = _count_and_rerank(backend, "How many pictures")

        def answer(text: str, count: int, rerank: bool) -> str:
            results = backend.find_images(text, count, rerank)
            shown = render.found_images(backend, results, render.match if rerank else render.cosine)
            return render.note(backend.text_note(text)) + shown

        found = _answers("found-images")
        _ask(answer, [query, count, rerank], found, query.submit, count.release, rerank.input)
        for button in buttons:
            button.click(
                lambda text, count, rerank: (text, _answering(answer)(text, count, rerank)),
                [button, count, rerank],
                [query, found],
                **_ONE_AT_A_TIME,
            )


def _find_texts(backend: Backend) -> None:
    with gr.Tab("Find texts", id="find-texts"):
        if _is_lacking(backend, "find texts"):
            return
        _intro("Show a picture. The captions whose embeddings are nearest to that of the picture come first.")
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                picture, _ = _picture_to_ask_with(backend)
                count, rerank = _count_and_rerank(backend, "How many captions")
                button = gr.Button("Search", variant="primary")
            with gr.Column(scale=3, min_width=300):
                found = _answers("found-texts")

        def answer(upload: dict[str, Any] | None, count: int, rerank: bool) -> str:
            results = backend.find_texts(_file_of(upload), count, rerank)
            return render.found_texts(backend, results, render.match if rerank else render.cosine)

        _ask(answer, [picture, count, rerank], found, button.click, picture.change, count.release, rerank.input)


def _compose(backend: Backend) -> None:
    with gr.Tab("Picture and text", id="compose"):
        if _is_lacking(backend, "compose"):
            return
        _intro(
            "Show a picture and say what should be different: a red heart, and “blue”. Without a text, pictures that "
            "resemble it are found. No model was trained for this: the two embeddings are added."
        )
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                picture, _ = _picture_to_ask_with(backend)
                text = gr.Textbox(
                    label="What should be different?", max_length=_LONGEST_QUERY, elem_id="compose-query"
                )
                weight = gr.Slider(0, 1, value=0.5, step=0.05, label="Share of the text")
                count, rerank = _count_and_rerank(backend, "How many pictures")
                button = gr.Button("Search", variant="primary")
            with gr.Column(scale=3, min_width=300):
                found = _answers("found-composed")

        def answer(upload: dict[str, Any] | None, text: str, weight: float, count: int, rerank: bool) -> str:
            results = backend.find_composed(_file_of(upload), text, count, weight, rerank)
            is_matched = rerank and bool((text or "").strip())
            shown = render.found_images(backend, results, render.composed_match if is_matched else render.cosine)
            return render.note(backend.text_note(text or "")) + shown

        _ask(
            answer,
            [picture, text, weight, count, rerank],
            found,
            button.click,
            text.submit,
            picture.change,
            weight.release,
            count.release,
            rerank.input,
        )


def _ground(backend: Backend) -> None:
    with gr.Tab("Words in the picture", id="ground"):
        if _is_lacking(backend, "ground"):
            return
        _intro(
            "Where in the picture is each word? Shown is what the matching head looks at and what raises its score "
            "(Grad-CAM on the cross-attention). A head that was not trained gives maps that mean nothing."
        )
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                text = gr.Textbox(
                    label="What to look for", max_length=_LONGEST_QUERY, elem_id="ground-query", render=False
                )
                picture, taken = _picture_to_ask_with(backend, caption_into=text)
                text.render()
                button = gr.Button("Look for it", variant="primary")
            with gr.Column(scale=3, min_width=300):
                found = _answers("grounded")

        def answer(upload: dict[str, Any] | None, text: str) -> str:
            picture, grounding = backend.ground(_file_of(upload), text)
            return render.grounded(picture, text.strip(), grounding)

        _ask(answer, [picture, text], found, button.click, text.submit)
        if taken is not None:
            _ask_then(taken, answer, [picture, text], found)


def _patches(backend: Backend) -> None:
    with gr.Tab("Kept patches", id="patches"):
        if _is_lacking(backend, "patches"):
            return
        _intro(
            "The image tower can drop the patches that matter least. Choose how many it keeps in each layer that "
            "selects, and see which. Searches on the other tabs are not changed by that."
        )
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                text = gr.Textbox(
                    label="The text that chooses", max_length=_LONGEST_QUERY, elem_id="patches-query", render=False
                )
                picture, _ = _picture_to_ask_with(backend, caption_into=text)
                keep_rate = gr.Slider(0.1, 0.95, value=0.5, step=0.05, label="Share that each selection keeps")
                guide = gr.Radio(["the picture itself", "a text"], value="the picture itself", label="Who chooses?")
                text.render()
                button = gr.Button("Show the patches", variant="primary")
            with gr.Column(scale=3, min_width=300):
                found = _answers("kept-patches")

        def answer(upload: dict[str, Any] | None, keep_rate: float, guide: str, text: str) -> str:
            panels = backend.kept_patches(_file_of(upload), keep_rate, text if guide == "a text" else None)
            return render.kept_patches(panels)

        _ask(
            answer,
            [picture, keep_rate, guide, text],
            found,
            button.click,
            text.submit,
            picture.change,
            keep_rate.release,
            guide.input,
        )


def _negatives(backend: Backend) -> None:
    with gr.Tab("False negatives", id="negatives") as tab:
        if _is_lacking(backend, "negatives"):
            return
        _intro(
            "Contrastive learning takes every other pair of a batch for a negative, though some fit the anchor too. "
            "SACL weighs each by how much it resembles the anchor. Choose an anchor, and see its batch as the loss "
            "sees it, by this model's own cosines: those with the least weight, the likeliest false negatives, first."
        )
        largest = min(MAX_BATCH, len(backend))
        with gr.Row():
            anchor = gr.Number(0, precision=0, label="Anchor (row)", minimum=0, maximum=len(backend) - 1)
            seed = gr.Number(0, precision=0, label="Batch number", minimum=0)
            size = gr.Slider(MIN_BATCH, largest, value=min(64, largest), step=1, label="Batch size")
            strength = gr.Slider(0, 10, value=1, step=0.25, label="Strength")
        with gr.Row():
            button = gr.Button("Weigh", variant="primary")
            any_anchor = gr.Button("Random anchor")
            next_batch = gr.Button("Another batch")
        found = _answers("weighed")

        def answer(anchor: int, size: int, strength: float, seed: int) -> str:
            return render.weighed_negatives(backend, backend.negatives(anchor, size, strength, seed), strength)

        inputs = [anchor, size, strength, seed]
        _ask(
            answer, inputs, found, tab.select, button.click, anchor.submit, seed.submit, size.release, strength.release
        )
        drawn = any_anchor.click(backend.random_row, outputs=anchor, api_visibility="private")
        moved = next_batch.click(lambda seed: (seed or 0) + 1, seed, seed, api_visibility="private")
        for change in (drawn, moved):
            _ask_then(change, answer, inputs, found)
