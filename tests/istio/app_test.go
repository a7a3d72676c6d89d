package istio

import (
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"testing"
)

// app is a real server, as one version of a service is. It says its name, and /healthz whether it is well. One that is
// broken fails its users, and its checks do not see it.
type app struct {
	name string
	endpoint
	// requests are those of users, without the checks.
	requests, checks atomic.Int64
	unwell, broken   atomic.Bool
}

// serve starts one on an address of its own: an address is a Pod to Istio, so two versions need two.
func serve(t *testing.T, name, ip string) *app {
	t.Helper()
	listener, err := net.Listen("tcp", net.JoinHostPort(ip, "0"))
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	number, _ := strconv.Atoi(port)
	a := &app{name: name, endpoint: endpoint{ip, number}}
	server := &http.Server{Handler: a}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	return a
}

func (a *app) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/healthz" {
		a.checks.Add(1)
		if a.unwell.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		return
	}
	a.requests.Add(1)
	w.Header().Set("x-seen-version", r.Header.Get("x-gray-version"))
	if a.broken.Load() {
		w.WriteHeader(http.StatusInternalServerError)
	}
	_, _ = fmt.Fprint(w, a.name)
}
