"""Parts by name: archives, objectives, strategies, classifiers and queries, ours and those of other packages.

    OBJECTIVES = Registry("objective", Objective, {"byol": "rspretrain.objectives.byol:Byol", …})
    OBJECTIVES.find("byol")                          # a name of the list
    OBJECTIVES.find("mypackage.mine:MyObjective")    # an import path: a class of any installed package

A module is imported when its part is asked for. A new part is a class and, if it needs a short name, one row of a list.
"""

import difflib
import importlib
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Generic, TypeGuard, TypeVar, final

from pydantic import Field, GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

from rspretrain.settings import Settings

Part = TypeVar("Part")


class NamedSettings(Settings):
    """Settings of a part that a configuration chooses by `name`."""

    name: str = Field(description="Name in the list, or an import path such as mypackage.mine:MyClass.")


def is_import_path(name: str) -> bool:
    """Whether `name` has the form package.module:Class."""
    return ":" in name


@final
class Registry(Generic[Part]):
    """The parts of one kind: name -> import path of a class. `base` is the class that all of them extend."""

    def __init__(self, kind: str, base: type[Part], parts: Mapping[str, str]) -> None:
        self.kind, self.base, self.names = kind, base, tuple(parts)
        self._paths = dict(parts)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def find(self, name: str) -> type[Part]:
        """The class of a name or an import path. ValueError if the name is unknown or the path does not load."""
        if not is_import_path(name) and name not in self:
            raise ValueError(self.unknown(name))
        return self._load(self._paths.get(name, name))

    def unknown(self, name: str, also: tuple[str, ...] = ()) -> str:
        """The error for a name that is neither in the list nor in `also`: the names, the import path, the nearest."""
        names = (*also, *self.names)
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        remedy = f"Did you mean {near[0]!r}?" if near else "Use one of these."
        expected = f"one of {', '.join(names)}, or an import path such as {self._example}"
        return f"Unknown {self.kind} {name!r}, expected {expected}. {remedy}"

    @property
    def _example(self) -> str:
        return f"mypackage.mine:My{self.base.__name__}"

    def _load(self, path: str) -> type[Part]:
        where = f"The {self.kind} {path!r}"
        module_name, _, attribute = path.partition(":")
        if not attribute.isidentifier() or not all(part.isidentifier() for part in module_name.split(".")):
            raise ValueError(f"{where} is not of the form package.module:Class, as in {self._example}. Correct it.")
        found = getattr(_import(where, module_name), attribute, None)
        if found is None:
            raise ValueError(f"{where}: {self._absent(module_name, attribute)}")
        if not self._is_part(found):
            what = "a class" if inspect.isclass(found) else f"of type {type(found).__name__}"
            expected = f"{self.base.__module__}.{self.base.__name__}"
            raise ValueError(f"{where} is {what}, expected a subclass of {expected}. Let it extend that class.")
        self._check(where, found)
        return found

    def _absent(self, module: str, attribute: str) -> str:
        own = [name for name, value in vars(importlib.import_module(module)).items() if self._is_part(value)]
        near = difflib.get_close_matches(attribute, own, n=1, cutoff=0.5)
        remedy = f"Did you mean {near[0]!r}?" if near else f"It has {', '.join(own) or f'no {self.kind}'}."
        return f"the module {module} has no {attribute!r}. {remedy}"

    def _is_part(self, value: Any) -> TypeGuard[type[Part]]:
        return inspect.isclass(value) and issubclass(value, self.base) and value is not self.base

    def _check(self, where: str, found: type[Part]) -> None:
        """ValueError if the class lacks methods, or its settings are not those of its kind."""
        if missing := sorted(getattr(found, "__abstractmethods__", ())):
            raise ValueError(f"{where} is abstract, expected a class that defines {', '.join(missing)}. Define them.")
        expected, settings = getattr(self.base, "Settings", None), getattr(found, "Settings", None)
        if expected is not None and not (inspect.isclass(settings) and issubclass(settings, expected)):
            raise ValueError(
                f"{where} has Settings = {settings!r}, expected a subclass of {expected.__module__}."
                f"{expected.__name__}. Extend that model, and set Settings to yours."
            )


def _import(where: str, name: str) -> ModuleType:
    """The module. ValueError if a part of its name does not exist, or if its own code fails."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):  # a module that it imports is missing
            raise ValueError(f"{where}: importing {name} failed: {error}. Install what it imports.") from error
        parent = error.name.rpartition(".")[0]
        if parent:
            remedy = f"the package {parent} has no module {error.name.rpartition('.')[2]!r}. Correct the name."
        else:
            remedy = f"there is no package {error.name!r}. Install it, or add its folder to PYTHONPATH."
        raise ValueError(f"{where}: {remedy}") from None
    except Exception as error:
        cause = f"{type(error).__name__}: {error}"
        raise ValueError(f"{where}: importing {name} failed with {cause}. Correct the module.") from error


@final
@dataclass(frozen=True)
class SettingsByName:
    """Annotation of a field whose model is the `Settings` of the part that the field's own key `name` chooses."""

    registry: Registry[Any]
    default: str | None = None  # name of the part where the section has none; None: the section must have one
    undecided: str | None = None  # a name that is resolved later; its model is that of the base class

    @property
    def kind(self) -> str:
        """The kind of part that the section configures: objective, strategy …"""
        return self.registry.kind

    @property
    def names(self) -> tuple[str, ...]:
        """All names of the list."""
        return (*([self.undecided] if self.undecided else []), *self.registry.names)

    def model(self, name: str) -> type[NamedSettings]:
        """The settings of a part. ValueError as `Registry.find`."""
        if name == self.undecided:
            return self.registry.base.Settings  # type: ignore[no-any-return]
        if not is_import_path(name) and name not in self.registry:
            raise ValueError(self.registry.unknown(name, (self.undecided,) if self.undecided else ()))
        return self.registry.find(name).Settings  # type: ignore[no-any-return]

    def parse(self, section: Any) -> NamedSettings:
        """The settings in a section of a configuration. Locations in a ValidationError are relative to the section."""
        if isinstance(section, self.registry.base.Settings):
            return section  # type: ignore[no-any-return]
        if not isinstance(section, Mapping):
            message = f"Input should be a section, such as {{name: {self.names[0]}}}"
            raise _error((), section, "section", message)
        name = section.get("name", self.default)
        if name is None:
            message = f"{self.kind}.name is missing. Set it to one of {', '.join(self.names)}, or an import path."
            raise _error(("name",), section, "value_error", message)
        try:
            model = self.model(str(name))
        except ValueError as error:
            raise _error(("name",), name, "value_error", str(error)) from error
        return model.model_validate({**section, "name": str(name)})

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.parse)


def _error(path: tuple[str, ...], given: Any, kind: Any, message: str) -> ValidationError:
    custom = PydanticCustomError(kind, "{message}", {"message": message})
    return ValidationError.from_exception_data("section", [InitErrorDetails(type=custom, loc=path, input=given)])
