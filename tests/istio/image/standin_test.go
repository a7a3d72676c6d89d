package image

import (
	"maps"
	"os"
	"strings"
	"testing"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"graygate/tests/istio/wait"
)

// A registry that has the image, and what istiod sends for a WasmPlugin with it.
func published(t *testing.T, failStrategy string) (*moduleServer, wasmPlugin) {
	t.Helper()
	image, digest := moduleImage(t, modulePath)
	server := serveModules(t)
	server.push(t, image, "1.0.0")
	return server, wasmPlugin{url: server.image("1.0.0"), sha256: digest, failStrategy: failStrategy}
}

// What the agent sends to Envoy where the module can't be fetched.
func standIn(t *testing.T, failStrategy string) *core.TypedExtensionConfig {
	t.Helper()
	server := serveModules(t)
	plugin := wasmPlugin{url: server.image("1.0.0"), failStrategy: failStrategy}
	return converted(t, moduleCache(t, t.TempDir()), plugin.resource(t))
}

func (p *proxy) wants(t *testing.T, path string, status int, body string) {
	t.Helper()
	if have, text := p.get(path); have != status || !strings.HasPrefix(text, body) {
		t.Errorf("%s: want %d %q, have %d %q", path, status, body, have, text)
	}
}

const denied = "RBAC: access denied"

// What the filter says at /livez. The app behind it would say something else.
const alive = "policy reviews: liveness passed"

func TestANewPodWithoutTheModuleLetsAllThroughOrNothing(t *testing.T) {
	for failStrategy, want := range standIns {
		t.Run("failStrategy "+failStrategy, func(t *testing.T) {
			t.Parallel()
			p := startProxy(t)
			filter := standIn(t, failStrategy)
			p.send(t, listenerType, listenerWith(t, filter.Name, "0s", wasmType, rbacType))
			wait.Until(t, "the listener's request for the filter", func() bool { return p.askedFor(extensionType) })
			p.sendFilter(t, filter)
			wait.Until(t, "LIVE", p.live)
			status, body := 200, "the app"
			if want == "deny" {
				status, body = 403, denied
			}
			for range 5 {
				p.wants(t, "/livez", status, body)
			}
			wait.Until(t, "the access log", func() bool { return strings.Count(p.accessLog(), "\n") == 5 })
			line, counters := "/livez 200 - direct_response\n", map[string]float64{}
			if want == "deny" {
				line = "/livez 403 - rbac_access_denied_matched_policy[none]\n"
				counters["rbac.wasm-default-deny.denied"] = 5
			}
			if p.accessLog() != strings.Repeat(line, 5) {
				t.Errorf("access log: %s", p.accessLog())
			}
			// Nothing counts what is let through: a filter with no rules has no counters.
			have := map[string]float64{}
			for name, value := range p.stats("wasm-default") {
				// What stands before it is another thing from Envoy 1.40 on.
				have[name[strings.LastIndex(name, "rbac."):]] += value
			}
			if !maps.Equal(have, counters) {
				t.Errorf("counters: want %v, have %v", counters, have)
			}
		})
	}
}

func TestARunningPodLosesItsFilterWhenAnotherModuleCantBeFetched(t *testing.T) {
	for failStrategy, want := range standIns {
		t.Run("failStrategy "+failStrategy, func(t *testing.T) {
			t.Parallel()
			p := startProxy(t)
			server, plugin := published(t, failStrategy)
			cache := moduleCache(t, t.TempDir())
			filter := converted(t, cache, plugin.resource(t))
			p.send(t, listenerType, listenerWith(t, filter.Name, "0s", wasmType, rbacType))
			wait.Until(t, "the listener's request for the filter", func() bool { return p.askedFor(extensionType) })
			p.sendFilter(t, filter)
			wait.Until(t, "LIVE", p.live)
			p.wants(t, "/livez", 200, alive)

			upgrade := plugin
			upgrade.url, upgrade.sha256 = server.image("2.0.0"), strings.Repeat("1", 64)
			p.sendFilter(t, converted(t, cache, upgrade.resource(t)))
			if refused := p.refused(extensionType); refused != nil {
				t.Fatalf("refused by Envoy: %v", refused)
			}
			status, body := 200, "the app"
			if want == "deny" {
				status, body = 403, denied
			}
			wait.Until(t, "the stand-in", func() bool { _, text := p.get("/livez"); return strings.HasPrefix(text, body) })
			p.wants(t, "/livez", status, body)

			// Back to what it was: without the registry, from the cache.
			server.down()
			p.sendFilter(t, converted(t, cache, plugin.resource(t)))
			wait.Until(t, "the filter again", func() bool { _, text := p.get("/livez"); return strings.HasPrefix(text, alive) })
		})
	}
}

