# Makes the configuration for containers from envoy.yaml:
#
#   sed -f envoy/docker.sed envoy/envoy.yaml
#
# Envoy's own ports listen on every address, as traffic to published ports does not arrive on the container's loopback.
/port_value: \(9901\|1000[01]\)}/s/127\.0\.0\.1/0.0.0.0/
# The versions run in containers of their own. Docker's DNS knows their addresses, which may change when they start again.
# Envoy asks it every five seconds.
/name: reviews-v[12]$/,/load_assignment/s/^\( *\)type: STATIC$/\1type: STRICT_DNS/
/port_value: 8081}/s/127\.0\.0\.1/reviews-v1/
/port_value: 8082}/s/127\.0\.0\.1/reviews-v2/
