"""What a forward pass takes, counted on the meta device: nothing is allocated, nothing computed."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, TypeVar, cast, final

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import flop_registry

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

P = ParamSpec("P")
Made = TypeVar("Made", bound=nn.Module)

KNOWN = 2**16
"""How many operations are remembered."""

MAKERS = 2**13
"""How many modules are remembered."""

PLAIN = frozenset(
    {type(None), bool, int, float, complex, str, torch.dtype, torch.device, torch.layout, torch.memory_format}
)
"""Types of values that hold nothing else."""

UNKNOWN = cast("Hashable", [])
"""What has no hash."""


class Effect(NamedTuple):
    """What an operation or a module does to a count, wherever it sees meta tensors of the same layouts.

    Attributes:
        flops: that it takes.
        peak: bytes that are alive at once in it, besides those that were alive before.
        outputs: the layouts of the fresh tensors that it returns.
        single: whether it returns a tensor, not a tuple.
    """

    flops: int
    peak: int
    outputs: tuple[tuple[tuple[int, ...], tuple[int, ...], torch.dtype], ...]
    single: bool


_known: dict[Hashable, Effect] = {}

_active: ContextVar[Counter | None] = ContextVar("_active", default=None)
"""The counter of the forward pass that runs."""

_standing: ContextVar[bool] = ContextVar("_standing", default=False)
"""Whether `count_once` makes what stands for a module."""


class Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts a forward pass: its operations by torch's own formulas, its memory by the storages alive.

    What an operation takes depends on the layouts of what it is given. The meta device is slow to tell: it is
    asked once, and the answer is remembered. Tensors of other devices have values, which a network may read:
    an operation that takes or returns one runs each time.

    Attributes:
        flops: so far; two are a multiply-accumulate.
        peak: the most bytes that were alive at once, the inputs among them.
    """

    def __init__(self, *inputs: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = self.peak = self.alive = 0
        self._storages: dict[weakref.ref[torch.UntypedStorage], int] = {}
        for example in inputs:
            self._hold(example)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return False: torch need not keep its compiler away, which takes longer than a call."""
        return False

    def __enter__(self) -> Counter:
        self._before = _active.set(self)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)  # type: ignore[no-untyped-call]
        _active.reset(self._before)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Count nothing of what runs within."""
        self.__exit__(None, None, None)
        try:
            yield
        finally:
            self.__enter__()

    def take(self, effect: Effect) -> None:
        """Count what is known, but for the outputs: they are held when they are made."""
        self.flops += effect.flops
        self.peak = max(self.peak, self.alive + effect.peak)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten.empty_strided.default:  # by far the most frequent; quicker than remembered
            fresh = func(*args, **kwargs or {})
            self._hold(fresh)
            return fresh
        told = func, layouts(args), layouts(kwargs) if kwargs else (), torch.get_default_dtype()
        try:
            effect = _known.get(told)
        except TypeError:  # more than layouts matters
            return self._run(func, args, kwargs or {})[0]
        if effect is None:
            out, effect = self._run(func, args, kwargs or {})
            if effect is not None:
                if len(_known) >= KNOWN:
                    _known.clear()
                _known[told] = effect
            return out
        self.take(effect)
        made = [
            torch.empty_strided(size, stride, dtype=dtype, device="meta")
            for size, stride, dtype in effect.outputs
        ]
        for tensor in made:
            self._hold(tensor)
        return made[0] if effect.single else tuple(made)

    def _run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Effect | None]:
        """Return what an operation returns, and its effect if all of that is fresh and on the meta device."""
        operator = func.overloadpacket
        if operator is torch.ops.aten.native_batch_norm and args[0].is_meta:
            # Without the statistics, which meta tensors keep and others drop.
            out = torch.empty_like(args[0]), args[0].new_empty(0), args[0].new_empty(0)
        else:
            out = func(*args, **kwargs)
        flops = flop_registry[operator](*args, **kwargs, out_val=out) if operator in flop_registry else 0
        self.flops += flops
        every = tree_leaves((args, kwargs))
        given = {id(leaf.untyped_storage()) for leaf in every if isinstance(leaf, Tensor)}
        leaves, before, whole = tree_leaves(out), self.alive, True
        for leaf in leaves:
            if isinstance(leaf, Tensor) and id(leaf.untyped_storage()) not in given:
                whole &= self._hold(leaf) and dense(leaf) and leaf.is_meta
            else:
                whole = False
        if not whole or not (isinstance(out, Tensor) or (isinstance(out, tuple) and len(out) == len(leaves))):
            return out, None
        outputs = tuple((tuple(t.shape), t.stride(), t.dtype) for t in leaves)
        return out, Effect(flops, self.alive - before, outputs, isinstance(out, Tensor))

    def holds(self, tensor: Tensor) -> bool:
        """Return whether a tensor's memory is counted."""
        return weakref.ref(tensor.untyped_storage(), self._free) in self._storages

    def _hold(self, tensor: Tensor) -> bool:
        """Count a tensor's memory until it is freed; return whether it was not counted already."""
        storage = tensor.untyped_storage()
        reference = weakref.ref(storage, self._free)
        if reference in self._storages:
            return False
        size = self._storages[reference] = storage.nbytes()
        self.alive += size
        self.peak = max(self.peak, self.alive)
        return True

    def _free(self, reference: weakref.ref[torch.UntypedStorage]) -> None:
        self.alive -= self._storages.pop(reference)


def layouts(value: Any) -> Hashable:
    """Return what an effect depends on: layouts in place of meta tensors, and plain values with their types.

    It has no hash where more matters: tensors of other devices have values, those of other classes may do
    anything, and objects may change or hold tensors.
    """
    kind = type(value)
    if kind in PLAIN:
        return kind, value
    if kind is Tensor or kind is nn.Parameter:
        return (value.shape, value.stride(), value.dtype) if value.is_meta else UNKNOWN
    if isinstance(value, tuple | list):
        return kind, *[layouts(own) for own in value]
    if isinstance(value, dict):
        return kind, *[(layouts(key), layouts(own)) for key, own in value.items()]
    return UNKNOWN


