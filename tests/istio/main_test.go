package istio

import (
	"os"
	"path/filepath"
	"testing"

	"istio.io/istio/pkg/log"
)

// TestMain limits the control plane's log to errors, because its start alone is thousands of lines. Under the name of
// kubectl this program is the client of a cluster instead.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "kubectl" {
		os.Exit(runKubectl(os.Getenv(clusterSocket), os.Args[1:]))
	}
	for _, scope := range log.Scopes() {
		scope.SetOutputLevel(log.ErrorLevel)
	}
	os.Exit(m.Run())
}
