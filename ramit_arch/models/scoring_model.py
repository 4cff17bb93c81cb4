"""Restoring and scoring sets of images, for validation while training and for tests."""

from __future__ import annotations

import math
from collections import Counter
from itertools import zip_longest
from pathlib import Path
from typing import Any, NoReturn

import cv2
import numpy as np
import torch
from basicsr.metrics import calculate_metric
from basicsr.models.sr_model import SRModel
from basicsr.utils import get_root_logger, tensor2img
from basicsr.utils.dist_util import get_dist_info
from torch import nn
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from ramit_arch.errors import UserError
from ramit_arch.evaluation import comparison, comparison_sheet
from ramit_arch.evaluation.protocols import describe
from ramit_arch.evaluation.scores import mean_scores, write_scores
from ramit_arch.files import atomic_write
from ramit_arch.inference.restorer import check_output, restore_whole
from ramit_arch.models.compute import read_compute
from ramit_arch.models.options import CommonFile, Paths, TestFile, TrainFile, Validation
from ramit_arch.options.section import parse

# What BasicSR adds to the options of a run, and we.
ADDED = frozenset('dist rank world_size auto_resume is_train root_path resumed run_state'.split())


def own_options(opt: dict[str, Any]) -> dict[str, Any]:
    """The options of a run as the file has them."""
    paths = {key: value for key, value in opt['path'].items() if key in Paths.model_fields}
    return {**{key: value for key, value in opt.items() if key not in ADDED}, 'path': paths}


