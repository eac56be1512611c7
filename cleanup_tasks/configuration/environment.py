"""Reading variables of the environment: all that is wrong is named in one message."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, Self

from pydantic import ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class InvalidSettings(ValueError):
    """One or more settings are not what they should be; the message names each with what is accepted."""

    @classmethod
    def of(cls, faults: Iterable[str]) -> Self:
        """One text for each fault; one that several targets share is named once."""
        return cls(f"invalid settings: {'; '.join(dict.fromkeys(faults))}")


class Environment(BaseSettings):
    """The variables of one use. An empty variable counts as unset, but for `CLEANUP_LOG_FILE`."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)

    @field_validator("*", mode="before")
    @classmethod
    def _unset(cls, value: Any, info: Any) -> Any:
        if value == "" and info.field_name != "cleanup_log_file":
            return cls.model_fields[info.field_name].default
        return value

    @classmethod
    def read(cls, **overrides: Any) -> Self:
        """Read the environment; `overrides` win over it.

        Raises:
            InvalidSettings: all that is wrong, one after the other, without the values of secrets.
        """
        try:
            return cls(**overrides)
        except ValidationError as error:
            raise InvalidSettings.of(faults(error, cls)) from None


def faults(error: ValidationError, model: type[Any], spelled: Mapping[str, str] | None = None) -> list[str]:
    """All that a model refused: each name, what is accepted, why, and what came (no secrets).

    `spelled` has the names of fields that the user knows by another one than the variable's.
    """
    texts = []
    is_environment = issubclass(model, BaseSettings)
    for fault in error.errors():
        name = str(fault["loc"][0])
        known = model.model_fields.get(name)
        if known is None:
            texts.append(f"{name}: {not_known(name, model.model_fields)}")
            continue
        # A URL with a password may have strayed into any of them.
        shown = "Secret" not in str(known.annotation) and "@" not in str(fault["input"])
        # what our own checks say holds nothing of a secret
        why = fault["ctx"]["error"] if fault["type"] == "value_error" else ""
        why = why or (f"not {fault['input']!r}" if shown else "")
        as_spelled = (spelled or {}).get(name, name.upper() if is_environment else name)
        texts.append(f"{as_spelled}: {known.description}" + (f" ({why})" if why else ""))
    return texts


def not_known(name: str, known: Iterable[str]) -> str:
    """That a name is not known, and the one that may have been meant, or all."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    return f"not known; did you mean {near[0]}?" if near else f"not known; known are {', '.join(known)}"
