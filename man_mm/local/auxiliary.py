"""The contract of what trains a module: the auxiliary network, where it stands, and the task that it serves."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from mmengine.model import BaseModule, ModuleDict
from torch import Tensor, nn

from ..registry import MODELS
from .dry_run import Shape
from .heads import copied_head, draw_afresh, readers, widen_head
from .names import NO_HEADS
from .partition import Partition
from .units import Activation, Unrolled

__all__ = ['Auxiliary', 'Site', 'Task', 'layers_of', 'tensors_of']

SHARED_HEAD_GRADS = ('sum', 'mean', 'last')


@dataclass(frozen=True)
class Site:
    """Where an auxiliary stands: after which module of which backbone. Read while it is built; the model keeps none.

    Args:
        net: The wrapped backbone.
        unrolled: Its description.
        partition: How it is cut.
        module: Index of the module that the auxiliary trains, from 0.
        shapes: Returns the shape of every unit's output for one image.
        rule: Type of the auxiliary, as errors name it.
    """

    net: nn.Module
    unrolled: Unrolled
    partition: Partition
    module: int
    shapes: Callable[[], list[Shape]]
    rule: str

    @property
    def start(self) -> int:
        """Index of the module's first unit."""
        return self.partition.span(self.module)[0]

    @property
    def end(self) -> int:
        """Index of the first unit after the module."""
        return self.partition.span(self.module)[1]

    @property
    def stage(self) -> str:
        """The stage in which the module ends."""
        return self.unrolled.units[self.end - 1].stage

    @property
    def name(self) -> str:
        """The module's name for error messages."""
        return self.partition.name(self.module)

    def map_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the module's output.

        Raises:
            ValueError: If it is no feature map.
        """
        shape = self.shapes()[self.end - 1]
        if len(shape) != 3 or not all(isinstance(size, int) for size in shape):
            raise ValueError(
                f'auxiliary.type={self.rule!r} reads feature maps (C, H, W), but the output of {self.name} has the '
                f'shape {shape} for an image. man_mm.SLM and man_mm.AugLocal serve such a backbone.'
            )
        return shape


class Task(ABC):
    """The model's task on one batch, as one auxiliary sees it."""

    @abstractmethod
    def neck(self, features: Any) -> Any:
        """Features of the backbone's kind, through the auxiliary's neck or the model's."""

    @abstractmethod
    def loss(self, features: Any) -> dict[str, Any]:
        """The model's dict of losses on what its heads read, with the auxiliary's heads where it has its own."""

    @abstractmethod
    def total(self, features: Any) -> Tensor:
        """The sum of these losses, a scalar."""

    @abstractmethod
    def labels(self) -> Tensor:
        """Class of every image, (N,).

        Raises:
            ValueError: If the model's task is no classification, or images of different classes were mixed.
        """

    @abstractmethod
    def scores(self) -> Tensor:
        """Classes as one-hot rows, or the soft targets of a mixed batch, (N, num_classes).

        Raises:
            ValueError: If the model's task is no classification.
        """

    @abstractmethod
    def images(self) -> Tensor:
        """The batch as the backbone sees it, un-normalised to [0, 1], (N, C, H, W)."""


