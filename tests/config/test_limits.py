"""Every number of the settings tree has limits on both sides: no night begins with one that it can't calculate with."""

import itertools
import typing
from collections.abc import Iterator

import pytest
from pydantic import BaseModel, ValidationError

from pipeline.config import loader
from pipeline.config.base import MOST, MOST_DAYS
from pipeline.config.settings import Settings
from pipeline.core.errors import SettingsError
from pipeline.models.registry import MODELS


def types_of(annotation: object) -> Iterator[object]:
    yield annotation
    for part in typing.get_args(annotation):
        yield from types_of(part)


def sections(cls: type[BaseModel], seen: set[type[BaseModel]]) -> set[type[BaseModel]]:
    """All sections below one."""
    seen.add(cls)
    for field in cls.model_fields.values():
        for kind in types_of(field.annotation):
            if isinstance(kind, type) and issubclass(kind, BaseModel) and kind not in seen:
                sections(kind, seen)
    return seen


NUMBERS = sorted(
    (section.__name__, name, section)
    for section in sections(Settings, set())
    for name, field in section.model_fields.items()
    if {int, float} & {*types_of(field.annotation)}
)
NASTY = (float("nan"), float("inf"), float("-inf"), 10**30, -(10**30), "nan", "1e400", "", "٣")


def accepts(section: type[BaseModel], name: str, value: object) -> bool:
    """Whether a field takes a value, or a list or table of it."""
    forms = (value, [value], [value, value], {"a": value})
    return any(name not in errors_of(section, name, form) for form in forms)


def errors_of(section: type[BaseModel], name: str, value: object) -> set[str]:
    try:
        section.model_validate({name: value})
    except ValidationError as error:
        return {str(each["loc"][0]) for each in error.errors() if each["loc"]} or {name}
    return set()


@pytest.mark.parametrize(("section", "name"), [(section, name) for _, name, section in NUMBERS])
def test_a_number_is_finite_and_has_room(section: type[BaseModel], name: str):
    is_free = int not in types_of(section.model_fields[name].annotation) and not name.endswith(("days", "minutes"))
    nasty = [value for value in NASTY if not (is_free and isinstance(value, int))]  # a weight may be large
    taken = [value for value in nasty if accepts(section, name, value)]
    assert not taken, f"{section.__name__}.{name} takes {taken}"
    huge = MOST_DAYS + 1 if name.endswith(("days", "windows")) else MOST + 1
    if int in types_of(section.model_fields[name].annotation) and name != "seed":
        assert not accepts(section, name, huge)


def test_there_are_numbers():
    assert len(NUMBERS) > 60 and len(list(itertools.groupby(NUMBERS, key=lambda each: each[0]))) > 15


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("export.active_days=1000000000", "more than 100,000"),
        ("budget.minutes=inf", "finite number"),
        ("export.top_n=99999999999999999999", "more than 2,147,483,647"),
        ("checks.max_future_days=nan", "finite number"),
        ("seed=-1", "greater than or equal to 0"),
    ],
)
def test_the_message_names_the_key(override: str, says: str):
    with pytest.raises(SettingsError, match=override.partition("=")[0].rpartition(".")[2]) as error:
        loader.load_settings("sample", "nightly", [override], environ={})
    assert says in str(error.value) and "--set" in str(error.value)


def test_hyperparameters_are_finite():
    taken = [
        (family, name, value)
        for family, model in MODELS.items()
        for name in model.Config.model_fields
        for value in (float("nan"), float("inf"))
        if name not in errors_of(model.Config, name, value)
    ]
    assert len(MODELS) > 10 and not taken
