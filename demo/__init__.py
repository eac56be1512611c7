"""A whole fleet on this machine: embedded servers, a worker, a beat, a dashboard. Tests use it too."""
