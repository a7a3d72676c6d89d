"""What operators look at: alerts and a dashboard, and a shop behind real Envoys in which all that they show happens.

- `rules` makes istio/observability/prometheus-rule.yaml from rules.yaml.
- `dashboard` makes istio/observability/dashboard.json.
- `shop` runs Envoys with all parts of a policy, and lets each part fail.
- `story` lets these things happen while a Prometheus scrapes.
- `picture` draws the dashboard's panels from their own queries.
"""
