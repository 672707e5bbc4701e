"""Local losses and the bank's bytes reach the message hub, and so every visualizer; the log line tells them shortly."""

import json
from types import SimpleNamespace

import pytest
from mmengine.logging import MessageHub
from mmengine.runner import LogProcessor

from man_mm.engine import FeatureBankHook
from man_mm.engine.log_processor import LocalLogProcessor

from ..helpers.runs import make_coco, run_config, runner
from ..helpers.training import trainer

TERMS = ('cls', 'bbox', 'total')


@pytest.mark.parametrize(('log', 'terms'), [('terms', TERMS), ('total', ('total',))])
def test_the_log_has_every_module_under_its_own_key(log, terms):
    run = trainer(4)
    run.hook.after_train(run)
    run.hook = FeatureBankHook(log=log)
    run.hook.before_train(run)
    run.step()
    local = {key for key in run.message_hub.log_scalars if key.startswith('train/local_')}
    assert local == {f'train/local_{m:02d}/{term}' for m in range(3) for term in terms}


def test_logged_totals_are_the_sums_of_their_terms():
    run = trainer(4)
    run.step()
    for module in range(3):
        cls, bbox, total = (run.message_hub.get_scalar(f'train/local_{module:02d}/{t}').current() for t in TERMS)
        assert total == pytest.approx(cls + bbox, rel=1e-6) and total > 0


def test_logged_losses_hold_no_graph():
    run = trainer(4)
    run.step()
    assert run.optim_wrapper.local_losses
    assert not any(value.requires_grad for value in run.optim_wrapper.local_losses.values())


def test_a_run_writes_every_local_term_to_its_scalars_file_and_one_number_a_module_to_its_log(tmp_path):
    root = make_coco(tmp_path / 'coco', num_images=2)
    runner(dict(run_config(root, tmp_path / 'run', epochs=1), log_level='INFO')).train()
    (file,) = (tmp_path / 'run').rglob('scalars.json')
    row = json.loads(file.read_text().splitlines()[-1])
    assert {f'local_{m:02d}/{term}' for m in range(3) for term in TERMS} | {'bank_mib', 'loss'} <= set(row)
    (log,) = (tmp_path / 'run').rglob('*.log')
    (line,) = (line for line in log.read_text().splitlines() if 'Epoch(train)' in line)
    losses = ' '.join(f'{row[f"local_{m:02d}/total"]:.4f}' for m in range(3))
    assert f'  local: {losses}  bank_mib: ' in line and 'local_' not in line and '  eta: ' in line


def line_of(num_losses, repeats=1, scalars=None, **settings):
    """What visualizers get, and the line, after iterations in which the losses of module m were m, m + 1, ..."""
    return written(LocalLogProcessor.of(LogProcessor(by_epoch=False, **settings)), num_losses, repeats, scalars)


def written(processor, num_losses, repeats=1, scalars=None):
    hub = MessageHub(f'lines-{id(processor)}')
    for repeat in range(repeats):
        local = {f'local_{m:02d}/{term}': float(m + repeat) for m in range(num_losses) for term in TERMS}
        for key, value in {'lr': 0.1, 'loss': 1.0 + repeat, **local, **(scalars or {})}.items():
            hub.update_scalar(f'train/{key}', value)
    loop = SimpleNamespace(iter=0, max_iters=1)
    run = SimpleNamespace(message_hub=hub, train_loop=loop, _train_loop=loop, iter=0, max_iters=1, model=None)
    return processor.get_log_after_iter(run, 0, 'train')


def test_few_local_losses_are_listed_in_place_of_their_terms():
    tag, line = line_of(3, scalars={'bank_mib': 2.0})
    assert '  loss: 1.0000  local: 0.0000 1.0000 2.0000  bank_mib: 2.0000' in line and 'local_' not in line
    assert {key for key in tag if key.startswith('local_')} == {f'local_{m:02d}/{t}' for m in range(3) for t in TERMS}


def test_of_many_local_losses_the_line_has_the_first_the_last_and_the_highest():
    _, line = line_of(55, scalars={'local_07/total': 99.0})
    assert '  local: 0.0000 (00) .. 54.0000 (54), highest 99.0000 (07)' in line and len(line) < 150
    assert ' .. 102.0000 (102), highest' in line_of(103)[1]
    assert 'highest nan (20)' in line_of(55, scalars={'local_20/total': float('nan')})[1]


def test_local_losses_are_means_over_the_window_of_the_main_loss():
    tag, line = line_of(2, repeats=9, window_size=3)
    assert [tag[key] for key in ('loss', 'local_00/total', 'local_01/cls')] == [8.0, 7.0, 8.0]
    assert 'local: 7.0000 8.0000' in line


def test_what_a_user_asks_for_by_name_stays_in_the_line():
    most = dict(data_src='local_00/total', log_name='local_00/most', method_name='max', window_size='global')
    _, line = line_of(2, repeats=3, window_size=2, custom_cfg=[most])
    assert 'local: 1.5000 2.5000' in line and '  local_00/most: 2.0000' in line and 'cls' not in line


def test_the_line_is_the_same_with_hierarchy():
    tag, line = line_of(3, log_with_hierarchy=True)
    assert 'train/local_02/cls' in tag and 'local: 0.0000 1.0000 2.0000' in line


def test_without_local_losses_the_line_is_mmengines_and_a_cpu_tells_the_memory_of_the_process(monkeypatch):
    monkeypatch.setattr('mmengine.runner.log_processor.is_cuda_available', lambda: False)
    (tag, line), (theirs, plain) = line_of(0), written(LogProcessor(by_epoch=False), 0)
    peak = tag.pop('peak_rss_mib')
    assert tag == theirs and line == f'{plain}  peak_rss_mib: {peak}' and 50 < peak < 2**20


def test_a_log_processor_of_ones_own_is_kept():
    class Own(LogProcessor):
        pass

    run = trainer(4)
    assert isinstance(run.log_processor, LocalLogProcessor)
    run.hook.after_train(run)
    run.log_processor = own = Own()
    FeatureBankHook().before_train(run)
    assert run.log_processor is own


def test_after_training_the_hook_lets_go_of_the_model():
    run = trainer(4, auxiliary=dict(shared_head_grad='mean'))
    run.step()
    run.hook.after_train(run)
    assert run.model.backbone.step is None
    assert not run.model._forward_hooks and not run.model._forward_pre_hooks
    assert not any(p._backward_hooks for p in run.model.parameters())


def test_of_two_hooks_only_the_last_one_acts():
    run = trainer(4)
    first, run.hook = run.hook, FeatureBankHook(log='total')
    run.hook.before_train(run)
    run.step()
    first.after_train_iter(run, 0)
    scalars = run.message_hub.log_scalars
    assert {key for key in scalars if key.startswith('train/local_')} == {
        f'train/local_{m:02d}/total' for m in range(3)
    }
    assert len(scalars['train/bank_mib'].data[0]) == 1
    first.after_train(run)
    run.step()
    assert len(scalars['train/bank_mib'].data[0]) == 2
