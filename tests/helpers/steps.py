"""Whole configs of one training step, as `TrainStep` wants them."""

from mmengine.config import Config

SGD = dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=1e-4)


def step_config(model, scope='mmdet', optimizer=None, hooks=(), **wrapper):
    """A config of `model`, with the wrapper and the hook of local learning if it has a LocalBackbone."""
    net = model.get('generator') or model['backbone']
    is_local = net['type'] == 'man_mm.LocalBackbone'
    kind = 'man_mm.LocalOptimWrapper' if is_local else 'OptimWrapper'
    return Config(
        dict(
            default_scope=scope,
            model=model,
            train_dataloader=dict(batch_size=2),
            optim_wrapper={'type': kind, 'optimizer': optimizer or SGD, **wrapper},
            custom_hooks=[*([dict(type='man_mm.FeatureBankHook')] if is_local else []), *hooks],
        )
    )
