package istio

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"istio.io/istio/pilot/pkg/config/kube/crd"
	"istio.io/istio/pkg/config"
)

// apply makes a manifest, or replaces one of the same name, as `kubectl apply` does in a cluster.
func (c *controlPlane) apply(text string) {
	c.t.Helper()
	for _, config := range configs(c.t, text) {
		old := c.Store().Get(config.GroupVersionKind, config.Name, config.Namespace)
		if old == nil {
			if _, err := c.Store().Create(config); err != nil {
				c.t.Fatal(err)
			}
			continue
		}
		config.ResourceVersion, config.CreationTimestamp = old.ResourceVersion, old.CreationTimestamp
		if _, err := c.Store().Update(config); err != nil {
			c.t.Fatal(err)
		}
	}
}

// remove takes a manifest away, as `kubectl delete` does.
func (c *controlPlane) remove(text string) {
	c.t.Helper()
	for _, config := range configs(c.t, text) {
		if err := c.Store().Delete(config.GroupVersionKind, config.Name, config.Namespace, nil); err != nil {
			c.t.Fatal(err)
		}
	}
}

func configs(t *testing.T, text string) []config.Config {
	t.Helper()
	istio, _ := divide(t, documents(t, text))
	found, _, err := crd.ParseInputs(joined(t, istio))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// load is callers that ask up to a thousand times a second each, as one user after the other.
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
			pace := time.NewTicker(time.Millisecond)
			defer pace.Stop()
			for i := 0; ; i++ {
				select {
				case <-l.stop:
					return
				case <-pace.C:
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

// onV2 are those of 500 users who get v2.
func (c *client) onV2() map[string]bool {
	found := map[string]bool{}
	for i := range 500 {
		user := fmt.Sprintf("user-%d", i)
		if c.ask("/", "x-user-id", user).body == "v2" {
			found[user] = true
		}
	}
	return found
}

// finished asserts that requests flow on after what has happened, and that none has failed.
func (l *load) finished(e *envoy) {
	e.t.Helper()
	asked := l.answered.Load()
	e.until("requests flow on", func() bool { return l.answered.Load() > asked+500 })
	l.end()
	if failed := l.failed.Load(); failed != nil {
		e.t.Errorf("of %d requests some failed: %v", l.answered.Load(), *failed)
	}
	if refused := e.refused(); len(refused) > 0 {
		e.t.Errorf("Envoy has refused an update: %v", refused)
	}
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
			before := caller.onV2()
			load := caller.load(4)
			e.until("requests flow", func() bool { return load.answered.Load() > 100 })
			c.apply(local(t, manifest(t, kind, "outbound", weighted(t, split, "50", "50"))))
			// 50 of 500 had v2 before, and 250 have it afterwards.
			e.until("the new weights are in force", func() bool { return len(caller.onV2()) > 180 })
			load.finished(e)
			after := caller.onV2()
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
		})
	}
}

// The last is the way back, whatever is wrong: it wants no restart.
func TestNoRequestFailsWhenTheFilterComesAndGoes(t *testing.T) {
	for _, kind := range twoWays {
		t.Run(kind, func(t *testing.T) {
			v1, v2 := serve(t, "v1", "127.0.0.2"), serve(t, "v2", "127.0.0.3")
			address := ownAddress(t, 9080)
			c := startForEnvoy(t, world{V1: v1.endpoint, V2: v2.endpoint}, egress(address), built(t, "base/steering/header"))
			e := c.envoy(callerNode)
			caller := newClient(t, address+":9080", "reviews:9080")
			load := caller.load(4)
			e.until("requests flow", func() bool { return load.answered.Load() > 100 })
			filter := local(t, manifest(t, kind, "outbound", parsed(t, split)))
			c.apply(filter)
			e.until("users get v2", func() bool { return len(caller.onV2()) > 20 })
			c.remove(filter)
			e.until("none gets v2", func() bool { return len(caller.onV2()) == 0 })
			load.finished(e)
		})
	}
}

func TestAGateStaysClosedWhenItsPolicyChanges(t *testing.T) {
	for _, kind := range twoWays {
		t.Run(kind, func(t *testing.T) {
			v1, v2 := serve(t, "v1", "127.0.0.2"), serve(t, "v2", "127.0.0.3")
			address := ownAddress(t, 9080)
			c := startForEnvoy(t, world{V1: v1.endpoint, V2: v2.endpoint}, egress(address), built(t, "base/steering/header"),
				local(t, manifest(t, kind, "outbound", parsed(t, checked))))
			e := c.envoy(callerNode)
			caller := newClient(t, address+":9080", "reviews:9080")
			v1.unwell.Store(true)
			closed := func(as string) func() bool {
				return func() bool { return caller.ask("/").header.Get("x-gate") == as }
			}
			e.until("the gate is closed", closed("closed"))
			before := v1.requests.Load()
			c.apply(local(t, manifest(t, kind, "outbound",
				parsed(t, strings.Replace(checked, "x-gate: closed", "x-gate: still", 1)))))
			e.until("the new policy is in force", closed("still"))
			if came := v1.requests.Load() - before; came > 0 {
				t.Errorf("%d requests have come through the gate meanwhile", came)
			}
		})
	}
}
