from basicsr.utils.registry import ARCH_REGISTRY
from torch import nn


@ARCH_REGISTRY.register()
class OwnNet(nn.Module):
    """Eight convolutions and a pixel shuffle."""

    def __init__(self, upscale: int = 2, width: int = 64, depth: int = 8) -> None:
        super().__init__()
        layers = [nn.Conv2d(3, width, 3, padding=1)]
        for _ in range(depth - 2):
            layers += [nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)]
        self.body = nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(width, 3 * upscale**2, 3, padding=1))
        self.upscale = nn.PixelShuffle(upscale)
        self.enlarge = nn.Upsample(scale_factor=upscale, mode='bicubic')

    def forward(self, x):
        return self.upscale(self.body(x)) + self.enlarge(x)
