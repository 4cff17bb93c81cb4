"""The documentation site, opened from a disk: all pages, search, and nothing from other hosts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT, needs_browser

pytest.importorskip('mkdocs', reason='needs MkDocs, which `make docs` installs')
pytestmark = needs_browser
LOCAL = ('file:', 'data:', 'about:')


@pytest.fixture(scope='module')
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('site')
    command = [sys.executable, '-m', 'mkdocs', 'build', '-q', '-d', str(folder)]
    subprocess.run(command, cwd=ROOT, env={**os.environ, 'NO_MKDOCS_2_WARNING': '1'}, check=True)
    return folder


@pytest.fixture
def page(browser: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A window that fails the test if a page asks another host, or its script raises an error."""
    context = browser.new_context(viewport={'width': request.param, 'height': 844})
    page, faults = context.new_page(), []
    page.on('request', lambda each: faults.append(each.url) if not each.url.startswith(LOCAL) else None)
    page.on('pageerror', lambda error: faults.append(str(error)))
    yield page
    context.close()
    assert faults == []


@pytest.mark.parametrize('page', [1280, 390], indirect=True)
def test_every_page_fits_the_screen_and_shows_its_pictures(page: Any, site: Path) -> None:
    files = sorted(site.rglob('*.html'))
    assert len(files) > 25
    for file in files:
        page.goto(file.as_uri())
        assert page.evaluate('document.documentElement.scrollWidth - innerWidth') <= 0, file.name
        broken = page.evaluate('[...document.images].filter(each => !each.naturalWidth).map(each => each.src)')
        assert broken == [], file.name


@pytest.mark.parametrize('page', [1280], indirect=True)
def test_search_finds_a_section(page: Any, site: Path) -> None:
    page.goto((site / 'index.html').as_uri())
    page.locator('.md-search__input').click()
    page.locator('.md-search__input').press_sequentially('reciprocal helper')
    results = page.locator('.md-search-result__item')
    results.first.wait_for()
    assert 'Reciprocal helper' in results.first.text_content()
