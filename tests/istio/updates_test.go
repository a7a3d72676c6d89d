package istio

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"istio.io/istio/pilot/pkg/config/kube/crd"
)

// apply replaces a manifest by another of the same name, as `kubectl apply` does in a cluster.
func (c *controlPlane) apply(text string) {
	c.t.Helper()
	istio, _ := divide(c.t, documents(c.t, text))
	configs, _, err := crd.ParseInputs(joined(c.t, istio))
	if err != nil {
		c.t.Fatal(err)
	}
	for _, config := range configs {
		old := c.Store().Get(config.GroupVersionKind, config.Name, config.Namespace)
		if old == nil {
			c.t.Fatalf("%s %s: there is none to replace", config.GroupVersionKind.Kind, config.Name)
		}
		config.ResourceVersion, config.CreationTimestamp = old.ResourceVersion, old.CreationTimestamp
		if _, err := c.Store().Update(config); err != nil {
			c.t.Fatal(err)
		}
	}
}

// load is callers that ask without a pause, as one user after the other.
type load struct {
	stop     chan struct{}
	all      sync.WaitGroup
	answered atomic.Int64
	failed   atomic.Pointer[answer]
}

func (c *client) load(callers int) *load {
	l := &load{stop: make(chan struct{})}
	for range callers {
		l.all.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-l.stop:
					return
				default:
				}
				if got := c.ask("/", "x-user-id", fmt.Sprintf("user-%d", i)); got.status != 200 {
					l.failed.Store(&got)
				}
				l.answered.Add(1)
			}
		})
	}
	return l
}

func (l *load) end() {
	close(l.stop)
	l.all.Wait()
}

func TestNoRequestFailsWhenWeightsChange(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			v1, v2 := serve(t, "v1", "127.0.0.2"), serve(t, "v2", "127.0.0.3")
			address := ownAddress(t, 9080)
			c := startForEnvoy(t, world{V1: v1.endpoint, V2: v2.endpoint}, egress(address),
				built(t, "base/steering/header"), local(t, manifest(t, kind, "outbound", parsed(t, split))))
			e := c.envoy(callerNode)
			caller := newClient(t, address+":9080", "reviews:9080")
			onV2 := func() map[string]bool {
				found := map[string]bool{}
				for i := range 500 {
					user := fmt.Sprintf("user-%d", i)
					if caller.ask("/", "x-user-id", user).body == "v2" {
						found[user] = true
					}
				}
				return found
			}
			before := onV2()
			load := caller.load(4)
			e.until("requests flow", func() bool { return load.answered.Load() > 100 })
			c.apply(local(t, manifest(t, kind, "outbound", weighted(t, split, "50", "50"))))
			// 50 of 500 had v2 before, and 250 have it afterwards.
			e.until("the new weights are in force", func() bool { return len(onV2()) > 180 })
			asked := load.answered.Load()
			e.until("requests flow on", func() bool { return load.answered.Load() > asked+500 })
			load.end()
			if failed := load.failed.Load(); failed != nil {
				t.Errorf("of %d requests some failed: %v", load.answered.Load(), *failed)
			}
			after := onV2()
			for user := range before {
				if !after[user] {
					t.Errorf("%s: moved back to v1 by a raise of v2", user)
				}
			}
			// By discovery of the filter alone, listeners stay as they are. With the policy in the listener, it is replaced.
			modified := e.counters("^listener_manager.listener_modified$")["listener_manager.listener_modified"]
			if inline := kind == "envoyfilter"; (modified > 0) != inline {
				t.Errorf("%d listeners were replaced", modified)
			}
			if refused := e.refused(); len(refused) > 0 {
				t.Errorf("Envoy has refused an update: %v", refused)
			}
		})
	}
}
