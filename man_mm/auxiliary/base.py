"""The interface of an auxiliary network: what trains a module."""

import copy
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from mmengine.model import BaseModule, ModuleDict
from torch import Tensor, nn

from ..local import Unrolled
from ..local.host import NO_HEADS
from ..registry import MODELS

__all__ = ['Auxiliary']

SHARED_HEAD_GRADS = ('sum', 'mean', 'last')


class Auxiliary(BaseModule):
    """Turns a module's output into features that the readout can turn into the task's losses.

    `LocalBackbone` builds one per module but the last, and adds `net`, `unrolled` and `end` to its config.

    Args:
        net: The wrapped backbone. Read while building; not kept.
        unrolled: Its description.
        end: Index of the first unit after the module that this auxiliary trains.
        neck: Config of a neck of its own (a list: one after the other), or `shared` for the model's, which every local
            loss then trains.
        head: `shared` for the model's own heads, `private` for one of the same kind as every head that trains, with an
            initialisation of its own, or a dict from the model's attribute to the config of the head to use instead,
            e.g. `dict(bbox_head=dict(type='RetinaHead', ...))`.
        shared_head_grad: Whose gradients reach the parts shared with the model: the `sum` of the K losses', their
            `mean`, or the `last` one's, the main loss's. Running statistics in shared parts see all K forwards.

    Raises:
        ValueError: If `neck`, `head` or `shared_head_grad` is none of these.
    """

    def __init__(
        self,
        net: nn.Module,
        unrolled: Unrolled,
        end: int,
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
    def forward(self, x: Tensor, taps: Mapping[str, Tensor]) -> Any:
        """Return what the wrapped backbone would return.

        Args:
            x: The module's output (N, C, H, W), carrying the module's graph.
            taps: Taps up to the cut: the module's own carry its graph, earlier ones come detached from the bank.
        """

    def mirrored_keys(self) -> dict[str, str]:
        """State-dict keys of this auxiliary that start as copies of the wrapped backbone's: own key to source key."""
        return {}

    def mirror(self, net: nn.Module) -> None:
        """Start the mirrored weights from `net`'s."""
        sources = net.state_dict()
        self.load_state_dict({own: sources[source] for own, source in self.mirrored_keys().items()}, strict=False)

    def follow_mode(self, net: nn.Module) -> None:
        """Give mirrored layers the train / eval state of the layers in `net` that they mirror."""

    def adopt_head(self, name: str, module: nn.Module) -> None:
        """Hold a private head for the model's attribute `name`, if `head` asks for one."""
        if name in self.heads or name in NO_HEADS:
            return
        if self.head == 'private' and any(p.requires_grad for p in module.parameters()):
            self.heads[name] = copy.deepcopy(module)
        elif isinstance(self.head, dict) and name in self.head:
            settings = {key: getattr(module, key) for key in ('train_cfg', 'test_cfg') if hasattr(module, key)}
            self.heads[name] = MODELS.build({**settings, **self.head[name]})


def _is_config_by_name(head: Any) -> bool:
    """Whether `head` is a non-empty dict of configs."""
    return isinstance(head, dict) and bool(head) and all(isinstance(cfg, dict) for cfg in head.values())
