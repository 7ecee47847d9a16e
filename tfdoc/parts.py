"""Parts: recipes for components, written before anything is built.

Every component takes the width that it works on as its first argument and its
settings as keywords. A part keeps the component and its settings; `build` adds
the width. Variants of a model are then other parts in the same slots.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from itertools import groupby
from types import MappingProxyType
from typing import Any, Generic, NoReturn, TypeVar

__all__ = ["Part", "part"]

M_co = TypeVar("M_co", covariant=True)


class Part(Generic[M_co]):
    """A recipe for a component: frozen, printable, comparable, hashable.

    Made by :func:`part`. Two parts are equal when they have the same component
    and the same settings, defaults written out or not.

    Attributes
    ----------
    component : collections.abc.Callable
        What is built: ``component(width, **settings)``.
    settings : collections.abc.Mapping
        The keywords that were given, read-only.

    Examples
    --------
    >>> from tfdoc import RMSNorm, part
    >>> norm = part(RMSNorm, eps=1e-5)
    >>> norm
    RMSNorm(eps=1e-05)
    >>> norm.build(64).weight.shape
    torch.Size([64])
    """

    __slots__ = ("component", "settings")

    component: Callable[..., M_co]
    settings: Mapping[str, Any]

    def __init__(self, component: Callable[..., M_co], **settings: Any) -> None:
        _check(component, settings)
        object.__setattr__(self, "component", component)
        object.__setattr__(self, "settings", MappingProxyType(settings))

    def build(self, *widths: int, **more: Any) -> M_co:
        """Build the component for vectors of these widths.

        Parameters
        ----------
        *widths : int
            The component's positional arguments: mostly one, the width D; none for a
            core of attention; two for what leads from one width to another.
        **more
            Settings that only the builder knows, such as a shared dropout; they
            are checked like the part's own.
        """
        return self.component(*widths, **(self.but(**more) if more else self).settings)

    def but(self, **changes: Any) -> Part[M_co]:
        """Return a copy with some settings changed.

        Examples
        --------
        >>> from tfdoc import FeedForward, part
        >>> part(FeedForward, hidden_dim=64).but(hidden_dim=128)
        FeedForward(hidden_dim=128)
        """
        return Part(self.component, **{**self.settings, **changes})

    def _identity(self) -> tuple[Any, ...]:
        defaults = {
            name: p.default
            for name, p in _keywords(self.component).items()
            if p.default is not p.empty
        }
        full = defaults | dict(self.settings)
        return self.component, frozenset(full.items())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Part):
            return NotImplemented
        return self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(
            f"a part is frozen, {name!r} cannot be set; "
            f"part.but({name}=...) makes a changed copy"
        )

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"a part is frozen, {name!r} cannot be deleted")

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.component, dict(self.settings))

    def __repr__(self) -> str:
        return _show(self, 0)


def part(component: Callable[..., M_co], **settings: Any) -> Part[M_co]:
    """Write down a recipe for a component, checked at once.

    Parameters
    ----------
    component : class or function
        Takes the width as its first argument and everything else by keyword.
    **settings
        Keywords of the component; every value must be hashable.

    Returns
    -------
    Part
        ``part(...).build(width)`` builds the component.

    Raises
    ------
    TypeError
        If a keyword is unknown (the nearest name is suggested), a required one is
        missing, or a value is not hashable.

    Examples
    --------
    >>> from tfdoc import Causal, FeedForward, MultiHeadAttention, PreNormBlock, part
    >>> block = part(
    ...     PreNormBlock,
    ...     attention=part(MultiHeadAttention, num_heads=4, mask=Causal()),
    ...     feedforward=part(FeedForward, hidden_dim=256),
    ... )
    >>> sum(p.numel() for p in block.build(64).parameters())
    49984
    """
    return Part(component, **settings)


def _rebuild(component: Callable[..., M_co], settings: dict[str, Any]) -> Part[M_co]:
    return Part(component, **settings)


def _keywords(component: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return every parameter of the component that its surroundings do not know.

    Those know the widths: the first argument, and others that have no default and need
    no keyword.
    """
    parameters = list(inspect.signature(component).parameters.values())
    keyword_only, empty = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.empty
    catch_all = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    widths = [
        p
        for n, p in enumerate(parameters)
        if p.kind is not keyword_only and (n == 0 or p.default is empty)
    ]
    return {
        p.name: p for p in parameters if p not in widths and p.kind not in catch_all
    }


def _name(component: Any) -> str:
    return str(getattr(component, "__name__", component))


def _check(component: object, settings: dict[str, Any]) -> None:
    if isinstance(component, Part) or not callable(component):
        raise TypeError(
            f"part() takes a component class first, got {component!r}; "
            "a part changes with .but(...)"
        )
    known, name = _keywords(component), _name(component)
    for key, value in settings.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}? It takes" if near else "it takes"
            raise TypeError(f"{name} has no setting {key!r}; {hint} {[*known]}")
        try:
            hash(value)
        except TypeError:
            raise TypeError(
                f"{name}: {key}={value!r} is not hashable "
                f"({type(value).__name__}); a part holds fixed values, "
                "such as a tuple instead of a list"
            ) from None
    missing = [
        k for k, p in known.items() if p.default is p.empty and k not in settings
    ]
    if missing:
        raise TypeError(f"{name} also needs {', '.join(f'{k}=...' for k in missing)}")


_LINE = 79


def _show(value: Any, indent: int, label: str = "") -> str:
    """Write `label` and a value as a call; break only lines that would be too long."""
    if isinstance(value, Part):
        head = f"{label}{_name(value.component)}("
        items = [(f"{key}=", v) for key, v in value.settings.items()]
    elif isinstance(value, tuple) and any(isinstance(v, Part) for v in value):
        runs = [(len(list(run)), v) for v, run in groupby(value)]
        folded = [("" if n == 1 else f"{n} × ", v) for n, v in runs]
        if len(folded) == 1 and len(value) > 1:
            return _show(folded[0][1], indent, label + folded[0][0])
        head, items = f"{label}(", folded
    else:
        plain_function = inspect.isfunction(value) or inspect.isbuiltin(value)
        return label + (_name(value) if plain_function else repr(value))
    line = head + ", ".join(_show(v, 0, key) for key, v in items) + ")"
    if "\n" not in line and indent + len(line) < _LINE:  # a comma may follow
        return line
    rows = [f"{' ' * (indent + 2)}{_show(v, indent + 2, key)}," for key, v in items]
    return "\n".join([head, *rows, " " * indent + ")"])
