"""What can go wrong with a request on its way to a server and back."""

from collections.abc import Callable

from redis import Redis

from tests.support.proxy import Proxy


class Striking(Proxy):
    """Has something happen when it meets a request."""

    def __init__(self, port: int) -> None:
        """In front of the server on that port."""
        super().__init__(port)
        self._awaited = b""
        self._to_come = 0
        self._strike: Callable[[], object] = lambda: None
        #: Whether it did.
        self.has_struck = False

    def strike_at(self, word: bytes, occurrence: int, strike: Callable[[], object]) -> None:
        """Call `strike` before the n-th request with this word is sent on; OSError cuts its connection."""
        self._awaited, self._to_come, self._strike = word, occurrence, strike

    def pass_on(self, request: bytes) -> None:
        """See `Proxy`."""
        if self._to_come and self._awaited in request:
            self._to_come -= 1
            if not self._to_come:
                self.has_struck = True
                self._strike()


def _refuse(proxy: Striking, _client: Redis) -> None:
    proxy.refusing = True
    raise ConnectionResetError


def _lose_request(_proxy: Striking, _client: Redis) -> None:
    raise ConnectionResetError


def _cut_answer(proxy: Striking, _client: Redis) -> None:
    proxy.answer_bytes = 3


def _lose_answer(proxy: Striking, _client: Redis) -> None:
    proxy.answer_bytes = 0


def _hold_answers_back(proxy: Striking, _client: Redis) -> None:
    proxy.drip_s = 3_600


def _kill_clients(_proxy: Striking, client: Redis) -> None:
    client.client_kill_filter(_type="normal", skipme=True)


def _admit_nobody(proxy: Striking, client: Redis) -> None:
    client.config_set("maxclients", 1)
    _kill_clients(proxy, client)


def _fill_memory(_proxy: Striking, client: Redis) -> None:
    client.config_set("maxmemory", 1)


#: What is done when the request is met, with the proxy and a client of the server.
FAULTS: dict[str, Callable[[Striking, Redis], None]] = {
    "connections are refused": _refuse,
    "the request is lost": _lose_request,
    "the answer is lost": _lose_answer,
    "the answer is cut in the middle": _cut_answer,
    "answers are held back": _hold_answers_back,
    "CLIENT KILL": _kill_clients,
    "maxclients": _admit_nobody,
    "memory full": _fill_memory,
}


def heal(proxy: Striking, client: Redis) -> None:
    """End whatever goes wrong."""
    proxy.refusing, proxy.drip_s = False, 0.0
    client.config_set("maxclients", 10_000)
    client.config_set("maxmemory", 0)
