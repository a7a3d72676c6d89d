"""The tests and the programs in envoy/ share this: a real Envoy, its configuration, upstreams, clients and load."""
