"""Every option file: it names what it says, agrees with the paper, and runs on a tiny generated set."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml
from basicsr.archs import build_network
from helpers import ROOT, call_basicsr, schedule_of, write_lmdb, write_options, write_pairs

from ramit_arch import options
from ramit_arch.cli import checks
from ramit_arch.data.progression import read_progression
from ramit_arch.evaluation.complexity import complexity
from ramit_arch.evaluation.protocols import PROTOCOLS
from ramit_arch.evaluation.tables import Table, paper_tables
from ramit_arch.options import rows

ABLATIONS = ROOT / 'options' / 'ablations.yml'
RELATIVES = [ROOT / 'options' / 'relatives.yml', ROOT / 'options' / 'relatives_tiny.yml']
ROWS = rows.rows(options.read(ABLATIONS))
FILES = sorted(file for file in (ROOT / 'options').glob('*.yml') if file not in (ABLATIONS, *RELATIVES))
TRAIN = [file for file in FILES if not file.name.startswith('test_')]
TEST = [file for file in FILES if file.name.startswith('test_')]
PACKAGED = [file for file in TRAIN if 'RAMiT-tiny' in file.name]  # of the packaged networks, which tests take by -m
PAPER = [file for file in TRAIN if file.name.startswith('train_') and file not in PACKAGED]
SUPER_RESOLUTION = [file for file in PAPER if '_SRx' in file.name]
OTHERS = [file for file in PAPER if file not in SUPER_RESOLUTION]
# Images an epoch (Appendix B); the tasks beyond the paper follow deraining.
IMAGES = {'CDN': 8594 * 3.0, 'GDN': 8594 * 3.0, 'LLE': 1785 * 14.006, 'DR': 13711 * 1.8234,
          'DB': 2103 * 11.888, 'DH': 13990 * 1.787, 'RDN': 320 * 78.125}  # fmt: skip


def named(files: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize('file', files, ids=[file.stem for file in files])


def task_of(opt: dict) -> str:
    return opt['val']['protocol']


def of_training(test: Path) -> Path:
    return test.with_name('train_' + test.name.removeprefix('test_'))


def experiments() -> dict[str, list[Table]]:
    """The experiments that rows of the paper's tables name."""
    found: dict[str, list[Table]] = {}
    for table in paper_tables():
        for row in table.rows:
            if row.experiment:
                found.setdefault(row.experiment, []).append(table)
    return found


# ------------------------------------------------------------------------------------------------------ what they say


def test_every_row_of_the_papers_tables_can_be_run() -> None:
    files = {'train': PAPER, 'test': TEST}
    names = {kind: {*(options.load(file)['name'] for file in files[kind]), *ROWS} for kind in files}
    assert len(experiments()) > 60
    assert experiments().keys() <= names['train']
    assert experiments().keys() <= names['test']
    # Fig. B, and the published RAMiT-1 checkpoints, which no table scores
    assert {f'RAMiT_CDN_tail{n}' for n in (0, 1, 3)} <= names['train'] & names['test']
    assert {f'RAMiT-1_{task}' for task in ('SRx2', 'SRx3', 'SRx4', 'CDN')} <= names['test']


def test_documentation_lists_every_experiment() -> None:
    listed = set(re.findall(r'^\| `(.+?)`', (ROOT / 'docs' / 'experiments.md').read_text(), re.MULTILINE))
    names = {options.load(file)['name'] for file in [*PAPER, *TEST] if 'quickstart' not in file.name}
    assert listed == names | ROWS.keys()


def test_names_are_those_of_the_files_and_none_twice() -> None:
    for files in (PAPER, TEST):
        names = [options.load(file)['name'] for file in files]
        assert len(set(names)) == len(names)
    assert all(options.load(file)['name'] == file.stem.removeprefix('train_') for file in PAPER)


@named(FILES)
def test_file_shows_the_command_that_runs_it(file: Path) -> None:
    verb = 'test' if file.name.startswith('test_') else 'train'
    assert re.search(f'basicsr {verb} -opt {file.relative_to(ROOT)}( |\n)', file.read_text())


