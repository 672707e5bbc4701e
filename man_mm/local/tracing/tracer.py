"""The forward of a backbone, traced by `torch.fx`: blocks are leaves, chains of blocks are looked into.

Every value that a step makes is known for one black image, so a forward may unpack sizes and count lists. Where it
decides by a value, the step that made it must make it again: images that would lead elsewhere are refused.
"""

from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx, nn

from ...versions import is_autocast_on, set_autocast
from .forward import IMAGES, Forward, Own, Ref, Step, ancestors, called

__all__ = ['trace']

DEVICES = ('cpu', 'cuda')


def trace(
    net: nn.Module, own: nn.Module, image: Tensor, opened: Set[type[nn.Module]]
) -> tuple[Forward, dict[str, Any]]:
    """Return the forward of `net`, and the value of every step for an image.

    Args:
        net: The backbone.
        own: A copy of it, on which the steps are run.
        image: (1, C, H, W).
        opened: Types of layers to look into.

    Raises:
        Exception: Of any kind, if it cannot be traced, e.g. because it decides by what is in an image.
    """
    with _attributes_kept(net), _contexts():
        graph = _Tracer(own, image, opened).trace(_OnImages(net))
    steps = [_step(node) for node in graph.nodes if node.op.startswith('call')]
    makes = _mapped(next(node for node in graph.nodes if node.op == 'output').args[0], _name)
    decided = (step.result for step in steps if step.expected)
    needed = ancestors(steps, {*Forward((), makes).returned, *decided})
    lost = next((step for step in steps if step.is_in_place and step.result not in needed), None)
    if lost is not None:
        raise ValueError(f'it changes a value in place ({lost.result})')
    values = {node.name: node.meta['value'] for node in graph.nodes if node.name in needed} | {IMAGES: image}
    return Forward(tuple(step for step in steps if step.result in needed), makes), values


@contextmanager
def _attributes_kept(net: nn.Module) -> Iterator[None]:
    """Attributes of all layers are afterwards what they were.

    Raises:
        ValueError: If the forward has written a value to one.
    """
    before = {layer: dict(vars(layer)) for layer in net.modules()}
    try:
        yield
        for layer, attributes in before.items():
            written = [name for name, value in vars(layer).items() if value is not attributes.get(name)]
            if any(isinstance(vars(layer)[name], fx.Proxy) for name in written):
                raise ValueError(f'it keeps a value as its attribute {written[0]}')
    finally:
        for layer, attributes in before.items():
            vars(layer).clear()
            vars(layer).update(attributes)


@contextmanager
def _contexts() -> Iterator[None]:
    """Gradients and mixed precision on: a forward that switches them off for a part is then seen to do so."""
    before = [is_autocast_on(device) for device in DEVICES]
    try:
        for device in DEVICES:
            set_autocast(device, True)
        with torch.enable_grad():
            yield
    finally:
        for device, enabled in zip(DEVICES, before, strict=True):
            set_autocast(device, enabled)


