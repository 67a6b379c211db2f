"""The page, the JSON API and the data source for Grafana: what a person sees of a run."""