def dense(tensor: Tensor) -> bool:
    """Return whether a tensor has no more memory than its numbers."""
    return tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()


def count_once(make: Callable[P, Made], *args: P.args, **kwargs: P.kwargs) -> Made:
    """Return `make(*args, **kwargs)`, of which costs are counted once for all networks that have it.

    Where a network is built to be counted, this returns what stands for the module: without weights, and
    known by what it is given and returns alone. So a space counts a network without making its operations.

    Args:
        make: a function or a class that makes the same module of equal arguments, but for its weights.
        args: if one has no hash, the module is made each time.
        kwargs: as `args`.
    """
    if not _standing.get():
        return make(*args, **kwargs)
    named = tuple(kwargs.items())
    try:
        recipe = _recipe(make, args, named, kinds((make, *args, *named)), torch.get_default_dtype())
    except TypeError:  # no hash
        return make(*args, **kwargs)
    return cast(Made, StandIn(recipe))


def kinds(values: tuple[Any, ...]) -> Hashable:
    """Return what `==` does not tell of tuples: their types, and those of all in them."""
    return type(values), *[kinds(own) if isinstance(own, tuple) else type(own) for own in values]


def countable(build: Callable[[], Made]) -> Made:
    """Return what is built on the meta device for evaluation, with stand-ins for what `count_once` makes."""
    token = _standing.set(True)
    try:
        with torch.device("meta"):
            return build().eval()
    finally:
        _standing.reset(token)


def lazy(module: nn.Module) -> bool:
    """Return whether a module itself learns the shapes of its weights from what it is given first."""
    return isinstance(module, LazyModuleMixin) and module.has_uninitialized_params()


def parameters(network: nn.Module) -> int | None:
    """Return the trainable weights of a network, of which stand-ins may be parts.

    None: that depends on what lazy layers in it are given.
    """
    seen, total = set[int](), 0
    for module in network.modules():
        if lazy(module):
            return None
        if isinstance(module, StandIn) and module.made is None:
            known = module.recipe.parameters
            if known is None:
                return None
            total += known
        for weight in module.parameters(recurse=False):
            if weight.requires_grad and id(weight) not in seen:
                seen.add(id(weight))
                total += weight.numel()
    return total


class Recipe:
    """How a module is made, and what is known of all that are made so."""

    def __init__(
        self, make: Callable[..., nn.Module], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        self._make = lambda: make(*args, **kwargs)
        self._effects: dict[Hashable, Effect | int | str | None] = {}
        self._parameters: int | None = None
        self._made = False

    def module(self) -> nn.Module:
        """Return one that is made so, on the meta device."""
        made = countable(self._make)
        if not self._made:
            self._parameters, self._made = parameters(made), True
        return made

    @property
    def parameters(self) -> int | None:
        """Trainable weights of each; None: as in `parameters`."""
        if not self._made:
            self.module()
        return self._parameters

    def effect(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], counter: Counter
    ) -> Effect | int | str | None:
        """Return what it does to a count.

        A place or a name: it passes on that input. None: only running it tells.
        """
        told = layouts(args), layouts(kwargs) if kwargs else ()
        try:
            known = told in self._effects
        except TypeError:  # more than layouts matters
            return None
        if not known:
            with counter.paused():
                self._effects[told] = self._measured(args, kwargs)
        return self._effects[told]

    def _measured(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Effect | int | str | None:
        args, kwargs = tree_map_only(
            Tensor,
            lambda x: torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta"),
            (args, kwargs),
        )
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        module = self.module()
        if self.parameters is None:
            return None
        with torch.no_grad(), Counter(*given) as counter:
            before = counter.alive
            out = module(*args, **kwargs)
        idle = not counter.flops and counter.peak == before
        inputs: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
        for place, one in inputs:
            if out is one and idle:
                return place
        storages = [one.untyped_storage() for one in given]
        if (
            not isinstance(out, Tensor)
            or not (out.is_meta and counter.holds(out) and dense(out))
            or any(out.untyped_storage() is own for own in storages)
        ):
            return None
        output = tuple(out.shape), out.stride(), out.dtype
        return Effect(counter.flops, counter.peak - before, (output,), True)


@lru_cache(MAKERS)
def _recipe(
    make: Callable[..., nn.Module],
    args: tuple[Hashable, ...],
    kwargs: tuple[tuple[str, Hashable], ...],
    types: Hashable,
    dtype: torch.dtype,
) -> Recipe:
    return Recipe(make, args, dict(kwargs))


@final
class StandIn(nn.Module):
    """Stands for a module where a network is counted.

    Attributes:
        recipe: of the module.
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe

    @property
    def made(self) -> nn.Module | None:
        """The module, where only running it told what it does; None: it was not made."""
        return self._modules.get("module")

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the module would, having counted what it takes."""
        counter, module = _active.get(), self.made
        if counter is not None and module is None:
            effect = self.recipe.effect(args, kwargs, counter)
            if isinstance(effect, Effect):
                counter.take(effect)
                [(size, stride, dtype)] = effect.outputs
                return torch.empty_strided(size, stride, dtype=dtype, device="meta")
            if effect is not None:
                return kwargs[effect] if isinstance(effect, str) else args[effect]
        if module is None:
            with counter.paused() if counter else nullcontext():
                self.module = module = self.recipe.module()
                if self.recipe.parameters is None:  # weights are no activations: they are made before
                    module(*args, **kwargs)
        return module(*args, **kwargs)
