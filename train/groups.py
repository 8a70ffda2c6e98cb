"""Which group of the optimiser a parameter belongs to, and which parameters are trained at all.

A path is `trocr_jax.sharding.path_name`'s: "model/encoder/layers/0/fc1/kernel", "ctc/bias", "lora/…/a".
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import jax

from train.recipe import Group, Recipe
from trocr_jax.config import TrOCRConfig
from trocr_jax.errors import ConfigError
from trocr_jax.sharding import path_name

_LAYER = re.compile(r"(?:^|/)(encoder|decoder)/layers/(\d+)/")
_BOTTOM = re.compile(
    r"(?:^|/)(encoder/(?:patch_embedding/.*|cls_token|distillation_token|position_embeddings)"
    r"|decoder/(?:embed_tokens|embed_positions|embed_norm/.*))(?:/[ab])?$"
)


def assign(paths: Iterable[str], groups: tuple[Group, ...]) -> dict[str, Group]:
    """For each path the first group whose pattern matches it as a whole.

    Raises ConfigError listing the paths that none matches.
    """
    found, left = {}, []
    for path in paths:
        group = next((g for g in groups if re.fullmatch(g.pattern, path)), None)
        if group is None:
            left.append(path)
        else:
            found[path] = group
    if left:
        raise ConfigError(
            f"optimizer.groups: no pattern matches {', '.join(left)}; every parameter must match one as a whole: "
            "add a group for the rest, Group('.*')"
        )
    return found


def rate(path: str, *, group: Group, config: TrOCRConfig, layer_decay: float) -> float:
    """The factor of the learning rate: the group's, times `layer_decay` once for every layer above and once for the
    step from the layers to what stands on them (final norm, bridge, output projection), as in BEiT (Bao et al. 2022).
    Encoder and decoder are counted apart; their embeddings are the layer under the first."""
    sizes = {"encoder": config.encoder.num_layers, "decoder": config.decoder.num_layers}
    layer, bottom = _LAYER.search(path), _BOTTOM.search(path)
    if layer:
        above = sizes[layer[1]] - int(layer[2])
    elif bottom:
        above = sizes[bottom[1].split("/")[0]] + 1
    else:
        above = 0
    return group.rate * float(layer_decay**above)


def split(recipe: Recipe, params: Any) -> tuple[Any, Any]:
    """Parameters as (trained, left alone): two trees of their structure with none where the other has the array.

    Adapters leave the model alone that they stand beside. Raises ConfigError if a parameter matches no group, a group
    no parameter, or nothing is left to train.
    """
    paths = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    groups = assign(paths, recipe.optimizer.groups)
    for group in recipe.optimizer.groups:
        if not any(re.fullmatch(group.pattern, path) for path in paths):
            raise ConfigError(
                f"optimizer.groups: {group.pattern!r} matches no parameter as a whole; the first is {paths[0]!r}"
            )

    def is_frozen(path: tuple[Any, ...]) -> bool:
        name = path_name(path)
        return groups[name].frozen or (recipe.lora is not None and name.startswith("model/"))

    trained = jax.tree_util.tree_map_with_path(lambda path, x: None if is_frozen(path) else x, params)
    if not jax.tree.leaves(trained):
        raise ConfigError("optimizer.groups: all parameters are frozen; leave some to train")
    frozen = jax.tree_util.tree_map_with_path(lambda path, x: x if is_frozen(path) else None, params)
    return trained, frozen


def join(trained: Any, frozen: Any) -> Any:
    """The whole tree from the two parts of `split`."""
    return jax.tree.map(lambda a, b: b if a is None else a, trained, frozen, is_leaf=lambda x: x is None)
