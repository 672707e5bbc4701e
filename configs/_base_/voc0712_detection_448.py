# VOC2007 and VOC2012 trainval in upstream's layout under data/VOCdevkit to train on, the rest as in
# voc07_detection_448.py.
_base_ = './voc07_detection_448.py'

train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='ConcatDataset',
        ignore_keys=['dataset_type'],  # it differs between the years
        datasets=[
            dict(
                type='VOCDataset',
                data_root='data/VOCdevkit/',
                ann_file=f'VOC{year}/ImageSets/Main/trainval.txt',
                data_prefix=dict(sub_data_root=f'VOC{year}/'),
                filter_cfg=dict(filter_empty_gt=True, min_size=32, bbox_min_size=32),
                pipeline={{_base_.train_pipeline}},
            )
            for year in (2007, 2012)
        ],
    )
)
