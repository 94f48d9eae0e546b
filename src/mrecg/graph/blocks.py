"""Find the blocks of a network in its tree of modules, without knowing any block class."""

import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from torch import fx, nn

__all__ = ["BlockTree", "free_name"]

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


class BlockTree:
    """Hold the blocks of a model: the outermost modules with several layers that contain no smaller blocks.

    From the top, a module is opened when it is the model, a container, the owner of every layer, or when somewhere
    inside it several children of one class hold several layers each (a stage of blocks, whatever class the stage
    has). A module that is not opened and holds at least two layers is a block.

    Args:
        model: the original model.
        layers: the graph nodes of its layers.
    """

    def __init__(self, model: nn.Module, layers: Sequence[fx.Node]) -> None:
        self._model = model
        self._layers: Counter[str] = Counter()
        self._children: dict[str, dict[str, None]] = {}
        for layer in layers:
            paths = [path for _, path in module_stack(layer)]
            self._layers.update(paths)
            for parent, child in itertools.pairwise(paths):
                self._children.setdefault(parent, {})[child] = None
        self._total = len(layers)
        self.blocks = frozenset(self._find(""))

    def block_of(self, node: fx.Node) -> str | None:
        """Return the key of the block call that `node` belongs to, or `None`; two calls of one module have two keys."""
        return next((key for key, path in module_stack(node) if path in self.blocks), None)

    def path_of(self, layer: fx.Node) -> str:
        """Return the path of a layer's block; outside of blocks, of the outermost module with no other layer."""
        paths = [path for _, path in module_stack(layer)]
        alone = (
            path for path in paths if path in self.blocks or (path and self._layers[path] == 1)
        )
        return next(alone, paths[-1])

    def _find(self, path: str) -> Iterable[str]:
        if not self._is_opened(path):
            yield path
            return
        for child in self._children.get(path, ()):
            if self._layers[child] > 1:
                yield from self._find(child)

    def _is_opened(self, path: str) -> bool:
        return (
            path == ""
            or self._layers[path] == self._total
            or isinstance(self._model.get_submodule(path), _CONTAINERS)
            or self._holds_blocks(path)
        )

    def _holds_blocks(self, path: str) -> bool:
        children = [child for child in self._children.get(path, ()) if self._layers[child] > 1]
        modules = [self._model.get_submodule(child) for child in children]
        classes = Counter(type(module) for module in modules if not isinstance(module, _CONTAINERS))
        return any(count > 1 for count in classes.values()) or any(
            map(self._holds_blocks, children)
        )


def module_stack(node: fx.Node) -> Collection[tuple[str, str]]:
    """Return the modules whose forward made `node`, from the model inwards, as pairs: key of the call, path of the module.

    `torch.export` records them. Keys of repeated calls end in `@1`, `@2`, …; the path is the same for all calls.
    """
    stack = node.meta.get("nn_module_stack") or {}
    return [(str(key), str(value[0])) for key, value in stack.items()]


def free_name(owner: nn.Module, name: str) -> str:
    """Return `name`, extended until `owner` has no attribute of that name."""
    while hasattr(owner, name):
        name += "_again"
    return name
