"""Base class of restoration networks: normalisation, padding, cropping and the global residual connection."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from ramit_arch.archs.layers import require, symmetric_pad

Upscale = Annotated[int, Ge(1), Le(64)]
Channels = Literal[1, 3]
Mean = Sequence[float]
Std = Sequence[Annotated[float, Gt(0)]]
MEAN, STD = (0.4485, 0.4375, 0.4045), (0.2397, 0.2290, 0.2389)  # of DIV2K at x2 (RAMiT, Appendix B)


class ImageNetwork(nn.Module, ABC):
    """A network for images of any size, from 1x1 up.

    Args:
        upscale: factor of super-resolution; 1 keeps the size and adds the input to the output.
        in_chans: channels of input and output, 3 for RGB and 1 for gray.
        size_multiple: `restore` needs H and W that are multiples of this.
        img_mean: mean of the training images by channel, of values in [0, 1].
        img_std: their standard deviation by channel.

    Raises:
        ValueError: `img_mean` or `img_std` does not have one number for each channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, upscale: int, in_chans: int, size_multiple: int, img_mean: Mean, img_std: Std) -> None:
        super().__init__()
        for key, values in [('img_mean', img_mean), ('img_std', img_std)]:
            require(len(values) == in_chans, key, values, f'a list of {in_chans}, one number a channel')
        self.upscale = upscale
        self.in_chans = in_chans
        self.size_multiple = size_multiple
        for key, values in [('mean', img_mean), ('std', img_std)]:
            value = torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1)
            self.register_buffer(key, value, persistent=False)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Activation checkpointing of every block: less memory in training, slower."""
        for module in self.modules():
            if hasattr(module, 'checkpointing'):
                module.checkpointing = enable  # type: ignore[assignment]

    @abstractmethod
    def restore(self, image: Tensor) -> Tensor:
        """Normalised image (N, C, H, W), H and W multiples of `size_multiple` -> (N, C, H * upscale, W * upscale)."""

    def forward(self, image: Tensor) -> Tensor:
        """Restore images.

        Args:
            image: (N, in_chans, H, W), RGB or gray, values in [0, 1], any H and W from 1 up.

        Returns:
            (N, in_chans, H * upscale, W * upscale), about [0, 1], not clipped.

        Raises:
            ValueError: the image has another number of channels.
        """
        if image.shape[1] != self.in_chans:
            raise ValueError(f'the image has {image.shape[1]} channels; in_chans is {self.in_chans}')
        h, w = image.shape[-2:]
        padded = symmetric_pad((image - self.mean) / self.std, self.size_multiple)
        out = self.restore(padded)
        if self.upscale == 1:
            out = out + padded
        return (out * self.std + self.mean)[..., : h * self.upscale, : w * self.upscale]
