"""Score files: what a validation measured, image by image, as CSV to compare and JSON with the protocol."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from statistics import fmean
from typing import Any

from ramit_arch.files import atomic_write

ROW_KEYS = ('image', 'lq', 'gt', 'restored')  # what a row has beside its metrics


def write_scores(stem: Path, protocol: dict[str, Any], rows: list[dict[str, Any]], metrics: list[str]) -> None:
    """Write `<stem>.csv` and `<stem>.json`, both or their former contents at any moment.

    Args:
        stem: path without suffix; its folder is created.
        protocol: what the scores mean: dataset, checkpoint, options of every metric.
        rows: one dictionary an image, with `image` and a float for every metric, other keys for the JSON alone.
        metrics: names of the metrics, in the order of the columns.
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    table = io.StringIO(newline='')
    writer = csv.writer(table, lineterminator='\n')
    writer.writerow(['image', *metrics])
    writer.writerows([row['image'], *(f'{row[metric]:.6f}' for metric in metrics)] for row in rows)
    means = mean_scores(rows, metrics)
    writer.writerow(['mean', *(f'{means[metric]:.6f}' for metric in metrics)])
    atomic_write(stem.with_name(f'{stem.name}.csv'), table.getvalue().encode())
    content = {**protocol, 'mean': means, 'images': rows}
    text = json.dumps(content, indent=1, ensure_ascii=False) + '\n'
    atomic_write(stem.with_name(f'{stem.name}.json'), text.encode())


def mean_scores(rows: list[dict[str, Any]], metrics: list[str]) -> dict[str, float]:
    """Mean of every metric over the images."""
    return {metric: fmean(row[metric] for row in rows) for metric in metrics}