class _OnImages(nn.Module):
    """The backbone, whose forward may take more than images, each with a default."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Any:
        return self.net(images)


def _path(target: Any) -> str:
    """A path below `_OnImages` as a path below the backbone."""
    return str(target).partition('.')[2]


def _step(node: fx.Node) -> Step:
    layer, function = (_path(node.target), None) if node.op == 'call_module' else (None, node.target)
    expected = (node.meta['value'],) if 'decides' in node.meta else ()
    return Step(node.name, layer, function, _mapped(node.args, _name), _mapped(node.kwargs, _name), expected)


def _name(node: fx.Node) -> Ref | Own:
    if node.op == 'get_attr':
        return Own(_path(node.target))
    return Ref(IMAGES if node.op == 'placeholder' else node.name)


def _mapped(argument: Any, of_node: Callable[[fx.Node], Any]) -> Any:
    """An argument of the graph, in plain containers, with what `of_node` returns in place of nodes."""
    match argument:
        case fx.Node():
            return of_node(argument)
        case tuple():
            return tuple(_mapped(item, of_node) for item in argument)
        case list():
            return [_mapped(item, of_node) for item in argument]
        case dict():
            return {key: _mapped(item, of_node) for key, item in argument.items()}
        case slice():
            return slice(*(_mapped(item, of_node) for item in (argument.start, argument.stop, argument.step)))
    return argument


class _Proxy(fx.Proxy):
    """A value of the forward that knows what it is for the image."""

    @property
    def value(self) -> Any:
        return self.node.meta['value']

    def __getattr__(self, name: str) -> Any:
        if callable(getattr(self.value, name)):
            return lambda *args, **kwargs: self.tracer.create_proxy('call_method', name, (self, *args), kwargs)
        return self.tracer.create_proxy('call_function', getattr, (self, name), {})

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))  # type: ignore[index]

    def __len__(self) -> int:
        return len(self.value)

    def __bool__(self) -> bool:
        return bool(self._decided())

    def __int__(self) -> int:
        return int(self._decided())

    def __index__(self) -> int:
        return int(self._decided())

    def __float__(self) -> float:
        return float(self._decided())

    def _decided(self) -> Any:
        if isinstance(self.value, Tensor):
            raise ValueError('it decides by what is in an image')
        self.node.meta['decides'] = True
        return self.value


class _Tracer(fx.Tracer):
    """Runs every step as it is traced."""

    def __init__(self, own: nn.Module, image: Tensor, opened: Set[type[nn.Module]]) -> None:
        super().__init__()
        self.own, self.image, self.opened = own, image, opened
        self.is_running = False  # fx sees every call of a layer meanwhile

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if type(m).forward is nn.Sequential.forward or type(m) in self.opened:
            return False
        # a layer that wraps a whole network is looked into, too
        return not any(m.children()) or _num_parameters(m) < 0.9 * _num_parameters(self.root)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        return forward(*args, **kwargs) if self.is_running else super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Parameters and buffers that the forward itself reads are values, too."""
        if self.is_running or not isinstance(attr_val, Tensor):
            return attr_val
        tensors = (*self.root.named_parameters(), *self.root.named_buffers())
        name = next((name for name, tensor in tensors if tensor is attr_val), None)
        if name is None:
            return attr_val
        if name not in parameter_proxy_cache:
            parameter_proxy_cache[name] = self.create_proxy('get_attr', name, (), {})
        return parameter_proxy_cache[name]

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, Tensor) and not isinstance(a, nn.Parameter) and a not in self.tensor_attrs:
            raise ValueError('it computes with a tensor that no layer has')  # fx would add it to the backbone
        return super().create_arg(a)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *others: Any, **more: Any) -> fx.Proxy:
        if not (torch.is_grad_enabled() and all(map(is_autocast_on, DEVICES))):
            raise ValueError('it switches gradients or mixed precision off for a part, which a trace would lose')
        proxy = super().create_proxy(kind, target, args, kwargs, *others, **more)
        self.is_running = True
        try:
            with torch.no_grad(), torch.autocast('cpu', enabled=False):
                proxy.node.meta['value'] = self._value(proxy.node)
        finally:
            self.is_running = False
        return proxy

    def _value(self, node: fx.Node) -> Any:
        """What a node of the graph makes of the image."""
        args, kwargs = self._known(node.args), self._known(node.kwargs)
        match node.op:
            case 'placeholder':
                return self.image
            case 'get_attr':
                return attrgetter(_path(node.target))(self.own)
            case 'call_module':
                return self.own.get_submodule(_path(node.target))(*args, **kwargs)
        return called(node.target, args, kwargs)

    def _known(self, argument: Any) -> Any:
        """An argument of the graph with what its nodes made, in containers of its own."""
        return _mapped(argument, self._value_of)

    def _value_of(self, node: fx.Node) -> Any:
        if 'value' not in node.meta:  # a tensor that is a plain attribute of a layer
            node.meta['value'] = attrgetter(_path(node.target))(self.own)
        return node.meta['value']


def _num_parameters(layer: nn.Module) -> int:
    return sum(p.numel() for p in layer.parameters())
