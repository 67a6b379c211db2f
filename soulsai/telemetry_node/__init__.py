"""The telemetry node: record episodes, draw them, and find the best model."""
