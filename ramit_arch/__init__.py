"""RAMiT for BasicSR. Importing this package makes BasicSR importable and registers the networks, the datasets and the
model with it; `load_network` and `Restorer` restore pictures without it."""

from importlib.metadata import version

from ramit_arch import compat

compat.repair()

from ramit_arch.archs.davit_arch import DaViTCore, DaViTFull  # noqa: E402
from ramit_arch.archs.iptv2_arch import IPTV2  # noqa: E402
from ramit_arch.archs.laformer_arch import LAformer  # noqa: E402
from ramit_arch.archs.ramit_arch import RAMiT  # noqa: E402
from ramit_arch.data.gaussian_denoising_dataset import GaussianDenoisingDataset  # noqa: E402
from ramit_arch.data.paired_restoration_dataset import PairedRestorationDataset  # noqa: E402
from ramit_arch.inference.networks import load_network  # noqa: E402
from ramit_arch.inference.restorer import Restorer  # noqa: E402
from ramit_arch.models.ramit_model import RAMiTModel  # noqa: E402

__version__ = version('ramit-arch')
__all__ = [
    'IPTV2',
    'DaViTCore',
    'DaViTFull',
    'GaussianDenoisingDataset',
    'LAformer',
    'PairedRestorationDataset',
    'RAMiT',
    'RAMiTModel',
    'Restorer',
    '__version__',
    'load_network',
]
