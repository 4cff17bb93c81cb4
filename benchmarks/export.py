"""A network by onnxruntime beside PyTorch, eager and with its native kernel, on this machine's CPU.

python benchmarks/export.py [-m RAMiT-tiny_SRx2] [--size 256 256]
"""

from __future__ import annotations

import torch
from side_by_side import Report, arguments, interleaved

from ramit_arch.inference.export import INPUT, export
from ramit_arch.inference.networks import load
from ramit_arch.inference.onnx import open_session


def main() -> None:
    parser = arguments(__doc__, rounds=5)
    parser.add_argument('-m', dest='model', default='RAMiT-tiny_SRx2')
    parser.add_argument('--size', type=int, nargs=2, default=[256, 256], metavar=('HEIGHT', 'WIDTH'))
    args = parser.parse_args()
    report = Report(args)
    eager, native = load(args.model).network, load(args.model).network
    missing = native.set_compiled(True) if hasattr(native, 'set_compiled') else 'it has no native kernel'
    image = torch.rand(1, getattr(eager, 'in_chans', 3), *args.size)
    session = open_session(export(load(args.model), 'onnx').content)
    contestants = {'PyTorch, eager': lambda: eager(image)}
    if missing is None:
        contestants['PyTorch, native kernel'] = lambda: native(image)
    contestants['onnxruntime'] = lambda: session.run(None, {INPUT: image.numpy()})
    height, width = args.size
    with torch.inference_mode():
        timings = interleaved(args.rounds, contestants)
    report.timings(f'{args.model}, {width}x{height}', timings, 'PyTorch, eager', ('megapixels/s', height * width / 1e6))


if __name__ == '__main__':
    main()
