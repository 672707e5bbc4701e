"""The command lines, run as a user runs them."""

import json

import matplotlib.image
import pytest
import torch
from mmengine.config import Config

from man_mm.config import enable_amp

from ..helpers.detection import batch, build, retinanet
from ..helpers.processes import ROOT, python, run

MAN = 'configs/man/retinanet_r34_man_k17_coco.py'


def test_train_without_data_says_in_one_sentence_what_is_missing_and_where_it_goes(tmp_path):
    result = python('train.py', ROOT / MAN, '--work-dir', tmp_path / 'run', cwd=tmp_path)
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith('The data set is missing: train_dataloader.dataset.ann_file')
    assert 'data/coco/annotations/instances_train2017.json' in last and str(tmp_path) in last
    assert not (tmp_path / 'run').exists()


def test_misspelt_key_is_named_with_the_legal_ones():
    result = python('analysis_tools/show_partition.py', MAN, '--cfg-options', 'model.backbone.num_module=4')
    assert result.returncode != 0
    assert "{'num_module': 4}" in result.stderr and "'num_modules'" in result.stderr


def test_a_misspelt_wrapper_of_the_model_is_named_with_ours(tmp_path):
    options = ('--cfg-options', 'model_wrapper_cfg.type=man_mm.LocalPipelin')
    result = python('train.py', MAN, '--work-dir', tmp_path, *options)
    assert result.returncode == 1
    assert "'man_mm.LocalPipelin' is not known" in result.stderr and "'man_mm.LocalPipeline'" in result.stderr


def test_amp_keeps_the_local_wrapper(tmp_path):
    """On a machine without GPU upstream's AMP refuses to start; it must be ours that refuses."""
    arguments = ('--amp', '--cfg-options', 'optim_wrapper.type=NoSuchWrapper')
    result = python('train.py', MAN, '--work-dir', tmp_path, *arguments)
    assert result.returncode == 1 and "'man_mm.LocalOptimWrapper'" in result.stderr
    cfg = Config.fromfile(ROOT / MAN)
    enable_amp(cfg)
    assert cfg.optim_wrapper.type == 'man_mm.LocalAmpOptimWrapper' and cfg.optim_wrapper.loss_scale == 'dynamic'


def test_show_partition_lists_every_module_with_its_taps():
    result = python('analysis_tools/show_partition.py', MAN)
    rows = [line for line in result.stdout.splitlines() if 'layer' in line or 'stem' in line]
    assert len(rows) == 17
    assert 'layer2 layer3' in rows[-1] and 'layer4' in rows[-1]


def test_a_partition_is_drawn(tmp_path):
    picture = tmp_path / 'new/partition.png'
    result = python('analysis_tools/show_partition.py', 'configs/man/resnet32_man_k4_cifar10.py', '--out', picture)
    assert result.returncode == 0 and 'K = 4' in result.stdout
    pixels = matplotlib.image.imread(picture)[..., :3]
    assert pixels.std() > 0.02 and (pixels.max(2) - pixels.min(2)).max() > 0.3  # something, in colours too


def test_stripped_checkpoint_loads_strictly_into_the_plain_model_and_predicts_the_same(tmp_path):
    ours, plain = build(retinanet(4)).eval(), build(retinanet(None), seed=1).eval()
    torch.save({'state_dict': ours.state_dict(), 'meta': {'epoch': 1}}, tmp_path / 'local.pth')
    result = python('model_converters/strip_auxiliary.py', tmp_path / 'local.pth', tmp_path / 'plain.pth')
    assert result.returncode == 0, result.stderr
    stripped = torch.load(tmp_path / 'plain.pth')
    plain.load_state_dict(stripped['state_dict'], strict=True)
    assert stripped['meta'] == {'epoch': 1}
    with torch.no_grad():
        for a, b in zip(ours.test_step(batch()), plain.test_step(batch()), strict=True):
            assert torch.equal(a.pred_instances.bboxes, b.pred_instances.bboxes)
            assert torch.equal(a.pred_instances.scores, b.pred_instances.scores)


def test_shell_launchers_explain_missing_arguments():
    for script in ('dist_train.sh', 'dist_test.sh', 'slurm_train.sh'):
        result = run('bash', ROOT / 'tools' / script)
        assert result.returncode != 0 and 'usage' in result.stderr


@pytest.mark.long  # in the short suite tests/engine/test_faults_ranks.py launches two that train
@pytest.mark.cpu_only('two processes need two GPUs')
def test_two_processes_train_through_the_launcher(tmp_path):
    data = f'{tmp_path}/shapes/'
    drawn = python('dataset_tools/make_shapes.py', '--out', data, '--num-train', 4, '--num-val', 2)
    assert drawn.returncode == 0, drawn.stderr
    options = [f'{loader}_dataloader.dataset.data_root={data}' for loader in ('train', 'val')]
    options += [f'val_evaluator.ann_file={data}annotations/val.json', 'train_cfg.max_epochs=1']
    launcher = ROOT / 'tools/dist_train.sh'
    config = 'configs/demo/retinanet_r18_man_k4_shapes.py'
    result = run('bash', launcher, config, 2, '--work-dir', tmp_path / 'run', '--cfg-options', *options, PORT='29517')
    assert result.returncode == 0, result.stderr[-2000:]
    assert (tmp_path / 'run/epoch_1.pth').exists()


def test_audit_tells_which_loss_trains_which_part_and_writes_it(tmp_path):
    out = tmp_path / 'new/audit.json'
    result = python('analysis_tools/audit.py', 'configs/man/resnet32_man_k4_cifar10.py', '--size', 32, '--json', out)
    assert result.returncode == 0, result.stderr
    assert 'modules 0 to 2' not in result.stdout  # a classifier's modules have heads of their own
    assert 'Every module is trained by its own loss alone.' in result.stdout
    rows = {row['part']: row for row in json.loads(out.read_text())}
    assert rows['auxiliary of module 2']['trained_by'] == {'2': rows['auxiliary of module 2']['parameters']}


def test_audit_of_a_plain_config_says_what_it_needs():
    result = python('analysis_tools/audit.py', 'configs/bp/resnet32_bp_cifar10.py', '--size', 32)
    assert result.returncode == 1 and 'man_mm.LocalBackbone' in result.stderr and 'Traceback' not in result.stderr