@named([file for file in TRAIN if file not in PACKAGED])
def test_training_and_test_file_describe_the_same_network(file: Path) -> None:
    test = file.with_name('test_' + file.name.removeprefix('train_'))
    training, testing = options.load(file), options.load(test)
    for key in ('name', 'scale', 'network_g'):
        assert training[key] == testing[key]
    assert task_of(training) == task_of(testing)
    assert testing['path']['pretrain_network_g'] == f'experiments/{training["name"]}/models/net_g_latest.pth'


@pytest.mark.parametrize('name', ROWS)
def test_row_changes_only_what_it_says_and_restores_with_its_own_network(name: str) -> None:
    _, variant, task, section, _ = ROWS[name]
    training, testing = (options.load(f'{ABLATIONS}::{name}', testing) for testing in (False, True))
    base = options.load(ROOT / 'options' / f'train_RAMiT_{task}.yml')
    assert training['name'] == testing['name'] == name
    assert training['network_g'] == testing['network_g']
    changed = {key for key in training if training[key] != base[key]} - {'name'}
    own = section.keys() - {'source', 'tasks'}
    assert changed == own | ({'path'} if task in ('SRx3', 'SRx4') else set())
    if task in ('SRx3', 'SRx4'):  # warm start from the same variant
        assert training['path']['pretrain_network_g'] == f'experiments/RAMiT_SRx2_{variant}/models/net_g_latest.pth'
    assert testing['path']['pretrain_network_g'] == f'experiments/{name}/models/net_g_latest.pth'
    assert not checks.find_problems(training, training=True)
    assert not checks.find_problems(testing, training=False)


@named(SUPER_RESOLUTION)
def test_training_of_super_resolution_is_that_of_appendix_b(file: Path) -> None:
    opt = options.load(file)
    train, data = opt['train'], opt['datasets']['train']
    images = 3450 if 'DF2K' in file.name else 800
    assert int(images * (data.get('repeat') or 1) + 1e-6) == 64000
    assert (data['batch_size_per_gpu'], data['lq_patch_size'], train['lr_batch_size']) == (64, 64, 64)
    schedule = schedule_of({**opt, 'dist': False, 'world_size': 1, 'num_gpu': 1})
    epoch = 1000
    if opt['scale'] == 2:
        milestones, epochs, warm_start = (200, 300, 400, 425, 450, 475), 500, 0
    else:
        milestones, epochs, warm_start = (50, 100, 150, 175, 200, 225), 300, 50
        source = re.sub('SRx[34]', 'SRx2', opt['name'])
        assert opt['path']['pretrain_network_g'] == f'experiments/{source}/models/net_g_latest.pth'
    assert schedule.milestones == tuple(m * epoch for m in milestones)
    assert (schedule.rates, schedule.gamma, schedule.warmup) == ((0.0004,), 0.5, 20 * epoch)
    assert (train['total_iter'], schedule.warm_start) == (epochs * epoch, warm_start * epoch)


@named(OTHERS)
def test_progressive_training_is_that_of_appendix_b(file: Path) -> None:
    opt = options.load(file)
    place = {'dist': False, 'world_size': 1, 'num_gpu': 1}
    progression, schedule = read_progression({**opt, **place}), schedule_of({**opt, **place})
    epoch = int(IMAGES[task_of(opt)] + 1e-6)
    assert [(stage.patch, stage.batch) for stage in progression.stages] == [(64, 64), (96, 32), (128, 16)]
    assert schedule.rates == pytest.approx((4e-4, 2e-4, 1e-4))

    def iterations(epochs: float) -> float:
        return sum(max(0, min(epochs, end) - begin) * epoch / batch
                   for begin, end, batch in [(0, 100, 64), (100, 200, 32), (200, 400, 16)])  # fmt: skip

    assert progression.ends == pytest.approx([iterations(e) for e in (100, 200, 400)], abs=1.5)
    assert schedule.milestones == pytest.approx([iterations(e) for e in (200, 300, 350, 375)], abs=1.5)
    assert schedule.milestones[0] == progression.ends[1]
    assert (schedule.gamma, schedule.warmup) == (0.5, pytest.approx(iterations(20), abs=1))


