# EDSR-baseline (64 channels, 16 blocks), x4, by upstream's recipe: patches of 48 px (low resolution), batch 16, Adam at
# 1e-4, sub-images of DIV2K 0001-0800 as tools/dataset_tools/crop_pairs.py cuts them. Validated on DIV2K 0801-0900,
# tested on Set5 and Set14 too. PSNR and SSIM: on RGB, a border of 4 px left out.
_base_ = 'mmagic::edsr/edsr_x4c64b16_1xb16-300k_div2k.py'
train_pipeline = [
    dict(step, gt_patch_size=192) if step['type'] == 'PairedRandomCrop' else step for step in _base_.train_pipeline
]  # upstream: 196
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
div2k_valid = dict(
    num_workers=4,
    persistent_workers=False,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='BasicImageDataset',
        metainfo=dict(dataset_type='div2k', task_name='sisr'),
        data_root='data/DIV2K',
        data_prefix=dict(img='DIV2K_valid_LR_bicubic/X4', gt='DIV2K_valid_HR'),
        filename_tmpl=dict(img='{}x4', gt='{}'),
        pipeline=_base_.val_pipeline,
    ),
)
val_dataloader = dict(_delete_=True, **div2k_valid)
test_dataloader = [_base_.set5_dataloader, _base_.set14_dataloader, div2k_valid]
work_dir = experiment_name = None  # upstream gives every run of a scale one folder
custom_hooks = []  # upstream paints every validation image; `test.py --show-dir` writes images when asked
default_hooks = dict(
    # out_dir: into the run's own folder, where --resume looks
    checkpoint=dict(type='man_mm.SafeCheckpointHook', out_dir=None),
    logger=dict(log_metric_by_epoch=False),
)
