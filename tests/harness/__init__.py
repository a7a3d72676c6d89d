"""What the tests and the demo stand on: a real Envoy, its configuration, clients and load."""
