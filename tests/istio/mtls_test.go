package istio

import (
	"maps"
	"strings"
	"testing"

	"istio.io/istio/pilot/pkg/model"
)

// strictBut is STRICT mutual TLS for `reviews`, but for one port of the Pod.
const strictBut = `
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: reviews, namespace: shop}
spec:
  selector: {matchLabels: {app: reviews}}
  mtls: {mode: STRICT}
  portLevelMtls: {PORT: {mode: PERMISSIVE}}
`

// plaintext are the ports of inbound HTTP chains, and whether they take requests without TLS. 0 is any other port.
func (c *controlPlane) plaintext(proxy *model.Proxy) map[uint32]bool {
	c.t.Helper()
	found := map[uint32]bool{}
	http, _ := c.chains(proxy)
	for _, one := range http {
		if one.listener == "virtualInbound" {
			found[one.port] = found[one.port] || one.transport != "tls"
		}
	}
	return found
}

func port(number string) string { return strings.ReplaceAll(strictBut, "PORT", number) }

func TestStrictTLSLeavesNoChainForPlaintextButOnThePortsItNames(t *testing.T) {
	strict := func(but uint32) map[uint32]bool {
		ports := map[uint32]bool{0: false, 9080: false, 9091: false, 9092: false}
		ports[but] = true
		return ports
	}
	for name, test := range map[string]struct {
		text string
		want map[uint32]bool
	}{
		"none":                       {"", map[uint32]bool{0: true, 9080: true, 9091: true, 9092: true}},
		"a port of the service":      {port("9080"), strict(9080)},
		"a port of the Pod alone":    {port("8081"), strict(8081)},
		"the project's own manifest": {without(t, "base/port-level-mtls", "Service", "Deployment"), strict(8081)},
	} {
		t.Run(name, func(t *testing.T) {
			c := start(t, ordinary(), test.text)
			if got := c.plaintext(c.reviews()); !maps.Equal(got, test.want) {
				t.Errorf("without TLS: %v, not %v", got, test.want)
			}
		})
	}
}