func TestAPodWaitsForAFilterThatDoesNotArrive(t *testing.T) {
	t.Run("a new one is not ready until it does", func(t *testing.T) {
		t.Parallel()
		p := startProxy(t)
		_, plugin := published(t, "FAIL_OPEN")
		filter := converted(t, moduleCache(t, t.TempDir()), plugin.resource(t))
		p.send(t, listenerType, listenerWith(t, filter.Name, "0s", wasmType, rbacType))
		wait.Until(t, "the listener's request for the filter", func() bool { return p.askedFor(extensionType) })
		wait.Until(t, "a listener that warms", func() bool { return p.stats("total_listeners_warming") != nil })
		if state := strings.TrimSpace(p.admin("/ready")); state != "INITIALIZING" {
			t.Errorf("state %s", state)
		}
		if status, body := p.get("/livez"); status != 0 {
			t.Errorf("answered: %d %s", status, body)
		}
		p.sendFilter(t, filter)
		wait.Until(t, "LIVE", p.live)
		p.wants(t, "/livez", 200, alive)
	})
	t.Run("a new one answers 500 where the wait has an end", func(t *testing.T) {
		t.Parallel()
		p := startProxy(t)
		_, plugin := published(t, "FAIL_OPEN")
		filter := converted(t, moduleCache(t, t.TempDir()), plugin.resource(t))
		p.send(t, listenerType, listenerWith(t, filter.Name, "0.5s", wasmType, rbacType))
		wait.Until(t, "LIVE", p.live)
		p.wants(t, "/livez", 500, "")
		wait.Until(t, "the access log", func() bool { return strings.Contains(p.accessLog(), "\n") })
		if !strings.Contains(p.accessLog(), "/livez 500 NFCF") {
			t.Errorf("access log: %s", p.accessLog())
		}
		p.sendFilter(t, filter)
		wait.Until(t, "the filter", func() bool { status, _ := p.get("/livez"); return status == 200 })
	})
	t.Run("a running one goes on without until it does", func(t *testing.T) {
		t.Parallel()
		p := startProxy(t)
		_, plugin := published(t, "FAIL_CLOSE")
		filter := converted(t, moduleCache(t, t.TempDir()), plugin.resource(t))
		p.send(t, listenerType, listenerWith(t, "", ""))
		wait.Until(t, "LIVE", p.live)
		p.send(t, listenerType, listenerWith(t, filter.Name, "0s", wasmType, rbacType))
		wait.Until(t, "a listener that warms", func() bool { return p.stats("total_listeners_warming") != nil })
		for range 5 {
			p.wants(t, "/livez", 200, "the app")
		}
		p.sendFilter(t, filter)
		wait.Until(t, "the filter", func() bool { _, text := p.get("/livez"); return strings.HasPrefix(text, alive) })
	})
}

