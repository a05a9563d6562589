# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""
Lets pages that are written for the repository be a site: a link to a file outside of `docs/` leads to a copy.

The copies lie under `repository/`, named like the originals: Markdown as a page, source code as a page that shows it,
pictures as they are. So the site needs no address of a repository, and shows the files as they were when it was built.
"""

import posixpath
import re
from collections.abc import Callable
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page
from page_text import outside_code, reference_names, with_admonitions, with_links


COPIES = "repository"
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)")
LANGUAGES = {".py": "python", ".yaml": "yaml", ".json": "json", ".cff": "yaml", ".toml": "toml", ".cfg": "ini"}
PICTURES = (".png", ".jpg", ".svg")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds a copy of everything that the pages link to, and of what the copies link to in turn."""
    root = Path(config.docs_dir).parent
    waiting = [page.src_uri for page in files.documentation_pages()]
    while waiting:
        page = files.get_file_from_path(waiting.pop())
        assert page is not None
        for target in sorted(_linked_files(page, root)):
            copy = _copy(target, root, config)
            if files.get_file_from_path(copy.src_uri) is None:
                files.append(copy)
                waiting += [copy.src_uri] if copy.is_documentation_page() else []
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Leads the links to the copies, and writes notes and references as the site's Markdown wants them."""
    root, docs = Path(config.docs_dir).parent, Path(config.docs_dir)

    def change(text: str) -> str:
        text = LINK.sub(lambda link: _on_the_site(link[1], page.file, root), text)
        return with_links(with_admonitions(text), reference_names(docs / "reference"))

    return outside_code(markdown, change)


def on_post_build(config: MkDocsConfig) -> None:
    """Lays the index of the search beside it as a script: a page that is opened from the disk may not fetch it."""
    index = Path(config.site_dir) / "search" / "search_index.json"
    script = f"var __index = {index.read_text(encoding='utf-8')}"
    index.with_suffix(".js").write_text(script, encoding="utf-8")


def _linked_files(page: File, root: Path) -> set[str]:
    """Files and folders outside of `docs/` that a page links to, from the repository's root."""
    found: set[str] = set()

    def collect(text: str) -> str:
        found.update(_in_repository(link, page) for link in LINK.findall(text))
        return text

    outside_code(page.content_string, collect)
    return {path for path in found if not _is_of_the_site(path) and (root / path).exists()}


def _is_of_the_site(path: str) -> bool:
    return path.startswith("docs/") and path.endswith((".md", *PICTURES))


def _in_repository(link: str, page: File) -> str:
    """Where a page's link leads, from the repository's root."""
    own = page.src_uri.removeprefix(f"{COPIES}/") if page.src_uri.startswith(f"{COPIES}/") else f"docs/{page.src_uri}"
    return posixpath.normpath(posixpath.join(posixpath.dirname(own), link))


def _on_the_site(link: str, page: File, root: Path) -> str:
    """The link that leads from a page of the site to the page of the site that shows the same."""
    path = _in_repository(link, page)
    if not (root / path).exists():
        return link  # MkDocs says so.
    target = path.removeprefix("docs/") if _is_of_the_site(path) else _place(path, root)
    return posixpath.relpath(target, posixpath.dirname(page.src_uri) or ".")


def _place(path: str, root: Path) -> str:
    """Where the copy of a file lies. One that is no page becomes one, which shows it."""
    if (root / path).is_dir():
        return f"{COPIES}/{path}/folder.md"
    return f"{COPIES}/{path}" if path.endswith((".md", *PICTURES)) else f"{COPIES}/{path}.md"


def _copy(path: str, root: Path, config: MkDocsConfig) -> File:
    place, original = _place(path, root), root / path
    if path.endswith(PICTURES):
        return File.generated(config, place, abs_src_path=str(original))
    make: Callable[[str, Path], str] = _folder if original.is_dir() else _code
    content = original.read_text(encoding="utf-8") if path.endswith(".md") else make(path, original)
    return File.generated(config, place, content=content, inclusion=InclusionLevel.NOT_IN_NAV)


def _code(path: str, original: Path) -> str:
    try:
        text = original.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return f"{_head(path)}A file of {original.stat().st_size:,} bytes that is no text.\n"
    return f"{_head(path)}``````{LANGUAGES.get(original.suffix, 'text')}\n{text.rstrip()}\n``````\n"


def _folder(path: str, original: Path) -> str:
    names = sorted(file.name for file in original.iterdir() if not file.name.startswith((".", "__")))
    return _head(path) + "\n".join(f"- [{name}]({name})" for name in names) + "\n"


def _head(path: str) -> str:
    """What is shown is not searched: the search is for what explains it."""
    return f"---\nsearch:\n  exclude: true\n---\n\n# {path}\n\n"