@named(PAPER)
def test_optimiser_and_loss_are_the_papers(file: Path) -> None:
    train = options.load(file)['train']
    optimiser = train['optim_g']
    assert (optimiser['type'], optimiser['betas'], optimiser['eps']) == ('Adam', [0.9, 0.99], 1e-8)
    assert train['pixel_opt']['type'] == 'L1Loss'


@named(TEST)
def test_test_sets_are_those_of_the_protocol(file: Path) -> None:
    opt = options.load(file)
    if 'quickstart' in file.name:
        return
    protocol = PROTOCOLS[task_of(opt)]
    wanted = {(name, sigma) for name in protocol.sets for sigma in protocol.sigmas or (None,)}
    sections = opt['datasets'].values()
    assert {(s['name'].split('_sigma')[0], s.get('sigma')) for s in sections} == wanted
    assert all(s['name'].endswith(f'_sigma{s["sigma"]}') for s in sections if 'sigma' in s)


@pytest.mark.parametrize('experiment', experiments())
def test_network_costs_what_the_tables_print(experiment: str) -> None:
    network = options.load(find(experiment))['network_g']
    cost = complexity(checks.build(network), network.get('in_chans', 3), network['upscale'])
    for table in experiments()[experiment]:
        row = next(row for row in table.rows if row.experiment == experiment)
        if row.params is not None:  # 949K stands for the 948,499 parameters at x3
            assert abs(cost.parameters / 1e3 - row.params) <= 0.51
        if row.mult_adds is not None:
            assert cost.mult_adds / 1e9 == pytest.approx(row.mult_adds, rel=0.0055)


def find(experiment: str) -> str:
    return f'{ABLATIONS}::{experiment}' if experiment in ROWS else f'{ROOT}/options/train_{experiment}.yml'


@named(FILES)
def test_network_is_the_one_the_comment_counts(file: Path) -> None:
    parameters = sum(p.numel() for p in checks.build(options.load(file)['network_g']).parameters())
    comment = re.search(r'([\d,]+)K parameters', file.read_text())
    assert comment is None or int(comment[1].replace(',', '')) == round(parameters / 1000)


def test_resolved_files_stay_yaml_that_basicsr_reads() -> None:
    from basicsr.utils.options import ordered_yaml

    for file in FILES:
        opt = options.load(file)
        assert yaml.load(options.dump(opt), Loader=ordered_yaml()[0]) == opt


# ------------------------------------------------------------------------------------- every file runs, data replaced


@pytest.fixture(scope='module')
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp('generated')


TINY = {'dim': 16, 'depths': [1, 1, 1, 2], 'window_size': 2, 'expand_groups': 1, 'mixer_expand_groups': 1}


def shrink(opt: dict, network: dict) -> None:
    """Two iterations with a network, patches and batches of a size that suits a test; the kind of everything stays."""
    opt['network_g'].update(network)
    opt['num_gpu'] = 0
    train = opt['datasets']['train']
    train.update(num_worker_per_gpu=0, persistent_workers=False, repeat=1.5)
    if 'progressive' in opt['train']:
        stages = zip(opt['train']['progressive'][-2:], (8, 12), (2, 1), strict=True)
        opt['train']['progressive'] = [
            {**stage, 'iter': 1, 'lq_patch_size': p, 'batch_size': b} for stage, p, b in stages
        ]
    else:
        train.update(lq_patch_size=8, batch_size_per_gpu=2)
    opt['train'].update(total_iter=2)
    opt['train']['scheduler']['milestones'] = [1]
    if 'warm_start' in opt['train']:
        opt['train']['warm_start'] = {'iter': 1}
    opt['val']['val_freq'] = opt['logger']['save_checkpoint_freq'] = opt['logger']['print_freq'] = 2
    opt['logger']['use_tb_logger'] = False


