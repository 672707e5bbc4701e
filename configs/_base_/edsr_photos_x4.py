# A narrow EDSR (32 channels, 16 blocks), x4, for two CPU cores: patches of 24 px (low resolution), batch 8, 2000 steps,
# on real photographs in DIV2K's manner: data/photos/train and val, each with HR and LR_bicubic/X4; the training ones
# are cut into sub-images of 192 px, step 192, by tools/dataset_tools/crop_pairs.py.
_base_ = 'mmagic::edsr/edsr_x4c64b16_1xb16-300k_div2k.py'
model = dict(generator=dict(mid_channels=32))
train_pipeline = [
    dict(step, gt_patch_size=96) if step['type'] == 'PairedRandomCrop' else step for step in _base_.train_pipeline
]
train_dataloader = dict(
    num_workers=0,
    batch_size=8,
    dataset=dict(
        data_root='data/photos/train',
        ann_file='meta_info_HR_sub.txt',
        data_prefix=dict(img='LR_bicubic/X4_sub', gt='HR_sub'),
        pipeline=train_pipeline,
    ),
)
photos_val = dict(
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='BasicImageDataset',
        metainfo=dict(dataset_type='photos', task_name='sisr'),
        data_root='data/photos/val',
        data_prefix=dict(img='LR_bicubic/X4', gt='HR'),
        pipeline=_base_.val_pipeline,
    ),
)
val_dataloader = dict(_delete_=True, **photos_val)
test_dataloader = [photos_val]
test_evaluator = [_base_.val_evaluator]
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=0, end=2000, T_max=2000, eta_min_ratio=0.01),
]
train_cfg = dict(max_iters=2000, val_interval=2000)
work_dir = experiment_name = None  # upstream gives every run of a scale one folder
custom_hooks = []
default_hooks = dict(
    checkpoint=dict(type='man_mm.SafeCheckpointHook', out_dir=None, interval=500, max_keep_ckpts=1, save_best=None),
    logger=dict(log_metric_by_epoch=False),
)
