"""What tests and the programs in envoy/ share: a real Envoy, its configuration, upstreams, clients and load."""
