"""A credential provider of the user's, which gives a login, such as a token, for each new connection."""

import functools
import importlib

from redis.credentials import CredentialProvider


@functools.cache
def credential_provider(path: str) -> CredentialProvider:
    """The provider at ``package.module:attribute``; what is none itself is called, and returns one.

    It is the same for all connections of a process, so that it can keep a token until that expires.

    Raises:
        ValueError: there is none.
    """
    module, _, attribute = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
        provider = found if isinstance(found, CredentialProvider) else found()
    except (Exception, SystemExit) as error:  # a module of the user's ends no worker
        raise ValueError(f"{path} can't be had: {error!r}") from error
    if not isinstance(provider, CredentialProvider):
        raise ValueError(f"{path} is no redis.CredentialProvider")
    return provider
