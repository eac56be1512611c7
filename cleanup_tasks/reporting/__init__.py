"""What happened: the report, the log, the metrics and where Prometheus reads them."""
