package istio

import (
	"testing"
	"time"

	"istio.io/istio/pkg/config/schema/gvk"
)

// The steps of the runbook, each applied over the one before while requests flow, and the ways back.
func TestARolloutGoesUpStepByStepAndStopsAtOnceAndNoRequestFails(t *testing.T) {
	v1, v2 := serve(t, "v1", "127.0.0.2"), serve(t, "v2", "127.0.0.3")
	address := ownAddress(t, 9080)
	step := func(name string) string { return local(t, built(t, "overlays/rollout/"+name)) }
	c := startForEnvoy(t, world{V1: v1.endpoint, V2: v2.endpoint}, egress(address), step("shadow"))
	e := c.envoy(callerNode)
	caller := newClient(t, address+":9080", "reviews:9080")
	gauge := func(name string) (value int) {
		for _, value = range e.counters("graygate_policy_" + name) {
		}
		return value
	}
	steered := func() bool {
		_, ofV2 := users(t, caller)
		return len(ofV2) > 0
	}
	e.until("the shadow is in use", func() bool { return gauge("document") != 0 })
	load := caller.load(2)
	e.until("requests flow", func() bool { return load.answered.Load() > 100 })

	enforced := 0
	for _, name := range []string{"percent-1", "percent-10", "percent-50", "percent-100"} {
		document := gauge("document")
		c.apply(step(name))
		// In between there is no gauge at all.
		e.until(name+" is in use", func() bool { now := gauge("document"); return now != 0 && now != document })
		if now := gauge("enforced"); now < enforced {
			t.Errorf("%s: a proxy that had it has it no more", name)
		} else {
			enforced = now
		}
		e.until(name+" is as the gauge says", func() bool { return steered() == (enforced == 1) })
	}
	if enforced != 1 {
		t.Error("at 100 % the proxy does not have it")
	}

	begun := time.Now()
	c.apply(step("shadow"))
	e.until("nothing is changed any more", func() bool { return !steered() })
	t.Logf("back in shadow after %v", time.Since(begun).Round(time.Millisecond))
	// The gauges come with the first tick.
	e.until("the gauge says so", func() bool { return gauge("document") != 0 && gauge("enforced") == 0 })
	c.apply(step("percent-100"))
	e.until("it is in force again", steered)

	begun = time.Now()
	for _, config := range c.Store().List(gvk.WasmPlugin, "istio-system") {
		if err := c.Store().Delete(config.GroupVersionKind, config.Name, config.Namespace, nil); err != nil {
			t.Fatal(err)
		}
	}
	e.until("there is no filter", func() bool { return !steered() })
	t.Logf("without the filter after %v", time.Since(begun).Round(time.Millisecond))
	answered := load.answered.Load()
	e.until("requests flow on", func() bool { return load.answered.Load() > answered+200 })
	load.end()
	if failed := load.failed.Load(); failed != nil {
		t.Errorf("of %d requests some failed: %v", load.answered.Load(), *failed)
	}
	if refused := e.refused(); len(refused) > 0 {
		t.Errorf("Envoy has refused an update: %v", refused)
	}
}
