"""Mean scores of several methods as tables for a README and for a paper: the best bold, the second best underlined."""

from __future__ import annotations

from typing import NamedTuple

from ramit_arch.evaluation.comparison import Means, Metrics, form, ranks
from ramit_arch.evaluation.text import markdown

LATEX = {
    '\\': r'\textbackslash{}', '&': r'\&', '%': r'\%', '$': r'\$', '#': r'\#', '_': r'\_', '{': r'\{', '}': r'\}',
    '~': r'\textasciitilde{}', '^': r'\textasciicircum{}', '<': r'\textless{}', '>': r'\textgreater{}',
    '|': r'\textbar{}',
}  # fmt: skip
COLUMN = 4  # numbers that fit beside names and costs into one column of a page
COSTS = 'Mult-Adds for a 1280x720 output.'
MARKS = 'Best bold, second best underlined.'


class Cost(NamedTuple):
    """Mult-Adds in G and parameters in K, where they are known."""

    mult_adds: float | None = None
    params: float | None = None

    def cells(self) -> list[str]:
        giga = '' if self.mult_adds is None else f'{self.mult_adds:.{1 if self.mult_adds >= 100 else 2}f}G'
        return [giga, '' if self.params is None else f'{self.params:,.0f}K']


class Summary(NamedTuple):
    """What the tables say.

    Attributes:
        methods: the rows, with their costs.
        sets: mean scores by set.
        metrics: of every set.
        caption: what the scores mean.
    """

    methods: dict[str, Cost]
    sets: dict[str, Means]
    metrics: Metrics
    caption: str


def as_markdown(summary: Summary) -> str:
    """A row a method, a column a set."""
    names = ' / '.join(metric.upper() for metric in summary.metrics)
    head = ['method', 'Mult-Adds', '#Params', *(f'{_plain(name)}: {names}' for name in summary.sets)]
    columns = _marked(summary, {1: '**{}**', 2: '<u>{}</u>'})
    rows = [
        [_plain(title), *cost.cells(), *(' / '.join(columns[name][title]) for name in summary.sets)]
        for title, cost in summary.methods.items()
    ]
    return f'{markdown([head, *rows])}\n\n{summary.caption} {COSTS} {MARKS}\n'


def as_latex(summary: Summary) -> str:
    """A `table` in the style of booktabs; a row a method, a group of columns a set."""
    width, count = len(summary.metrics), len(summary.sets)
    columns = _marked(summary, {1: r'\textbf{{{}}}', 2: r'\underline{{{}}}'})
    groups = [rf'\multicolumn{{{width}}}{{c}}{{{escape(name)}}}' for name in summary.sets]
    rules = [rf'\cmidrule(lr){{{4 + width * i}-{3 + width * (i + 1)}}}' for i in range(count)]
    head = ['Method', 'Mult-Adds', r'\#Params', *[escape(metric.upper()) for metric in summary.metrics] * count]
    rows = [
        [escape(title), *cost.cells(), *(cell for name in summary.sets for cell in columns[name][title])]
        for title, cost in summary.methods.items()
    ]
    environment = 'table*' if width * count > COLUMN else 'table'
    lines = [
        r'% Needs \usepackage{booktabs}.', rf'\begin{{{environment}}}', r'\centering',
        rf'\caption{{{escape(f"{summary.caption} {COSTS} {MARKS}")}}}',
        rf'\begin{{tabular}}{{lrr{"c" * width * count}}}', r'\toprule',
        _line(['', '', '', *groups]), ' '.join(rules), _line(head), r'\midrule', *map(_line, rows), r'\bottomrule',
        r'\end{tabular}', rf'\end{{{environment}}}', '',
    ]  # fmt: skip
    return '\n'.join(lines)


def escape(text: str) -> str:
    """Text for LaTeX."""
    return ''.join(LATEX.get(character, character) for character in text)


def _marked(summary: Summary, marks: dict[int, str]) -> dict[str, dict[str, list[str]]]:
    """The cells by set and method, a cell a metric; ranks are marked."""
    cells: dict[str, dict[str, list[str]]] = {}
    for name, means in summary.sets.items():
        cells[name] = {title: [] for title in summary.methods}
        for metric in summary.metrics:
            values = [means[title][metric] for title in summary.methods]
            for title, value, rank in zip(summary.methods, values, ranks(values, metric, summary.metrics), strict=True):
                cells[name][title].append(marks.get(rank, '{}').format(f'{value:{form(metric)}}'))
    return cells


def _plain(text: str) -> str:
    """Text for a cell of a Markdown table."""
    return ''.join(f'\\{character}' if character in '\\|*`<' else character for character in text)


def _line(cells: list[str]) -> str:
    return ' & '.join(cells) + r' \\'
