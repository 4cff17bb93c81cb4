"""A training of BasicSR's own model by its own loop, as a script of a user's: with this package, or without it.

    python foreign.py with|without STARTING_METHOD -opt FILE

`FAIL=validation` in the environment makes the validation raise an error. A number for every batch goes to stdout.
Without the package, BasicSR gets only the two repairs without which it cannot be imported beside a recent torchvision.
"""

import importlib
import multiprocessing
import os
import sys
import types
from pathlib import Path

if sys.argv[1] == 'with':
    import ramit_arch  # noqa: F401
else:
    package = sys.modules['ramit_arch'] = types.ModuleType('ramit_arch')  # without running its __init__
    package.__path__ = [str(Path(__file__).parents[1] / 'ramit_arch')]
    compat = importlib.import_module('ramit_arch.compat')
    compat.repair_torchvision_operators()
    compat.repair_functional_tensor()

from basicsr.models.sr_model import SRModel
from basicsr.train import train_pipeline
from basicsr.utils.registry import MODEL_REGISTRY


@MODEL_REGISTRY.register()
class Recorder(SRModel):
    """SRModel that prints a number for every batch."""

    def optimize_parameters(self, current_iter):
        print('batch', tuple(self.lq.shape), self.lq.double().sum().item(), flush=True)
        super().optimize_parameters(current_iter)

    def nondist_validation(self, dataloader, current_iter, tb_logger, save_img):
        if os.environ.get('FAIL') == 'validation':
            raise ValueError('the validation fails')
        super().nondist_validation(dataloader, current_iter, tb_logger, save_img)


if __name__ == '__main__':
    multiprocessing.set_start_method(sys.argv[2])
    del sys.argv[1:3]
    train_pipeline(str(Path.cwd()))
