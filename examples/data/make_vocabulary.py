# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Makes the word pieces of the emoji texts: `python examples/data/make_vocabulary.py` writes emoji_vocabulary.txt.

The file is kept, because training it anew breaks ties differently in every process, and runs would not repeat.
"""

import sys
from pathlib import Path

from tokenizers import BertWordPieceTokenizer


HERE = Path(__file__).parent
VOCABULARY = HERE / "emoji_vocabulary.txt"


def main(vocabulary_size: int = 3000) -> None:
    sys.path.insert(0, str(HERE.parent))
    from emoji import emoji_pairs

    texts = {caption for captions in emoji_pairs("train")["captions"] for caption in captions}
    tokenizer = BertWordPieceTokenizer(lowercase=True)
    tokenizer.train_from_iterator(sorted(texts), vocab_size=vocabulary_size, show_progress=False)
    pieces = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    VOCABULARY.write_text("\n".join(pieces) + "\n", encoding="utf-8")
    print(f"{len(pieces):,} word pieces of {len(texts):,} texts in {VOCABULARY}")


if __name__ == "__main__":
    main()