class Auxiliary(BaseModule):
    """Turns a module's output into the losses that train the module.

    `LocalBackbone` builds one per module but the last, and adds `site` to its config; those of the same `signature`
    may become one.

    Args:
        site: The module and the backbone that it is built for. Read while building; not kept.
        neck: Config of a neck of its own (a list: one after the other), or `shared` for the model's, which every local
            loss then trains.
        head: `shared` for the model's own heads, `private` for one of the same kind as every head that trains, with an
            initialisation of its own, or a dict from the model's attribute to the config of the head to use instead,
            e.g. `dict(bbox_head=dict(type='RetinaHead', ...))`.
        shared_head_grad: Whose gradients reach the parts shared with the model: the `sum` of a step's losses', their
            `mean`, or the `last` one's, the main loss's. Running statistics in shared parts see all these forwards;
            what shared heads count (Dynamic R-CNN's histories, Seesaw's samples) moves with the main loss alone.

    Raises:
        ValueError: If `neck`, `head` or `shared_head_grad` is none of these.
    """

    given_keys: ClassVar[tuple[str, ...]] = ('site',)
    reads_taps = True
    """Whether it reads the backbone's outputs of earlier modules from the feature bank."""
    hands_maps_on = False
    """Whether all that it does with the backbone's outputs of earlier modules is to hand them to a neck."""
    reads_pooled = False
    """Whether it reads the pooled taps of earlier modules from the feature bank."""
    trains_units = True
    """Whether what it has of the backbone's units is trained, where it has any."""
    follows = False
    """Whether weights of it follow those of the wrapped backbone, see `follow_weights`."""
    least_images = 1
    """The smallest batch that it trains on: 2 where vectors are normalised or compared over the batch."""

    def __init__(
        self,
        site: Site,
        neck: dict[str, Any] | list[dict[str, Any]] | str = 'shared',
        head: dict[str, Any] | str = 'shared',
        shared_head_grad: str = 'sum',
    ) -> None:
        super().__init__()
        if neck != 'shared' and not (neck and isinstance(neck, (dict, list))):
            raise ValueError(
                f"auxiliary.neck={neck!r} must be 'shared', the config of a neck, or a list of such configs."
            )
        if head not in ('shared', 'private') and not _is_config_by_name(head):
            raise ValueError(
                f"auxiliary.head={head!r} must be 'shared', 'private', or a dict from the model's attribute to a "
                "config, e.g. dict(bbox_head=dict(type='RetinaHead', ...))."
            )
        if shared_head_grad not in SHARED_HEAD_GRADS:
            raise ValueError(f'auxiliary.shared_head_grad={shared_head_grad!r} must be one of {SHARED_HEAD_GRADS}.')
        self.neck: nn.Module | None = None if isinstance(neck, str) else MODELS.build(neck)
        self.head = head
        self.shared_head_grad = shared_head_grad
        self.heads = ModuleDict()

    @abstractmethod
    def forward(self, x: Activation, taps: Mapping[str, Tensor]) -> Any:
        """Return features for a neck, or for a head of its own; see `local_losses`.

        Args:
            x: The module's output, e.g. (N, C, H, W) or (N, L, C), carrying the module's graph.
            taps: Taps up to the cut: the module's own carry its graph, earlier ones come detached from the bank.
        """

    def local_losses(self, x: Activation, taps: Mapping[str, Tensor], task: Task) -> dict[str, Any]:
        """Return the module's losses, as a model's `loss` does: entries whose name contains `loss` are summed.

        Args:
            x: See `forward`.
            taps: See `forward`.
            task: The model's task on this batch.
        """
        return task.loss(task.neck(self(x, taps)))

    def head_width(self, in_channels: int) -> int:
        """Features that its own head reads, where the model's head reads `in_channels`."""
        return in_channels

    def signature(self) -> tuple[Hashable, ...] | None:
        """All that follows from `site`, apart from names and weights: what modules that share an auxiliary agree in.

        Compared before heads are adopted, between sites whose modules end in the same stage. None, where a rule says
        nothing: it is shared by no two modules. `layers_of` tells what layers show.
        """
        return None

    def shared_parameters(self) -> list[nn.Parameter]:
        """Parameters of the wrapped backbone that it uses as they are, so that its local loss trains them."""
        return []

    def mirrored_keys(self) -> dict[str, str]:
        """State-dict keys of this auxiliary that start as copies of the wrapped backbone's: own key to source key."""
        return {}

    def mirror(self, net: nn.Module) -> None:
        """Start the mirrored weights from `net`'s."""
        sources = tensors_of(net)
        self.load_state_dict({own: sources[source] for own, source in self.mirrored_keys().items()}, strict=False)

    def follow_weights(self, net: nn.Module) -> None:
        """Called after every optimizer step: move what follows weights of `net`, the backbone, towards them."""

    def follow_mode(self, net: nn.Module) -> None:
        """Give mirrored layers the train / eval state of the layers in `net` that they mirror."""

    def adopt_head(self, name: str, module: nn.Module) -> None:
        """Hold a head of its own for the model's attribute `name`, if `head` asks for one."""
        if name in self.heads or name in NO_HEADS:
            return
        if self.head == 'private' and any(p.requires_grad for p in module.parameters()):
            own = copied_head(module)
        elif isinstance(self.head, dict) and name in self.head:
            settings = {key: getattr(module, key) for key in ('train_cfg', 'test_cfg') if hasattr(module, key)}
            own = MODELS.build({**settings, **self.head[name]})
        else:
            return
        for part, in_channels in readers(own):
            width = self.head_width(in_channels)
            if width != in_channels:
                widen_head(part, name, in_channels, width)
            else:
                draw_afresh(part)  # a head may have no initialisation but torch's: its copies would all start alike
        self.heads[name] = own


def _is_config_by_name(head: Any) -> bool:
    """Whether `head` is a non-empty dict of configs."""
    return isinstance(head, dict) and bool(head) and all(isinstance(cfg, dict) for cfg in head.values())


def tensors_of(net: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers by name, also those that a backbone's state dict leaves out (what LoRA adapts)."""
    parameters, buffers = net.named_parameters(remove_duplicate=False), net.named_buffers(remove_duplicate=False)
    return {**dict(parameters), **dict(buffers)}


def layers_of(net: nn.Module) -> tuple[Hashable, ...]:
    """Kinds, settings and sizes of all layers of `net` in order, without their names.

    Settings of layers without parameters are left out: rates of dropout grow from block to block in many networks.
    """
    return tuple((type(layer), *_parameters_of(layer)) for layer in net.modules())


def _parameters_of(layer: nn.Module) -> tuple[Hashable, ...]:
    own = [(name, tuple(p.shape), p.requires_grad) for name, p in layer.named_parameters(recurse=False)]
    buffers = [(name, tuple(buffer.shape)) for name, buffer in layer.named_buffers(recurse=False)]
    return (layer.extra_repr(), *own, *buffers) if own else (*buffers,)
