package image

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"istio.io/istio/pkg/monitoring/monitortest"
	"istio.io/istio/pkg/wasm"

	"graygate/tests/istio/wait"
)

// What stands in for a module that could not be fetched, by failStrategy. Unset is FAIL_CLOSE.
var standIns = map[string]string{"FAIL_OPEN": "allow", "FAIL_CLOSE": "deny", "FAIL_RELOAD": "deny", "": "deny"}

func TestAModuleThatCantBeFetchedIsStoodInForByFailStrategy(t *testing.T) {
	image, digest := moduleImage(t, modulePath)
	healthy, down, failing, without := serveModules(t), serveModules(t), serveModules(t), serveModules(t)
	healthy.push(t, image, "1.0.0")
	down.down()
	failing.fails.Store(http.StatusUnauthorized)
	for name, plugin := range map[string]wasmPlugin{
		"registry down":    {url: down.image("1.0.0"), sha256: digest},
		"registry refuses": {url: failing.image("1.0.0"), sha256: digest},
		"no such image":    {url: without.image("1.0.0"), sha256: digest},
		"wrong digest":     {url: healthy.image("1.0.0"), sha256: strings.Repeat("0", 64)},
		"file server down": {url: "http://" + down.host + "/graygate.wasm"},
		"no such file":     {url: "http://" + without.host + "/graygate.wasm"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cache := moduleCache(t, t.TempDir())
			for failStrategy, want := range standIns {
				plugin.failStrategy = failStrategy
				begun := time.Now()
				if have := filterOf(t, converted(t, cache, plugin.resource(t))); have != want {
					t.Errorf("failStrategy %q: want %s, have %s", failStrategy, want, have)
				}
				t.Logf("failStrategy %q: after %s", failStrategy, time.Since(begun).Round(time.Millisecond))
			}
		})
	}
}

func TestTheAgentAsksAgainAtTheNextPushAndNotByItself(t *testing.T) {
	image, digest := moduleImage(t, modulePath)
	server := serveModules(t)
	server.push(t, image, "1.0.0")
	server.fails.Store(http.StatusNotFound)
	pushed := wasmPlugin{url: server.image("1.0.0"), sha256: digest, failStrategy: "FAIL_RELOAD"}.resource(t)
	cache := moduleCache(t, t.TempDir())
	if have := filterOf(t, converted(t, cache, pushed)); have != "deny" {
		t.Fatalf("without the image: %s", have)
	}
	server.fails.Store(0)
	asked := server.requests.Load()
	// More than twice as long as the first wait before a second attempt within a fetch.
	time.Sleep(2500 * time.Millisecond)
	if more := server.requests.Load() - asked; more != 0 {
		t.Errorf("asked %d times with no push", more)
	}
	// The very same resource.
	if have := filterOf(t, converted(t, cache, pushed)); have != "wasm" {
		t.Errorf("at the next push: %s", have)
	}
}

// A pod that has fetched the module once, and a registry that is gone when istiod pushes again.
func TestAModuleInThePodsCacheOutlivesTheRegistry(t *testing.T) {
	image, digest := moduleImage(t, modulePath)
	for _, each := range []struct {
		name      string
		plugin    wasmPlugin
		change    func(*wasm.Options)
		restarted bool
		want      string
	}{
		{name: "pinned by digest", plugin: wasmPlugin{sha256: digest}, want: "wasm"},
		{name: "pinned by digest, Always", plugin: wasmPlugin{sha256: digest, imagePullPolicy: "Always"}, want: "wasm"},
		{name: "by tag", plugin: wasmPlugin{}, want: "wasm"},
		{name: "by tag, IfNotPresent", plugin: wasmPlugin{imagePullPolicy: "IfNotPresent"}, want: "wasm"},
		// The resource has another version, as after each change of the policy.
		{name: "by tag, Always", plugin: wasmPlugin{imagePullPolicy: "Always"}, want: "deny"},
		// The files are still there, but what they are is not remembered.
		{name: "container restarted", plugin: wasmPlugin{sha256: digest}, restarted: true, want: "deny"},
		{
			name: "not asked for in a day", plugin: wasmPlugin{sha256: digest}, want: "deny",
			change: func(o *wasm.Options) { o.ModuleExpiry, o.PurgeInterval = time.Nanosecond, 10*time.Millisecond },
		},
	} {
		t.Run(each.name, func(t *testing.T) {
			t.Parallel()
			server := serveModules(t)
			server.push(t, image, "1.0.0")
			plugin := each.plugin
			plugin.url, plugin.failStrategy = server.image("1.0.0"), "FAIL_RELOAD"
			directory := t.TempDir()
			change := each.change
			if change == nil {
				change = func(*wasm.Options) {}
			}
			cache := moduleCache(t, directory, change)
			if have := filterOf(t, converted(t, cache, plugin.resource(t))); have != "wasm" {
				t.Fatalf("while the registry is there: %s", have)
			}
			server.down()
			if each.restarted {
				cache = moduleCache(t, directory, change)
			}
			if each.change != nil {
				wait.Until(t, "the cached module is purged", func() bool { return len(wasmFiles(t, directory)) == 0 })
			}
			plugin.policy = `{name: reviews, probes: {liveness: {path: /alive}}}`
			pushed := plugin.resource(t)
			setResourceVersion(t, pushed, "2")
			if have := filterOf(t, converted(t, cache, pushed)); have != each.want {
				t.Errorf("want %s, have %s", each.want, have)
			}
		})
	}
}

// What the agent has at :15020/metrics, there with `istio_agent_` before it. Runs alone: the counters are global.
func TestTheAgentsCountersTellWhyAModuleIsMissing(t *testing.T) {
	image, digest := moduleImage(t, modulePath)
	healthy, down := serveModules(t), serveModules(t)
	healthy.push(t, image, "1.0.0")
	down.down()
	for _, each := range []struct {
		plugin         wasmPlugin
		fetch, convert string
	}{
		{wasmPlugin{url: healthy.image("1.0.0"), sha256: digest}, "success", "success"},
		{wasmPlugin{url: healthy.image("1.0.0"), sha256: strings.Repeat("0", 64)}, "checksum_mismatched", "fetch_failure"},
		{wasmPlugin{url: healthy.image("2.0.0")}, "manifest_failure", "fetch_failure"},
		{wasmPlugin{url: down.image("1.0.0")}, "manifest_failure", "fetch_failure"},
		{wasmPlugin{url: "http://" + healthy.host + "/graygate.wasm"}, "download_failure", "fetch_failure"},
	} {
		t.Run(each.fetch, func(t *testing.T) {
			counters := monitortest.New(t)
			converted(t, moduleCache(t, t.TempDir()), each.plugin.resource(t))
			counters.Assert("wasm_remote_fetch_count", map[string]string{"result": each.fetch}, monitortest.Exactly(1))
			counters.Assert("wasm_config_conversion_count", map[string]string{"result": each.convert}, monitortest.Exactly(1))
		})
	}
}
