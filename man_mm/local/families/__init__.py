"""The backbone families that `unroll` knows, found by the dotted name of their class: no host library is imported."""

from . import convnext, mobilenet, resnet, restoration, swin, transformer  # noqa: F401  (they register themselves)

__all__: list[str] = []
