# The same detector in the pure Python style of MMEngine. It needs `pip install` without `-e`: see docs/downstream.md.
from mmcv.transforms import LoadImageFromFile
from mmdet.datasets import CocoDataset
from mmdet.datasets.transforms import LoadAnnotations, PackDetInputs
from mmengine.config import read_base
from mmengine.dataset import DefaultSampler
from mmengine.runner import EpochBasedTrainLoop
from my_project import PlainNet
from torch.optim import AdamW

with read_base():
    from man_mm.configs.retinanet_r34_man_k17 import *  # noqa: F403

default_scope = 'mmdet'
neck.update(in_channels=[8, 16, 32, 64])  # noqa: F405
model.neck = neck  # noqa: F405
model.backbone.backbone = dict(type=PlainNet, width=8)  # noqa: F405  (update() would merge)
model.backbone.num_modules = 3  # noqa: F405
model.backbone.auxiliary.neck = neck  # noqa: F405
model.bbox_head.num_classes = 3  # noqa: F405
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type=DefaultSampler, shuffle=True),
    dataset=dict(
        type=CocoDataset,
        data_root='data/shapes/',
        ann_file='annotations/train.json',
        data_prefix=dict(img='train/'),
        metainfo=dict(classes=('disc', 'square', 'triangle')),
        pipeline=[
            dict(type=LoadImageFromFile),
            dict(type=LoadAnnotations, with_bbox=True),
            dict(type=PackDetInputs),
        ],
    ),
)
train_cfg = dict(type=EpochBasedTrainLoop, max_epochs=20)
optim_wrapper.update(optimizer=dict(type=AdamW, lr=2e-3, weight_decay=0.05))  # noqa: F405
