# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Serves the page: `python -m hub_cards.space --model MODEL --dataset DATASET`."""

import argparse

from .page import launch


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m hub_cards.space", description="Serves a page to try a model on.")
    parser.add_argument("--model", required=True, help="folder or Hub id of a model")
    parser.add_argument("--dataset", required=True, help="Hub id of a data set, a folder, or a file")
    parser.add_argument("--split", help="split of the data set; by default test, validation, or the first")
    parser.add_argument("--max_rows", type=int, help="show only so many rows")
    parser.add_argument("--title", default="Pictures and words", help="heading of the page")
    parser.add_argument("--server_name", help="address to listen on; by default only this machine can open the page")
    parser.add_argument("--server_port", type=int, help="port; by default the first free one from 7860")
    parser.add_argument("--inbrowser", action="store_true", help="open the page in a browser")
    args = parser.parse_args()
    options = {name: value for name, value in vars(args).items() if name not in ("model", "dataset")}
    launch(args.model, args.dataset, **options)


if __name__ == "__main__":
    main()
