"""A batch of noise for a config, as its data loader would collate it."""

from typing import Any

import numpy as np
import torch

__all__ = ['batch_of']


def batch_of(entry: dict[str, Any], num: int = 2) -> dict[str, Any] | None:
    """Images and data samples for an entry of configs.txt; None where none is known.

    Keys of an entry: `size` in px; `kind` of model where it is no detector, classifier or restorer; `masks=False`,
    `sem`, `text`, `proposals`: what a detector's samples have; `grey`, `multilabel`, `views`, `mask` (patches a side);
    `scale`, `frames`, `centre` (one frame is the target).
    """
    make = {'mmdet': _detection, 'mmpretrain': _classification, 'mmagic': _restoration}[entry['lib']]
    return make(entry, int(entry.get('num', num)))


def _noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def _detection(entry: dict[str, Any], num: int) -> dict[str, Any] | None:
    size, kind = entry.get('size', 128), entry.get('kind')
    if kind == 'reid':
        from mmdet.structures import ReIDDataSample

        sample = ReIDDataSample()
        sample.set_gt_label(torch.arange(8) // 2)
        return dict(inputs=[_noise(8, 3, 256, 128)], data_samples=[sample])
    if kind == 'track':
        return _videos(entry, num, size)
    if kind not in (None, 'mot'):
        return None
    samples = [_boxes(entry, i, size) for i in range(num)]
    for sample in samples if kind == 'mot' else ():
        sample.gt_instances.labels *= 0  # pedestrians
    return dict(inputs=[_noise(3, size, size, seed=i) for i in range(num)], data_samples=samples)


def _videos(entry: dict[str, Any], num: int, size: int) -> dict[str, Any]:
    """A key frame and a reference frame of each video, of the same objects."""
    from mmdet.structures import TrackDataSample

    videos = []
    for i in range(num):
        frames = [_boxes(entry, i, size) for _ in range(2)]
        for number, frame in enumerate(frames):
            frame.set_metainfo(dict(frame_id=number))
            frame.gt_instances.instances_ids = torch.arange(len(frame.gt_instances))
            frame.gt_instances.labels *= 0
        video = TrackDataSample(metainfo=dict(key_frames_inds=[0], ref_frames_inds=[1]))
        video.video_data_samples = frames
        videos.append(video)
    return dict(inputs=[_noise(2, 3, size, size, seed=i) for i in range(num)], data_samples=videos)


def _boxes(entry: dict[str, Any], index: int, size: int) -> Any:
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData, PixelData

    rng = np.random.default_rng(index)
    shape = (size, size)
    meta = dict(img_id=index, img_shape=shape, ori_shape=shape, batch_input_shape=shape, pad_shape=shape, flip=False)
    meta |= dict(scale_factor=(1.0, 1.0), flip_direction=None, border=[1] * 4, img_path='')
    if entry.get('text'):
        split = entry['path'].startswith(('grounding_dino', 'mm_grounding', 'glip'))
        meta |= dict(text=('person', 'bicycle', 'car') if split else 'person . bicycle . car .', custom_entities=False)
    sample = DetDataSample(metainfo=meta)
    sides = (0.25 + 0.4 * rng.random((4, 2))) * size
    corners = rng.random((4, 2)) * (size - sides)
    boxes = torch.tensor(np.concatenate([corners, corners + sides], 1), dtype=torch.float32)
    masks = np.zeros((4, size, size), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y1 : y2 + 1, x1 : x2 + 1] = 1
    masked = entry.get('masks') is not False
    for name, chosen in (('gt_instances', slice(None)), ('ignored_instances', slice(0))):
        instances = InstanceData(bboxes=boxes[chosen], labels=(torch.arange(4) % 2)[chosen])
        if masked:
            instances.masks = BitmapMasks(masks[chosen], size, size)
        setattr(sample, name, instances)
    if entry.get('sem') == 'htc':
        sample.gt_sem_seg = PixelData(sem_seg=torch.zeros(1, size // 8, size // 8, dtype=torch.long))
    elif entry.get('sem') == 'panoptic':
        sem = torch.full((1, size, size), 81)
        sem[:, :, size // 2 :] = 90
        sample.gt_sem_seg = PixelData(sem_seg=sem)
    if entry.get('proposals'):
        sample.proposals = InstanceData(bboxes=torch.cat([boxes, 0.9 * boxes]), scores=torch.ones(8))
    return sample


def _classification(entry: dict[str, Any], num: int) -> dict[str, Any] | None:
    from mmpretrain.structures import DataSample

    channels, size = 1 if entry.get('grey') else 3, entry.get('size', 128)
    if entry.get('kind') == 'selfsup':
        views = range(int(entry.get('views', 1)))
        inputs = [torch.stack([_noise(channels, size, size, seed=10 * v + i) for i in range(num)]) for v in views]
        samples = [DataSample() for _ in range(num)]
        if 'mask' in entry:
            for i, sample in enumerate(samples):
                sample.set_field(_noise(entry['mask'], entry['mask'], seed=i) > 127, 'mask')
        return dict(inputs=inputs if len(inputs) > 1 else inputs[0], data_samples=samples)
    if entry.get('kind') is not None:
        return None
    labels = [[0, i + 1] if entry.get('multilabel') else i % 2 for i in range(num)]
    inputs = [_noise(channels, size, size, seed=i) for i in range(num)]
    return dict(inputs=inputs, data_samples=[DataSample().set_gt_label(label) for label in labels])


def _restoration(entry: dict[str, Any], num: int) -> dict[str, Any] | None:
    from mmagic.structures import DataSample

    if entry.get('kind') not in (None, 'gan'):
        return None
    size, scale = int(entry['size']), int(entry['scale'])
    frames = (int(entry['frames']),) if 'frames' in entry else ()
    out = () if entry.get('centre') else frames
    samples = [DataSample(gt_img=_noise(*out, 3, size * scale, size * scale, seed=i)) for i in range(num)]
    for sample in samples:
        sample.gt_unsharp = sample.gt_img
    return dict(inputs=[_noise(*frames, 3, size, size, seed=i) for i in range(num)], data_samples=samples)
