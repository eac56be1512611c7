"""Redis: addresses, clients, pipelining, single servers and clusters. Knows no coordinator."""