def replace_data(section: dict, folder: Path, scale: int) -> None:
    """Point a section at generated images, through its own backend, roots and name template."""
    section['io_backend'] = {'type': section.get('io_backend', {}).get('type', 'disk').replace('raw', 'disk')}
    backend, template = section['io_backend']['type'], section.get('filename_tmpl', '{}')
    place = folder / f'x{scale}_{backend}_{template}'
    suffix = '.lmdb' if backend == 'lmdb' else ''
    if not place.exists():
        gt, lq = write_pairs(place, count=2, lq=(16, 18), scale=scale)
        for path in list(lq.iterdir()):
            path.rename(path.with_stem(template.format(path.stem)))
        if suffix:
            write_lmdb(gt, place / 'gt.lmdb')
            write_lmdb(lq, place / 'lq.lmdb')
    for root in section.get('roots') or [section]:
        root['dataroot_gt'] = str(place / f'gt{suffix}')
        if 'dataroot_lq' in root:
            root['dataroot_lq'] = str(place / f'lq{suffix}')


def run_training(file: Path | str, generated: Path, folder: Path, network: dict = TINY) -> dict:
    opt = options.load(file)
    shrink(opt, network)
    for section in opt['datasets'].values():
        replace_data(section, generated, opt['scale'])
    if opt['path'].get('pretrain_network_g'):  # the x2 network the warm start needs
        opt['path']['pretrain_network_g'] = str(folder / 'x2.pth')
        network = build_network({**opt['network_g'], 'upscale': 2})
        torch.save({'params': network.state_dict()}, folder / 'x2.pth')
    write_options(folder / 'train.yml', opt)
    result = call_basicsr('train', '-opt', 'train.yml', cwd=folder)
    assert result.returncode == 0, result.stderr
    experiment = folder / 'experiments' / opt['name']
    assert (experiment / 'scores' / f'{opt["datasets"]["val"]["name"]}_2.csv').is_file()
    return opt


@named(TRAIN)
def test_file_trains_two_iterations_validates_and_its_test_file_tests(
    file: Path, generated: Path, tmp_path: Path
) -> None:
    trained = run_training(file, generated, tmp_path)
    if file not in PACKAGED:
        run_test(file.with_name('test_' + file.name.removeprefix('train_')), trained['network_g'], generated, tmp_path)


@pytest.mark.parametrize('file', RELATIVES, ids=[file.stem for file in RELATIVES])
def test_rows_of_the_relatives_change_only_what_they_say(file: Path) -> None:
    for name, row in rows.rows(options.read(file)).items():
        training, base = (
            options.load(f'{file}::{name}'),
            options.load(rows.base_of(file, options.read(file), name, False)),
        )
        of_base = rows.OF_TASK if row.kind == 'networks' else base['network_g']
        assert name == training['name']
        changed = {key for key in training if training[key] != base[key]}
        own = row.section.keys() - {'source', 'tasks'}
        assert changed == {'name', *own} | ({'path'} if training['path'] else set())
        assert all({**base[key], **row.section[key]} == training[key] for key in own - {'network_g'})
        own_network = row.section['network_g']
        kept = {key: value for key, value in base['network_g'].items() if key in of_base and key not in own_network}
        assert training['network_g'] == {**kept, **own_network}
        if row.task in ('SRx3', 'SRx4'):
            assert training['path']['pretrain_network_g'].startswith(f'experiments/{row.variant}_SRx2/')
        assert not checks.find_problems(training, training=True)


@pytest.mark.parametrize(('name', 'network'), [
    ('LAformer_DR', {'dim': 8, 'depth': 1}),
    ('IPTV2_SRx4', {'dim': 4, 'depths': [1, 1, 1], 'num_heads': [1, 1, 1], 'window_size': 2, 'grid_size': [2, 1, 1]}),
])  # fmt: skip
def test_network_in_place_of_ramit_trains_and_is_tested(
    name: str, network: dict, generated: Path, tmp_path: Path
) -> None:
    trained = run_training(f'{RELATIVES[0]}::{name}', generated, tmp_path, network)
    run_test(f'{RELATIVES[0]}::{name}', trained['network_g'], generated, tmp_path)


