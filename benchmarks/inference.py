"""Time the inference of a locally trained model against the plain model inside it, in turn, on random images."""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from man_mm.local.names import BACKBONES
from man_mm.runs.compat import read_config


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config with a man_mm.LocalBackbone')
    parser.add_argument('--size', type=int, default=256, help='height and width of the images in px')
    parser.add_argument('--repeats', type=int, default=20, help='forward passes of each model')
    parser.add_argument('--device', default='cpu')
    return parser.parse_args()


def plain_twin(cfg: Config) -> Config:
    """The config's model with the wrapped backbone in place of the wrapper."""
    plain = cfg.model.copy()
    name = next(name for name in BACKBONES if name in plain)
    plain[name] = plain[name].backbone
    return plain


def clock(device: str) -> float:
    """Seconds, when all work on `device` is done."""
    if device != 'cpu':
        torch.cuda.synchronize()
    return time.perf_counter()


def seconds(models: dict[str, nn.Module], x: torch.Tensor, repeats: int) -> dict[str, list[float]]:
    """Time of every forward pass but the first; the models take turns, so that other load meets both."""
    times: dict[str, list[float]] = {name: [] for name in models}
    forward: Callable[..., object]
    with torch.inference_mode():
        for _ in range(repeats + 1):
            for name, forward in models.items():
                start = clock(x.device.type)
                forward(x, mode='tensor')
                times[name].append(clock(x.device.type) - start)
    return {name: values[1:] for name, values in times.items()}


def main() -> None:
    args = parse_args()
    cfg = read_config(args.config)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    local = MODELS.build(cfg.model).eval().to(args.device)
    plain = MODELS.build(plain_twin(cfg)).eval().to(args.device)
    x = torch.randn(1, 3, args.size, args.size, device=args.device)
    times = seconds({'plain': plain, 'local': local}, x, args.repeats)
    for name, values in times.items():
        low, middle, high = statistics.quantiles(values, n=4)
        print(f'{name}: median {1000 * middle:.1f} ms, quartiles {1000 * low:.1f} to {1000 * high:.1f} ms')
    print(f'local / plain: {statistics.median(times["local"]) / statistics.median(times["plain"]):.3f}')


if __name__ == '__main__':
    main()
