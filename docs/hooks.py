"""What MkDocs does for the site beside rendering docs/: `make docs`.

- The home page is the first part of README.md.
- A link whose text is a file's name gets that page's title.
- Code under ```python title="ramit_arch/..." is an excerpt: it must be in that file, and gets its line numbers.
- Whatever a page takes from the code by ::: must exist and have a docstring.
- Files to which README.md and CONTRIBUTING.md link must exist.
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
TITLED = re.compile(r'^ *(?:```|~~~).*title=.*$', re.MULTILINE)  # as an excerpt should begin, however it is written
LINK = re.compile(r'\]\((?!https?:|#)([^)#]+)')
FILE_LINK = re.compile(r'\[[\w-]+\.md\]\(([\w/.-]+\.md)')
FROM_CODE = re.compile(r'^::: *(\S+) *$(?:\n    options: \{members: (.+)\}$)?', re.MULTILINE)
log = logging.getLogger(f'mkdocs.hooks.{__name__}')


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the home page, and check the links of the files that are not on the site."""
    for name in ('README.md', 'CONTRIBUTING.md'):
        for link in LINK.findall((ROOT / name).read_text(encoding='utf-8')):
            if not (ROOT / link).exists():
                log.warning("'%s': there is no %s, to which it links", name, link)
    text = (ROOT / 'README.md').read_text(encoding='utf-8').partition(LAST_OF_HOME)[0]
    text = text.replace('[docs/', '[').replace('](docs/', '](')
    files.append(File.generated(config, 'index.md', content=f'---\nhide: [navigation]\n---\n{text}'))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Number the lines of excerpts, and warn of missing docstrings; in a strict build a warning is an error."""
    where = page.file.src_uri
    for name, members in FROM_CODE.findall(markdown):
        for problem in problems(name, members):
            log.warning("'%s': %s", where, problem)
    for line in set(TITLED.findall(markdown)) - {f'```python title="{file}"' for file, _ in EXCERPT.findall(markdown)}:
        log.warning(
            '\'%s\': %s: an excerpt begins with ```python title="ramit_arch/..." and ends with ```', where, line
        )
    markdown = FILE_LINK.sub(lambda match: f'[{_title(page, match[1])}]({match[1]}', markdown)
    return EXCERPT.sub(lambda match: _numbered(match, where), markdown)


def _title(page: Page, link: str) -> str:
    """The first heading of a linked page; of a broken link, which MkDocs reports, the link."""
    file = (ROOT / 'docs' / page.file.src_uri).parent / link
    return file.read_text(encoding='utf-8').partition('\n')[0].removeprefix('# ') if file.is_file() else link


def _numbered(match: re.Match[str], where: str) -> str:
    file, code = match.groups()
    source = (ROOT / file).read_text(encoding='utf-8') if (ROOT / file).is_file() else ''
    before, found, _ = source.partition(code)
    if not found or not before.endswith('\n'):
        lines = source.splitlines()
        different = next((line for line in code.splitlines() if line not in lines), code.partition('\n')[0])
        log.warning("'%s': an excerpt is not in %s, from this line on: %s", where, file, different.strip())
        return match[0]
    return f'```python title="{file}" linenums="{before.count(chr(10)) + 1}"\n{code}```'


@lru_cache(None)
def _package(name: str) -> griffe.Object | griffe.Alias:
    return griffe.load(name, search_paths=[str(ROOT)], resolve_aliases=True)


def problems(name: str, members: str) -> list[str]:
    """What does not exist or has no docstring: an object, and its named methods, by default all public ones."""
    package, _, rest = name.partition('.')
    try:
        shown = _package(package)[rest] if rest else _package(package)
    except (KeyError, ImportError):
        return [f'there is no {name}']
    own = [each.name for each in shown.members.values() if each.is_function and not each.name.startswith('_')]
    methods = {each.name: each for each in shown.all_members.values() if each.is_function}
    named = re.findall(r'\w+', members.replace('false', '')) if members else own
    unknown = [f'{name} has no method {each}' for each in named if each not in methods]
    known = [shown, *(methods[each] for each in named if each in methods)]
    return unknown + [f'{each.path} has no docstring' for each in known if not each.has_docstring]
