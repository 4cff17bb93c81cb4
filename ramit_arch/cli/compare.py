"""`basicsr compare`"""

from __future__ import annotations

import argparse
from pathlib import Path

from tqdm import tqdm

from ramit_arch.cli import checks
from ramit_arch.cli.model import choose_option_file
from ramit_arch.cli.pipeline import resolve
from ramit_arch.errors import UserError
from ramit_arch.evaluation import comparison
from ramit_arch.options.lines import raise_problems

SHEET_ROWS = 12


def run(args: argparse.Namespace) -> None:
    """Print each test set's scores beside the baseline's, and write comparison_<set>.{txt,png} to the results."""
    choose_option_file(args)
    opt = resolve(args, args.opt)
    problems = checks.find_problems(opt, training=False) or checks.missing_files(opt, checkpoints=False)
    raise_problems(problems, args.opt, args.force_yml, testing=True)
    folder = Path(args.output, opt['name'])
    for phase, dataset in sorted(opt['datasets'].items()):
        name = dataset['name']
        results = comparison.read_results(folder, name)
        if args.model is not None:
            _check_checkpoint(results['checkpoint'], opt['path']['pretrain_network_g'], folder)
        section = {**dataset, 'phase': phase.split('_')[0], 'scale': opt.get('scale', 1)}
        images = tqdm(
            comparison.compare(section, results, opt['network_g']['type']),
            f'Compare {name}', len(results['images']), unit='image', disable=None,
        )  # fmt: skip
        scores: list[comparison.Scores] = []
        shown: list[comparison.Comparison] = []
        for compared in images:
            scores.append((compared.name, {who: method.scores for who, method in compared.methods.items()}))
            if len(shown) < SHEET_ROWS:
                shown.append(compared)
        text = comparison.table(scores)
        (folder / f'comparison_{name}.txt').write_text(text + '\n', encoding='utf-8')
        picture = folder / f'comparison_{name}.png'
        comparison.sheet(shown).save(picture)
        print(f'\n{name}\n{text}\n\nTable and sheet of crops: {picture.with_suffix(".txt")}, {picture}')


def _check_checkpoint(tested: str | None, asked: str, folder: Path) -> None:
    """Raises UserError if results are those of another checkpoint."""
    if tested is None or Path(tested).expanduser().resolve() != Path(asked).expanduser().resolve():
        text = f'these scores are of {tested}, not of {asked}; run `basicsr test` with it first'
        raise UserError(f'{folder}: {text}')
