"""Models with an ActivationCheckpointHook, and what the tests of it watch."""

import torch
from mmdet.models import RetinaHead
from mmengine.optim import OptimWrapper

from man_mm.analysis.memory import PeakMemory, training_tensors
from man_mm.engine import ActivationCheckpointHook, FeatureBankHook, LocalOptimWrapper

from .detection import batch, build, retinanet
from .training import SavedTensors

LEVELS = 4
PRIVATE = dict(head='private')
BP = ['neck', '*bbox_head.forward_single', '*bbox_head.loss_by_feat_single']


class Run:
    """A model in training with the hooks that it needs; `functions` are checkpointed, `heavy` is its readout."""

    def __init__(
        self, functions=None, num_modules=None, auxiliary=None, backbone=None, first=False, heavy=False, **options
    ):
        cfg = retinanet(num_modules, dict(base_channels=2) if heavy else backbone, auxiliary)
        if heavy:
            cfg['neck'] = {**cfg['neck'], 'in_channels': [2, 4, 8, 16], 'out_channels': 16}
            cfg['bbox_head'] = {**cfg['bbox_head'], 'in_channels': 16, 'feat_channels': 32, 'stacked_convs': 3}
            if num_modules is not None:
                cfg['backbone']['auxiliary']['neck'] = cfg['neck']
        self.model = build(cfg).train()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01)
        wrapper = OptimWrapper if num_modules is None else LocalOptimWrapper
        self.optim_wrapper = wrapper(optimizer=self.optimizer, **options)
        self.gradients = {}
        self.optimizer.register_step_pre_hook(self._record)
        self.hook = ActivationCheckpointHook(functions) if functions else None
        hooks = [*([] if num_modules is None else [FeatureBankHook()]), *([self.hook] if functions else [])]
        for hook in reversed(hooks) if first else hooks:
            hook.bind(self.model, self.optim_wrapper)

    def _record(self, *_):
        self.gradients |= {name: p.grad.clone() for name, p in self.model.named_parameters() if p.grad is not None}

    def step(self, **options):
        return self.model.train_step(batch(**options), self.optim_wrapper)

    def losses(self, **options):
        data = self.model.data_preprocessor(batch(**options), True)
        with self.optim_wrapper.optim_context(self.model):
            return self.model(**data, mode='loss')

    def update(self, losses):
        self.optim_wrapper.update_params(self.model.parse_losses(losses)[0])

    def memory(self):
        """Bytes beside the model: what the forward of a step leaves for the backward, and the peak of both."""
        self.step()
        saved = SavedTensors(self.model)
        with PeakMemory(training_tensors(self.model, self.optimizer)) as meter, saved.watch():
            losses = self.losses(size=256)
            kept = saved.nbytes
            self.update(losses)
        return kept, meter.peak_bytes - meter.start_bytes


def patched(model):
    """Parts of a model that have an attribute in the place of a method."""
    methods = {'forward', 'forward_single', 'loss_by_feat_single', 'loss'}
    return [path for path, part in model.named_modules() if methods & vars(part).keys()]


def head_calls(monkeypatch):
    """The heads of all calls of `forward_single`, and whether the hook's patches were in place."""
    made, original = [], RetinaHead.forward_single

    def forward_single(head, x):
        made.append((head, 'forward_single' in vars(head)))
        return original(head, x)

    monkeypatch.setattr(RetinaHead, 'forward_single', forward_single)
    return made