class ScoringModel(SRModel):
    """SRModel whose validation follows a protocol, is shared by all processes, and scores every image in a file.

    Its options are `models.options`.
    """

    option_files = (TrainFile, TestFile)

    net_g: nn.Module

    def __init__(self, opt: dict[str, Any]) -> None:
        kind = self.option_files[0] if opt['is_train'] else self.option_files[1]
        self.options: CommonFile = parse(kind, own_options(opt), 'options')
        if isinstance(self.options, TrainFile):
            self.training, self.logging = self.options.train, self.options.logger
        self.scoring = self.options.val or Validation(save_img=False)
        self.metrics = self.scoring.all_metrics(self.options.scale)
        if self.options.val:
            opt['val'] = {**opt['val'], 'metrics': self.metrics}
        if opt['dist']:
            self.control = torch.distributed.new_group(backend='gloo')  # for control messages between CPUs
        super().__init__(opt)
        self.val_compute, line = read_compute(self.scoring, 'val', self.device)
        if self.options.val:
            get_root_logger().info(line)
        self._val_network: tuple[nn.Module, Any] | None = None

    def test(self) -> None:
        # The bare network: in DDP, a process that validates alone would wait for the others.
        net = self.get_bare_model(getattr(self, 'net_g_ema', self.net_g))
        if self._val_network is None or self._val_network[0] is not net:
            if self.val_compute.channels_last:
                net.to(memory_format=torch.channels_last)
            self._val_network = net, self.val_compute.network(net)
        training = net.training
        net.eval()
        with torch.no_grad(), self.val_compute.active():
            lq = self.val_compute.image(self.lq)
            self.output = restore_whole(self._val_network[1], lq, self.options.scale, self.scoring.size_multiple)
        net.train(training)

    def dist_validation(self, dataloader: DataLoader, current_iter: int | str, tb_logger: Any, save_img: bool) -> None:
        self.nondist_validation(dataloader, current_iter, tb_logger, save_img)

    def nondist_validation(
        self, dataloader: DataLoader, current_iter: int | str, tb_logger: Any, save_img: bool
    ) -> None:
        """Restore and score a set: BasicSR's log and images, and the scores of every image as CSV and JSON.

        Several processes take the images in turns, and all have all scores in the end.
        """
        name = dataloader.dataset.opt['name']  # type: ignore[attr-defined]
        if self.is_train:  # BasicSR's loop counts one too many at the end
            current_iter = min(int(current_iter), self.training.total_iter)
        rows = self._restore_all(dataloader, name, current_iter, save_img)
        restored = Counter(row['restored'] for row in rows if 'restored' in row)
        for path, times in restored.items():
            if times > 1:
                raise UserError(f'{path}: duplicate image name in {name}, {times} times; rename all but one')
        metrics = list(self.metrics)
        if not metrics or not rows or 'gt' not in rows[0]:
            return
        self.metric_results = mean_scores(rows, metrics)
        if self.is_train:
            self._initialize_best_metric_results(name)
            for metric, value in self.metric_results.items():
                self._update_best_metric_result(name, metric, value, current_iter)
            self.scored(name, int(current_iter))
        self._log_validation_metric_values(current_iter, name, tb_logger)
        if get_dist_info()[0] == 0:
            self._write_scores(dataloader.dataset.opt, rows, current_iter)  # type: ignore[attr-defined]

    def _restore_all(
        self, dataloader: DataLoader, name: str, current_iter: int | str, save_img: bool
    ) -> list[dict[str, Any]]:
        """The scores of all images, in their order."""
        rank, processes = get_dist_info()
        if processes > 1:
            share = range(rank, len(dataloader.dataset), processes)  # type: ignore[arg-type]
            dataloader = DataLoader(Subset(dataloader.dataset, share), batch_size=1)
        quiet = rank > 0 or not self.scoring.pbar
        rows, number = [], 0
        # None: on a terminal only
        progress = tqdm(dataloader, desc=f'Test {name}', unit='image', leave=False, disable=True if quiet else None)
        for i, data in enumerate(progress):
            number = self.asked_to_stop()
            if number:
                break
            in_strip = self.is_train and rank + i * processes < self.scoring.strips
            rows.append(self._restore_and_score(data, name, current_iter, save_img, in_strip))
        if processes > 1:  # also those that were asked to stop: the others wait here
            shares: list[tuple[list[dict[str, Any]], int]] = [([], 0)] * processes
            torch.distributed.all_gather_object(shares, (rows, number), self.control)
            rows = [row for turn in zip_longest(*(share for share, _ in shares)) for row in turn if row is not None]
            number = max(number for _, number in shares)
        if number:
            self.leave(int(current_iter), number)
        return rows

    def asked_to_stop(self) -> int:
        """The number of the signal that asks this process to stop, or 0; seen between two images."""
        return 0

    def leave(self, iteration: int, number: int) -> NoReturn:
        """End all processes after such a signal."""
        raise SystemExit(128 + number)

    def scored(self, dataset: str, current_iter: int) -> None:
        """Called when a set is scored while training, with `best_metric_results` up to date."""

    def _restore_and_score(
        self, data: dict[str, Any], name: str, current_iter: int | str, save_img: bool, in_strip: bool
    ) -> dict[str, Any]:
        self.feed_data(data)
        try:
            self.test()
            if 'gt' in data:
                check_output(self.output, self.gt)
        except Exception:
            width, height = self.lq.shape[:1:-1]
            get_root_logger().error(
                f'Failed on {data["lq_path"][0]} of {name}, {width}x{height}; for a network that needs multiples of a '
                'size, set val.size_multiple.'
            )
            raise
        restored = tensor2img(self.output)
        row: dict[str, Any] = {'image': Path(data.get('gt_path', data['lq_path'])[0]).stem, 'lq': data['lq_path'][0]}
        if 'gt' in data:
            row['gt'] = data.get('gt_path', data['lq_path'])[0]
            images = {'img': restored, 'img2': tensor2img(self.gt)}
            for metric in self.metrics:
                row[metric] = self._score(metric, images, f'{row["image"]} of {name}')
                if math.isnan(row[metric]):
                    get_root_logger().warning(f'{row["image"]}: too small for {metric}, so the mean is NaN.')
            if in_strip:
                self._draw_strip(row, data, restored, name, int(current_iter))
            del self.gt
        del self.lq, self.output
        if save_img:
            path = self._image_path(Path(data['lq_path'][0]).stem, name, current_iter)
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(path, cv2.imencode('.png', restored)[1].tobytes())
            row['restored'] = str(path)
        return row

    def _score(self, metric: str, images: dict[str, Any], what: str) -> float:
        try:
            return float(calculate_metric(images, self.metrics[metric]))
        except Exception as error:  # whatever another package's metric raises
            text = str(error).strip().partition('\n')[0]
            raise UserError(f'val.metrics.{metric} cannot score {what} ({type(error).__name__}: {text})') from error

    def _draw_strip(
        self, row: dict[str, Any], data: dict[str, Any], restored: np.ndarray, name: str, iteration: int
    ) -> None:
        item = {key: data[key][0] for key in ('lq', 'gt')}
        shown = comparison.beside_baseline(row['image'], item, self.options.scale, self.metrics)
        scores = {metric: row[metric] for metric in self.metrics}
        shown.methods[f'{iteration:,}'] = comparison.Restoration(restored, scores)
        folder = self._image_path(Path(row['lq']).stem, name, iteration).parent
        comparison_sheet.add_to_strip(folder / 'strip', iteration, shown)

    def _image_path(self, image: str, name: str, current_iter: int | str) -> Path:
        folder = Path(self.opt['path']['visualization'])
        if not image.strip('.'):  # a key of an LMDB can be anything
            raise UserError(f'{image!r} of {name} is no file name for the results; rename the image')
        if self.is_train:
            return folder / name / image / f'{image}_{current_iter}.png'
        return folder / name / f'{image}_{self.scoring.suffix or self.options.name}.png'

    def _write_scores(self, section: dict[str, Any], rows: list[dict], current_iter: int | str) -> None:
        name = section['name']
        stem = f'{name}_{current_iter}' if self.is_train else name
        multiple = getattr(self.get_bare_model(self.net_g), 'size_multiple', None)
        protocol = {
            'name': self.options.name,
            'dataset': name,
            'scale': self.options.scale,
            'iteration': current_iter if self.is_train else None,
            'checkpoint': None if self.is_train else self.options.path.pretrain_network_g,
            'bf16': self.val_compute.bf16,
            'tf32': self.val_compute.tf32,
            'network_g': self.opt['network_g'],
            **describe(self.scoring.protocol, self.metrics, section.get('sigma'), multiple),
        }
        write_scores(Path(self.opt['path']['log'], 'scores', stem), protocol, rows, list(protocol['metrics']))
