"""Training steps without a data set: the package's own wrapper and hook, and what is measured on them."""

from types import SimpleNamespace
from weakref import WeakSet

import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.model import is_model_wrapper
from mmengine.runner import LogProcessor

from man_mm.engine import FeatureBankHook, LocalOptimWrapper

from .detection import batch, build, retinanet


class SpyWrapper(LocalOptimWrapper):
    """LocalOptimWrapper that tells `before(loss, module)` and `after(module)`; the main loss is module None."""

    def __init__(self, *args, before=None, after=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.before = before or (lambda loss, module: None)
        self.after = after or (lambda module: None)

    def local_backward(self, losses, module):
        self.before(self._host.parse_losses(losses)[0], module.index)
        super().local_backward(losses, module)
        self.after(module.index)

    def backward(self, loss, **kwargs):
        self.before(loss, None)
        super().backward(loss, **kwargs)
        self.after(None)


class Trainer:
    """A model in training with the optim wrapper and the hook that a Runner would give it.

    `gradients` holds the last step's, by parameter name, as the optimizer saw them.
    """

    def __init__(self, model, wrapper=LocalOptimWrapper, lr=0.01, momentum=0.9, optimizer=torch.optim.SGD, **options):
        self.model = model.train()
        options_of = dict(momentum=momentum) if optimizer is torch.optim.SGD else {}
        trained = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = optimizer(trained, lr=lr, **options_of)
        self.optim_wrapper = wrapper(optimizer=self.optimizer, **options)
        self.cfg = Config()
        self.train_dataloader = None
        self.message_hub = MessageHub.get_instance(f'trainer-{id(self)}')
        self.log_processor = LogProcessor()
        self.hook = FeatureBankHook()
        self.gradients = {}
        self.optimizer.register_step_pre_hook(self._record)
        self.hook.before_train(self)

    def _record(self, *_):
        new = {name: p.grad.clone() for name, p in self.host.named_parameters() if p.grad is not None}
        self.gradients = new

    @property
    def host(self):
        return self.model.module if is_model_wrapper(self.model) else self.model

    def step(self, *batches):
        """One training iteration per batch; returns the last one's log variables."""
        for data in batches or (batch(),):
            logs = self.model.train_step(data, self.optim_wrapper)
        self.hook.after_train_iter(self, 0)
        return logs


def trainer(num_modules=4, backbone=None, auxiliary=None, model_options=None, **options):
    """A Trainer of the tiny RetinaNet."""
    return Trainer(build(retinanet(num_modules, backbone, auxiliary, **(model_options or {}))), **options)


def gradients(*batches, **options):
    """Gradients of one step of the tiny RetinaNet, by parameter name."""
    run = trainer(**options)
    run.step(*batches)
    return run.gradients


def reached(loss, model):
    """Names of `model`'s parameters that the graph of `loss` reaches."""
    names = {p: name for name, p in model.named_parameters()}
    seen, todo, found = set(), [loss.grad_fn], set()
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, 'variable') and node.variable in names:
            found.add(names[node.variable])
        todo.extend(parent for parent, _ in node.next_functions)
    return found


def auxiliary_indices(net):
    """Index of the auxiliary that trains each module but the last one."""
    auxiliaries = list(net.auxiliaries)
    return tuple(auxiliaries.index(module.auxiliary) for module in net.local_modules[:-1])


def local_parameters(model, module):
    """Names of the parameters of a module and of its auxiliary."""
    names = {p: name for name, p in model.named_parameters()}
    return {
        names[p] for p in model.backbone.local_modules[module].parameters(model.backbone.backbone) if p.requires_grad
    }


def named(model, *prefixes):
    """Names of trainable parameters that start with one of `prefixes`."""
    return {name for name, p in model.named_parameters() if p.requires_grad and name.startswith(prefixes)}


def assert_equal(ours, theirs, **tolerance):
    """Same keys, and the same values: bit for bit, or within `tolerance`."""
    assert ours.keys() == theirs.keys(), sorted(ours.keys() ^ theirs.keys())
    for name, value in ours.items():
        torch.testing.assert_close(
            value, theirs[name], **{'rtol': 0, 'atol': 0, **tolerance}, msg=lambda m, n=name: f'{n}: {m}'
        )


class _Saved:
    def __init__(self, tensor):
        self.tensor = tensor


class SavedTensors:
    """Counts what autograd keeps alive for backward, parameters and buffers of `model` aside."""

    def __init__(self, model):
        self.known = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
        self.alive = WeakSet()
        self.peak = 0

    @property
    def nbytes(self):
        storages = [saved.tensor.untyped_storage() for saved in self.alive]
        return sum({s.data_ptr(): s.nbytes() for s in storages if s.data_ptr() not in self.known}.values())

    def _pack(self, tensor):
        saved = _Saved(tensor)
        self.alive.add(saved)
        self.peak = max(self.peak, self.nbytes)
        return saved

    def watch(self):
        return torch.autograd.graph.saved_tensors_hooks(self._pack, lambda saved: saved.tensor)


def poison(module):
    """Make a module's output NaN."""
    return module.register_forward_hook(lambda _, args, out: tuple(level * float('nan') for level in out))


def forget_to_detach(monkeypatch):
    """Let the loop hand each module the graph of the one before, and losses reach back through it."""
    for place in ('module', 'step'):
        monkeypatch.setattr(f'man_mm.local.{place}.detached', lambda x, requires_grad=False: x)
    backward = torch.Tensor.backward
    monkeypatch.setattr(torch.Tensor, 'backward', lambda self: backward(self, retain_graph=True))


def fake_runner(**parts):
    """What a hook reads of a Runner."""
    return SimpleNamespace(**{'cfg': Config(), **parts})
