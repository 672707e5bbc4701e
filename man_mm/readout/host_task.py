"""The task of a host model: its own loss, of features that an auxiliary makes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar
from weakref import WeakSet

from torch import Tensor, nn

from ..local import Auxiliary, Task
from ..local.names import holder_path
from .joint_run import in_parts, standing_in
from .values import copied

__all__ = ['HostTask', 'holder_of']


def holder_of(host: nn.Module) -> Any:
    """The part of a model that has backbone, neck and heads: the model itself, or the detector in a tracker."""
    return host.get_submodule('.'.join(holder_path(host._modules)))


class HostTask(Task):
    """The host model's own loss, with its feature extraction replaced by an auxiliary's features.

    Args:
        host: The model whose backbone is a `LocalBackbone`.
        auxiliary: Its neck and heads stand in for the host's where it has its own.
        inputs: A batch as the host gets it, preprocessed.
        targets: Its data samples.

    Attributes:
        holder (nn.Module): What has backbone, neck and heads: the host, or the detector in it.
    """

    extract: ClassVar[str] = 'extract_feat'
    """The holder's method that turns images into what its heads read; `backbone.forward` where it has none."""
    train: ClassVar[str] = 'loss'
    """The host's method that turns inputs and targets into losses; it calls `extract` `num_calls` times."""
    num_calls: ClassVar[int] = 1
    """More than one where a loss joins several frames or views: the backbone runs on all of them at once."""
    changes_targets: ClassVar[bool] = True
    """Whether such methods may change data samples (Fast R-CNN takes proposals out of them): then each loss gets its
    own, of the same tensors."""

    def __init__(self, host: nn.Module, auxiliary: Auxiliary, inputs: Any, targets: Any) -> None:
        self.host: Any = host
        self.holder = holder_of(host)
        self.auxiliary = auxiliary
        self.inputs = inputs
        self.targets = targets

    @classmethod
    def own_targets(cls, targets: Any) -> Any:
        """Data samples for one loss of a step, or to make those of."""
        return copied(targets) if cls.changes_targets else targets

    @staticmethod
    def images_of_calls(inputs: Any, targets: Any) -> list[Tensor]:
        """The images (N, C, H, W) of each call of `extract`, in order and all of one shape."""
        return [inputs]

    def neck(self, features: Any) -> Any:
        """See `Task.neck`."""
        if self.auxiliary.neck is not None:
            return self.auxiliary.neck(features)
        neck = getattr(self.holder, 'neck', None)
        return features if neck is None else neck(features)

    def loss(self, features: Any) -> dict[str, Any]:
        """See `Task.loss`. The losses carry the features' graph."""
        with self._private_heads(), self._extracting(features):
            return getattr(self.host, self.train)(self.inputs, self.own_targets(self.targets))

    def total(self, features: Any) -> Tensor:
        """See `Task.total`."""
        return self.host.parse_losses(self.loss(features))[0]

    def labels(self) -> Tensor:
        """See `Task.labels`."""
        raise self._no_classes()

    def scores(self) -> Tensor:
        """See `Task.scores`."""
        raise self._no_classes()

    def _no_classes(self) -> ValueError:
        return ValueError(
            f'{type(self.host).__name__} has no class of an image to give to an auxiliary that asks for it '
            '(man_mm.PredSim, man_mm.InfoPro): these are rules for classification.'
        )

    def images(self) -> Tensor:
        """See `Task.images`."""
        preprocessor, images = self.host.data_preprocessor, self.inputs
        if getattr(preprocessor, '_enable_normalize', False):
            images = images * preprocessor.std + preprocessor.mean
        if self.host not in _SEEN:
            _refuse_other_ranges(images)
            _SEEN.add(self.host)
        return (images / 255).clamp(0, 1).flatten(0, -4)

    @contextmanager
    def _private_heads(self) -> Iterator[None]:
        parts = self.holder._modules
        own = {name: parts[name] for name in self.auxiliary.heads}
        parts.update(self.auxiliary.heads.items())
        try:
            yield
        finally:
            parts.update(own)

    @contextmanager
    def _extracting(self, features: Any) -> Iterator[None]:
        parts, num_calls = in_parts(features, self.num_calls), 0

        def extract(*args: Any, **kwargs: Any) -> Any:
            nonlocal num_calls
            num_calls += 1
            return parts[min(num_calls, len(parts)) - 1]

        with standing_in(self.holder, self.extract, extract):
            yield
        if num_calls != self.num_calls:
            raise ValueError(
                f'model.type={type(self.host).__name__} calls {self.extract} {num_calls} times in its loss; local '
                f'learning stands in for exactly {self.num_calls}. Such a model needs a readout of its own.'
            )


_SEEN: 'WeakSet[nn.Module]' = WeakSet()
"""Models of whose pixels the range is known; to ask makes a device wait."""


def _refuse_other_ranges(images: Tensor) -> None:
    low, high = (value.item() for value in images.detach().float().aminmax())
    if not -1 < low <= high < 256:  # rounded, where normalised images are turned back
        raise ValueError(
            f'images that an auxiliary reconstructs (man_mm.InfoPro) have pixels of 0 to 255, but these lie between '
            f'{low:.4g} and {high:.4g}, un-normalised by data_preprocessor.mean and .std. Scale them in the pipeline '
            '(16-bit images: by 1 / 257), and normalise them in the data_preprocessor alone.'
        )
