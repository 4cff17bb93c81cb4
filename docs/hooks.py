"""What MkDocs does for the site beside rendering docs/: `make docs`.

- The home page is the first part of README.md.
- A link whose text is a file's name gets that page's title.
- Code under ```python title="ramit_arch/..." is an excerpt: it must be in that file, and gets its line numbers.
- Whatever a page takes from the code by ::: must have a docstring.
"""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
LAST_OF_HOME = '## Demo'  # of the README: where the home page ends
EXCERPT = re.compile(r'^```python title="(ramit_arch/[^"]+)"\n(.+?)^```$', re.MULTILINE | re.DOTALL)
FILE_LINK = re.compile(r'\[[\w-]+\.md\]\(([\w/.-]+\.md)')
FROM_CODE = re.compile(r'^::: ([\w.]+)$(?:\n    options: \{members: (.+)\}$)?', re.MULTILINE)
log = logging.getLogger(f'mkdocs.hooks.{__name__}')


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the home page."""
    text = (ROOT / 'README.md').read_text(encoding='utf-8').partition(LAST_OF_HOME)[0]
    text = text.replace('[docs/', '[').replace('](docs/', '](')
    files.append(File.generated(config, 'index.md', content=f'---\nhide: [navigation]\n---\n{text}'))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Number the lines of excerpts, and warn of missing docstrings; in a strict build a warning is an error."""
    where = page.file.src_uri
    for name, members in FROM_CODE.findall(markdown):
        for missing in undocumented(_find(name), members):
            log.warning("'%s': %s has no docstring", where, missing)
    markdown = FILE_LINK.sub(lambda match: f'[{_title(page, match[1])}]({match[1]}', markdown)
    return EXCERPT.sub(lambda match: _numbered(match, where), markdown)


def _title(page: Page, link: str) -> str:
    """The first heading of a linked page; of a broken link, which MkDocs reports, the link."""
    file = (ROOT / 'docs' / page.file.src_uri).parent / link
    return file.read_text(encoding='utf-8').partition('\n')[0].removeprefix('# ') if file.is_file() else link


def _numbered(match: re.Match[str], where: str) -> str:
    file, code = match.groups()
    before, found, _ = (ROOT / file).read_text(encoding='utf-8').partition(code)
    if not found or not before.endswith('\n'):
        log.warning("'%s': this excerpt is not in %s: %s", where, file, code.partition('\n')[0])
        return match[0]
    return f'```python title="{file}" linenums="{before.count(chr(10)) + 1}"\n{code}```'


@lru_cache(None)
def _package(name: str) -> griffe.Object | griffe.Alias:
    return griffe.load(name, search_paths=[str(ROOT)], resolve_aliases=True)


def _find(name: str) -> griffe.Object | griffe.Alias:
    package, _, rest = name.partition('.')
    return _package(package)[rest] if rest else _package(package)


def undocumented(shown: griffe.Object | griffe.Alias, members: str) -> list[str]:
    """What has no docstring: the object, or one of the named methods, by default all public ones."""
    functions = [each for each in shown.members.values() if each.is_function and not each.name.startswith('_')]
    if members:
        functions = [each for each in functions if each.name in re.findall(r'\w+', members)]
    return [each.path for each in (shown, *functions) if not each.has_docstring]
