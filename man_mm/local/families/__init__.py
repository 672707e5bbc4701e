"""The backbone families that `unroll` knows, found by the dotted name of their class: no host library is imported."""

from . import resnet, restoration, transformer  # noqa: F401  (they register their descriptions)

__all__: list[str] = []
