package istio

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"testing"
)

// ownAddress is one of this machine's 16 million loopback addresses, at which nobody listens at these ports. Manifests
// name ports, and Istio goes by them, so it is the address that differs from one Envoy to another.
func ownAddress(t *testing.T, ports ...int) string {
	t.Helper()
	for range 100 {
		address := fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(250), rand.IntN(250), 1+rand.IntN(250))
		if free(address, ports) {
			return address
		}
	}
	t.Fatalf("ports %v: none of 100 loopback addresses has them free", ports)
	return ""
}

func free(address string, ports []int) bool {
	for _, port := range ports {
		listener, err := net.Listen("tcp", net.JoinHostPort(address, strconv.Itoa(port)))
		if err != nil {
			return false
		}
		_ = listener.Close()
	}
	return true
}