def test_network_of_x4_needs_a_row_for_x2(tmp_path: Path) -> None:
    section = '{source: mine, tasks: [SRx4], network_g: {type: LAformer}}'
    (tmp_path / 'mine.yml').write_text(f'experiment: RAMiT\nnetworks: {{Mine: {section}}}\n')
    (tmp_path / 'train_RAMiT_SRx4.yml').write_text((ROOT / 'options' / 'train_RAMiT_SRx4.yml').read_text())
    text = call_basicsr('check', '-opt', 'mine.yml::Mine_SRx4', cwd=tmp_path).stderr
    assert text == 'error: Mine_SRx4 starts from Mine_SRx2; add SRx2 to the tasks of Mine\n'


def test_row_without_a_test_file_is_tested_by_another(tmp_path: Path) -> None:
    result = call_basicsr('test', '-opt', f'{RELATIVES[1]}::IPTV2-tiny_SRx2', cwd=tmp_path)
    assert 'IPTV2-tiny_SRx2 has no test_RAMiT-tiny_SRx2.yml; test it by another file' in result.stderr


def test_errors_in_a_row_name_the_file_of_its_task_and_verb(tmp_path: Path) -> None:
    for verb, kind in [('train', 'train'), ('test', 'test')]:
        row = f'{ABLATIONS}::RAMiT_CDN_gelu'
        text = call_basicsr(verb, '-opt', row, '--force_yml', 'name=a', cwd=tmp_path).stderr
        assert f'options/{kind}_RAMiT_CDN.yml:' in text
        assert f'options/{"test" if kind == "train" else "train"}_RAMiT_CDN.yml:' not in text


def test_a_malformed_ablation_file_is_one_error(tmp_path: Path) -> None:
    (tmp_path / 'mine.yml').write_text('ablations: {wide: {tasks: SRx2, network_g: {dim: 96}}}\n')
    text = call_basicsr('options', 'mine.yml', cwd=tmp_path).stderr
    assert text == (
        'error: row file: experiment is missing; ablations.wide.source is missing; '
        "ablations.wide.tasks is 'SRx2'; it must be a list of texts\n"
    )


def test_a_row_of_the_ablations_trains_and_is_tested(generated: Path, tmp_path: Path) -> None:
    name = 'RAMiT_SRx4_DaViT-full'
    trained = run_training(f'{ABLATIONS}::{name}', generated, tmp_path)
    run_test(f'{ABLATIONS}::{name}', trained['network_g'], generated, tmp_path)


@named([file for file in TEST if not of_training(file).exists() and 'quickstart' not in file.name])
def test_file_without_a_training_tests_a_checkpoint(file: Path, generated: Path, tmp_path: Path) -> None:
    opt = options.load(file)
    network = {**opt['network_g'], 'dim': 16, 'depths': [1, 1, 1, 1], 'window_size': 2, 'expand_groups': 1}
    checkpoint = tmp_path / opt['path']['pretrain_network_g']
    checkpoint.parent.mkdir(parents=True)
    torch.save(build_network(dict(network)).state_dict(), checkpoint)
    run_test(file, network, generated, tmp_path)


def run_test(file: Path | str, network: dict, generated: Path, folder: Path) -> None:
    test = options.load(file, testing=True)
    for section in test['datasets'].values():
        replace_data(section, generated, test['scale'])
    test.update(num_gpu=0, network_g=network)
    write_options(folder / 'test.yml', test)
    result = call_basicsr('test', '-opt', 'test.yml', cwd=folder)
    assert result.returncode == 0, result.stderr
    assert 'Warning' not in result.stderr
    scores = {path.stem for path in (folder / 'results' / test['name'] / 'scores').glob('*.csv')}
    assert scores == {section['name'] for section in test['datasets'].values()}
