"""RAMiT and its relatives in spandrel, the model loader behind chaiNNer and ComfyUI.

Call `install` before loading a file, which `basicsr export` has written:

    import ramit_arch.spandrel
    from spandrel import ModelLoader

    ramit_arch.spandrel.install()
    model = ModelLoader().load_from_file('mine.safetensors')
"""

from __future__ import annotations

from typing import Any

from basicsr.utils.registry import ARCH_REGISTRY
from spandrel import (  # type: ignore[import-untyped]
    MAIN_REGISTRY,
    Architecture,
    ArchSupport,
    ImageModelDescriptor,
    ModelTiling,
    SizeRequirements,
)
from torch import Tensor, nn

from ramit_arch.archs.image_network import ImageNetwork
from ramit_arch.errors import UserError
from ramit_arch.inference.checkpoints import DESCRIPTION, unpack_description
from ramit_arch.inference.networks import build, describe, matching_tasks


def install() -> None:
    """Register networks with spandrel: those of this package, and any that infer their options from weights."""
    for name, network in ARCH_REGISTRY:
        if issubclass(network, ImageNetwork) or hasattr(network, 'options_from'):
            MAIN_REGISTRY.add(ArchSupport.from_architecture(RegisteredArch(name)), ignore_duplicates=True)


class RegisteredArch(Architecture[nn.Module]):
    """A registered network, of which a state dict with the description of `basicsr export`, or else the shapes of the
    weights, give the arguments.

    Args:
        name: under which it is registered.
    """

    def __init__(self, name: str) -> None:
        super().__init__(id=name, detect=self._is_its)
        self.network = ARCH_REGISTRY.get(name)

    def _is_its(self, weights: dict[str, Any]) -> bool:
        if DESCRIPTION in weights:
            return unpack_description(weights[DESCRIPTION])['network_g'].get('type') == self.name
        return bool(matching_tasks(self.network, weights))

    def load(self, weights: dict[str, Any]) -> ImageModelDescriptor[nn.Module]:
        """The network with these weights.

        Raises:
            UserError: the weights do not tell the task, on which the normalisation depends.
        """
        weights = dict(weights)
        known = self._described(weights.pop(DESCRIPTION, None), weights)
        network = build(known['network_g'], self.name)
        parameters = sum(parameter.numel() for parameter in network.parameters())
        tags = [f'{parameters / 1000:.0f}K', *([known['task']] if known['task'] else [])]
        scale, channels = known['scale'], getattr(network, 'in_chans', 3)
        return ImageModelDescriptor(
            network, weights, self, 'SR' if scale > 1 else 'Restoration', tags,
            supports_half=False,  # sums over all pixels leave its range
            supports_bfloat16=True, scale=scale, input_channels=channels, output_channels=channels,
            size_requirements=SizeRequirements(),  # it pads by itself
            tiling=ModelTiling.SUPPORTED,
        )  # fmt: skip

    def _described(self, stored: Tensor | None, weights: dict[str, Any]) -> dict[str, Any]:
        if stored is not None:
            return unpack_description(stored)
        tasks = matching_tasks(self.network, weights)
        if len(tasks) != 1:
            text = 'the weights do not tell for which, and the normalisation depends on it'
            command = f'basicsr export -m FILE --task {tasks[0]} --to FILE.safetensors'
            raise UserError(f'a {self.name} for {" or ".join(tasks)}; {text}: {command}')
        options = self.network.options_from(weights, tasks[0])
        return describe({'type': self.name, **options}, options.get('upscale', 1), tasks[0])
