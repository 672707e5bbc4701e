"""MMPose: upstream's top-down estimators train by modules. It is not part of `make setup`; `make test-long` adds it."""

import pytest

from ..helpers.upstream import check_localized, narrowed

pytestmark = pytest.mark.long

SIZE = 64, 96
"""Width and height of an image in px, as MMPose's codecs have them."""
HEATMAP = 16, 24
CODEC = {'head.decoder.input_size': SIZE, 'head.decoder.heatmap_size': HEATMAP}
BRANCHES = dict(stage2=(8, 16), stage3=(8, 16, 32), stage4=(8, 16, 32, 64))
POSES = {
    'topdown_heatmap/coco/td-hm_res50_8xb64-210e_coco-256x192.py': {
        **CODEC,
        'backbone.base_channels': 8,
        'backbone.stem_channels': 8,
        'head.in_channels': 256,
        'head.deconv_out_channels': (8, 8, 8),
    },
    'topdown_heatmap/coco/td-hm_hrnet-w32_8xb64-210e_coco-256x192.py': {
        **CODEC,
        **{f'backbone.extra.{stage}.num_channels': widths for stage, widths in BRANCHES.items()},
        'backbone.extra.stage3.num_modules': 2,
        'backbone.extra.stage4.num_modules': 2,
        'head.in_channels': 8,
    },
    'topdown_heatmap/coco/td-hm_swin-t-p4-w7_8xb32-210e_coco-256x192.py': {
        **CODEC,
        'backbone.embed_dims': 8,
        'backbone.num_heads': [1, 2, 4, 8],
        'backbone.depths': [2, 2, 2, 2],
        'head.in_channels': 64,
        'head.deconv_out_channels': (8, 8, 8),
    },
    'rtmpose/coco/rtmpose-t_8xb256-420e_coco-256x192.py': {
        'backbone.widen_factor': 0.125,
        'head.in_channels': 128,
        'head.gau_cfg.hidden_dims': 32,
        'head.gau_cfg.s': 16,
        'head.input_size': SIZE,
        'head.in_featuremap_size': (SIZE[0] // 32, SIZE[1] // 32),
        'head.decoder.input_size': SIZE,
    },
}


@pytest.fixture(scope='module')
def packed_inputs():
    """Images of noise with keypoints, heatmaps and the like, as MMPose makes them for its own tests."""
    pytest.importorskip('mmpose', reason='MMPose is not installed: `make test-long` does so')
    from mmpose.testing import get_packed_inputs

    return get_packed_inputs(2, img_shape=SIZE[::-1], input_size=SIZE, heatmap_size=HEATMAP)


@pytest.mark.parametrize('lean', [False, True], ids=['whole', 'lean'])
@pytest.mark.parametrize('name', POSES, ids=lambda name: name.partition('_8x')[0].rpartition('/')[2])
def test_a_pose_estimator_trains_by_modules(name, lean, packed_inputs):
    check_localized(narrowed(f'mmpose::body_2d_keypoint/{name}', **POSES[name]), packed_inputs, lean)
