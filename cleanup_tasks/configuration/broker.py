"""Where Celery's messages and results go; only our own application reads it."""

import json
import os
import re
from collections.abc import Set
from typing import Annotated, Literal

from celery.app.backends import BACKEND_ALIASES
from celery.utils.imports import load_extension_class_names
from kombu.transport import TRANSPORT_ALIASES
from pydantic import Field, SecretStr, ValidationInfo, field_validator

from cleanup_tasks.configuration.environment import Environment
from cleanup_tasks.configuration.files import SecretFile

#: URLs that only the coordination Redis may have.
_OUR_SCHEME = re.compile(r"(redis|valkey)s?\+(cluster|sentinel):|valkeys?:", re.IGNORECASE)
CeleryUrl = Annotated[
    SecretStr,
    Field(
        description="a URL that Celery knows: redis://, rediss://, sentinel:// or another; "
        "Celery can't use a Redis Cluster, so take a single server or a Sentinel for it"
    ),
]
TransportOptions = Annotated[
    SecretStr,
    Field(description='a JSON object, as {"master_name": "mymaster"}', validate_default=True),
]
#: Options of a transport -> the URL that they belong to, which may be in a file.
_URL_OF = {
    "celery_broker_transport_options": "celery_broker_url",
    "celery_result_backend_transport_options": "celery_result_backend",
}
#: A class of Python in the place of a scheme.
_CLASS = re.compile(r"[^\W\d]\w*(\.\w+)*[.:][^\W\d]\w*")


def _check_url(url: str, names: Set[str], *, may_be_a_name: bool) -> None:
    """Raise ValueError where Celery does not know a URL's scheme, or would take the URL for something else.

    A result backend may also be a name or a class. Of a scheme as ``db+sqlite`` the first part counts.
    """
    scheme, mark, _ = url.partition("://")
    if not mark and not (may_be_a_name and (scheme in names or _CLASS.fullmatch(scheme))):
        raise ValueError("it has no ://")
    name = scheme.partition("+")[0]
    if names.isdisjoint({name, name.lower()}) and not _CLASS.fullmatch(name):
        raise ValueError("Celery doesn't know the URL's scheme")


class CelerySettings(Environment):
    """Where Celery's messages and results go; only our own application reads it."""

    celery_broker_url: CeleryUrl = SecretStr("redis://localhost:6379/1")
    celery_broker_url_file: Annotated[SecretFile, Field(title="this URL, from a file")] = None
    celery_result_backend: CeleryUrl = SecretStr("redis://localhost:6379/2")
    celery_result_backend_file: Annotated[SecretFile, Field(title="this URL, from a file")] = None
    celery_broker_transport_options: TransportOptions = SecretStr("{}")
    celery_result_backend_transport_options: TransportOptions = SecretStr("{}")
    celery_task_default_queue_type: Literal["classic", "quorum"] = Field(
        "classic", description="classic or quorum, as RabbitMQ has them; other brokers have one kind of queue"
    )

    @field_validator(*(f"{url}{where}" for url in _URL_OF.values() for where in ("", "_file")))
    @classmethod
    def _known_to_celery(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if not value:
            return value
        url = value.get_secret_value()
        if _OUR_SCHEME.match(url):
            raise ValueError("Celery doesn't know the URL")
        if str(info.field_name).startswith("celery_broker"):
            _check_url(url, {*TRANSPORT_ALIASES}, may_be_a_name=False)
        else:
            backends = {*BACKEND_ALIASES, *dict(load_extension_class_names("celery.result_backends"))}
            _check_url(url, backends, may_be_a_name=True)
        return value

    @field_validator(*(f"{url}_file" for url in _URL_OF.values()))
    @classmethod
    def _given_once(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        # Celery itself reads this variable, and prefers it
        if value and os.environ.get(str(info.field_name).removesuffix("_file").upper()):
            raise ValueError("the URL is also given without a file; one of the two has to go")
        return value

    @property
    def broker_url(self) -> str:
        """Where messages go, with its password."""
        return (self.celery_broker_url_file or self.celery_broker_url).get_secret_value()

    @property
    def result_backend(self) -> str:
        """Where results go, with its password."""
        return (self.celery_result_backend_file or self.celery_result_backend).get_secret_value()

    @field_validator(*_URL_OF)
    @classmethod
    def _options(cls, value: SecretStr, info: ValidationInfo) -> SecretStr:
        try:
            options = json.loads(value.get_secret_value())
        except ValueError as error:
            raise ValueError(f"no JSON: {error}") from None
        if not isinstance(options, dict):
            raise ValueError("no object")
        url = _URL_OF[str(info.field_name)]
        its_url = info.data.get(f"{url}_file") or info.data.get(url)
        if its_url and its_url.get_secret_value().startswith("sentinel:") and "master_name" not in options:
            raise ValueError("a sentinel:// URL needs master_name, which is what sentinels call the server")
        return value