// An EnvoyFilter of one's own that names Wasm alone among the types that its filter may be of.
func TestWhereOnlyWasmIsAllowedEnvoyRefusesWhatStandsIn(t *testing.T) {
	t.Run("a new pod", func(t *testing.T) {
		t.Parallel()
		p := startProxy(t)
		filter := standIn(t, "FAIL_OPEN")
		p.send(t, listenerType, listenerWith(t, filter.Name, "0s", wasmType))
		wait.Until(t, "the listener's request for the filter", func() bool { return p.askedFor(extensionType) })
		p.sendFilter(t, filter)
		wantsRefused(t, p)
		// The wait is over with the refusal, and there is nothing to fall back on, whatever the failStrategy.
		wait.Until(t, "LIVE", p.live)
		for range 5 {
			p.wants(t, "/livez", 500, "")
		}
		wait.Until(t, "the access log", func() bool { return strings.Contains(p.accessLog(), "/livez 500 NFCF") })
	})
	t.Run("a running pod", func(t *testing.T) {
		t.Parallel()
		p := startProxy(t)
		_, plugin := published(t, "FAIL_CLOSE")
		filter := converted(t, moduleCache(t, t.TempDir()), plugin.resource(t))
		p.send(t, listenerType, listenerWith(t, filter.Name, "0s", wasmType))
		wait.Until(t, "the listener's request for the filter", func() bool { return p.askedFor(extensionType) })
		p.sendFilter(t, filter)
		wait.Until(t, "LIVE", p.live)
		p.sendFilter(t, standIn(t, "FAIL_CLOSE"))
		wantsRefused(t, p)
		for range 5 {
			p.wants(t, "/livez", 200, alive)
		}
	})
}

func wantsRefused(t *testing.T, p *proxy) {
	t.Helper()
	refused, why := p.refused(extensionType), "type URL envoy.extensions.filters.http.rbac.v3.RBAC but expect"
	if len(refused) != 1 || !strings.Contains(refused[0], why) {
		t.Fatalf("refused by Envoy: %q", refused)
	}
	if p.stats("shop.graygate~istio-translated-wasmplugin.update_rejected") == nil {
		t.Errorf("not counted: %v", p.stats("extension_config_discovery"))
	}
}

// The agent removes a module's file when no push has asked for it in a day. Envoy has what it needs of it, until it
// makes a listener anew.
func TestAListenerThatChangesWantsTheModulesFileAgain(t *testing.T) {
	p := startProxy(t)
	_, plugin := published(t, "FAIL_OPEN")
	directory := t.TempDir()
	pushed := plugin.resource(t)
	listener := listenerWith(t, pushed.Name, "0s", wasmType, rbacType)
	p.send(t, listenerType, listener)
	wait.Until(t, "the listener's request for the filter", func() bool { return p.askedFor(extensionType) })
	p.sendFilter(t, converted(t, moduleCache(t, directory), pushed))
	wait.Until(t, "LIVE", p.live)
	for _, file := range wasmFiles(t, directory) {
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}

	changed := proto.Clone(listener).(*listenerv3.Listener)
	changed.PerConnectionBufferLimitBytes = wrapperspb.UInt32(65536)
	p.send(t, listenerType, changed)
	wait.Until(t, "the proxy's word on the listener", p.settled)
	if refused := p.refused(listenerType); len(refused) != 1 || !strings.Contains(refused[0], "Invalid path: "+directory) {
		t.Errorf("refused by Envoy: %q", refused)
	}
	p.wants(t, "/livez", 200, alive)

	// The next push of the filter brings the file back, and then the listener may change.
	p.sendFilter(t, converted(t, moduleCache(t, directory), pushed))
	p.send(t, listenerType, proto.Clone(changed))
	wait.Until(t, "the proxy's word on the listener", p.settled)
	if refused := p.refused(listenerType); len(refused) != 1 {
		t.Errorf("refused again: %q", refused)
	}
	wait.Until(t, "the filter", func() bool { _, text := p.get("/livez"); return strings.HasPrefix(text, alive) })
	if added := p.stats("listener_manager.listener_modified"); len(added) == 0 {
		t.Errorf("the listener is the old one: %v", p.stats("listener_manager"))
	}
}
