"""What the host libraries' own command lines add to a config, by its `default_scope`."""

import argparse
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import cv2
from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.evaluator import DumpResults
from mmengine.hooks import Hook
from mmengine.runner import Runner

__all__ = ['HostLibrary', 'host_library_of']

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


class HostLibrary:
    """A library of which nothing is known."""

    def __init__(self, cfg: Config) -> None:
        self.cfg = cfg
        self.show_dir: Path | None = None

    def set_loader_defaults(self) -> None:
        """Set what the data loaders leave open."""

    def show(self, args: argparse.Namespace) -> None:
        """Turn the visualization hook on, as `--show` and `--show-dir` ask."""
        self._refuse('--show and --show-dir')

    def augment_at_test(self) -> None:
        """Wrap the model as the config's `tta_model` says, flipping images by default, for `--tta`."""
        self._refuse('--tta')

    def dump(self, path: str) -> Any:
        """The metric that writes predictions to `path`, for `--out`."""
        return DumpResults(path)

    def watch(self, runner: Runner) -> None:
        """Add what looks at the test of `runner`, if anything does."""

    def _refuse(self, option: str) -> None:
        sys.exit(
            f'{option} is known for {sorted(HOST_LIBRARIES)}, not for default_scope={self.cfg.get("default_scope")!r}.'
        )

    def _hook(self, option: str) -> ConfigDict:
        if 'visualization' not in self.cfg.get('default_hooks', {}):
            sys.exit(f'{option} needs default_hooks.visualization, the visualization hook of the host library.')
        return self.cfg.default_hooks.visualization

    def _flip(self, model: dict[str, Any], keys: tuple[str, ...] = ()) -> None:
        """Lay `tta_model` and `tta_pipeline` over model and pipeline; without a pipeline, flip before the last step."""
        self.cfg.setdefault('tta_model', model)
        dataset = self.cfg.test_dataloader.dataset
        while 'dataset' in dataset:
            dataset = dataset.dataset
        if 'tta_pipeline' not in self.cfg:
            flips = [dict(type='RandomFlip', prob=1.0), dict(type='RandomFlip', prob=0.0)]
            *steps, last = deepcopy(dataset.pipeline)
            if keys:
                last = dict(type=last['type'], meta_keys=keys)
            self.cfg.tta_pipeline = [*steps, dict(type='TestTimeAug', transforms=[flips, [last]])]
        self.cfg.model = ConfigDict(**self.cfg.tta_model, module=self.cfg.model)
        dataset.pipeline = self.cfg.tta_pipeline


class MMDetection(HostLibrary):
    """Boxes and masks."""

    def show(self, args: argparse.Namespace) -> None:
        """See `HostLibrary.show`."""
        hook = self._hook('--show and --show-dir')
        hook.draw = True
        if args.show:
            hook.update(show=True, wait_time=args.wait_time)
        if args.show_dir:
            hook.test_out_dir = args.show_dir

    def augment_at_test(self) -> None:
        """See `HostLibrary.augment_at_test`."""
        merge = dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)
        keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction')
        self._flip(dict(type='DetTTAModel', tta_cfg=merge), keys)

    def dump(self, path: str) -> Any:
        """See `HostLibrary.dump`; masks are compressed."""
        from mmdet.evaluation import DumpDetResults

        return DumpDetResults(path)


class MMPretrain(HostLibrary):
    """Classes of images."""

    def set_loader_defaults(self) -> None:
        """See `HostLibrary.set_loader_defaults`: images of a batch come as one tensor, which is normalised at once."""
        defaults = dict(pin_memory=get_device() != 'cpu', collate_fn=dict(type='default_collate'))
        for name in LOADERS:
            if self.cfg.get(name):
                self.cfg[name] = ConfigDict({**defaults, **self.cfg[name]})

    def show(self, args: argparse.Namespace) -> None:
        """See `HostLibrary.show`; every image is painted."""
        hook = self._hook('--show and --show-dir')
        hook.update(enable=True, interval=1, show=args.show, wait_time=args.wait_time, out_dir=args.show_dir)

    def augment_at_test(self) -> None:
        """See `HostLibrary.augment_at_test`."""
        self._flip(dict(type='AverageClsScoreTTA'))


class MMagic(HostLibrary):
    """Images in, images out."""

    def show(self, args: argparse.Namespace) -> None:
        """See `HostLibrary.show`."""
        if args.show:
            sys.exit('--show has no window for MMagic: use --show-dir.')
        self.show_dir = Path(args.show_dir)

    def watch(self, runner: Runner) -> None:
        """See `HostLibrary.watch`: write the predicted images, if `show` was called."""
        if self.show_dir is not None:
            runner.register_hook(ImageWriter(self.show_dir))

    def dump(self, path: str) -> Any:
        """See `HostLibrary.dump`."""
        sys.exit('--out is not served for MMagic, whose predictions are images: use --show-dir.')


class ImageWriter(Hook):
    """Writes what a test predicts to `folder/DATA SET/NAME.png`, NAME being that of the true image's file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Write a batch: images (C, H, W) of 0 to 255, blue first."""
        folder = self.folder / runner.test_loop.dataloader.dataset.metainfo['dataset_type']
        folder.mkdir(parents=True, exist_ok=True)
        for sample in outputs:
            image = sample.output.pred_img.permute(1, 2, 0).clamp(0, 255).round().byte().numpy()
            cv2.imwrite(str(folder / f'{Path(sample.gt_path).stem}.png'), image)


HOST_LIBRARIES = {'mmdet': MMDetection, 'mmpretrain': MMPretrain, 'mmagic': MMagic}


def host_library_of(cfg: Config) -> HostLibrary:
    """The host library of a config."""
    return HOST_LIBRARIES.get(cfg.get('default_scope', ''), HostLibrary)(cfg)
