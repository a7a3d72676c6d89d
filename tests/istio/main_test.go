package istio

import (
	"os"
	"testing"

	"istio.io/istio/pkg/log"
)

// TestMain keeps to what the control plane holds for an error; what it tells of its own start is thousands of lines.
func TestMain(m *testing.M) {
	for _, scope := range log.Scopes() {
		scope.SetOutputLevel(log.ErrorLevel)
	}
	os.Exit(m.Run())
}
