"""The web page of the telemetry node: its API, its live view, and Grafana's data source."""
