package image

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/structpb"
	extensions "istio.io/api/extensions/v1alpha1"

	"graygate/tests/istio/wait"
)

// policyWith is a policy with this name, or one with a key that no policy has.
func policyWith(t *testing.T, name, onWrongPolicy string, isWrong bool) func(*extensions.WasmPlugin) {
	t.Helper()
	policy := map[string]any{"name": name, "probes": map[string]any{"liveness": map[string]any{"path": "/livez"}}}
	if onWrongPolicy != "" {
		policy["onWrongPolicy"] = onWrongPolicy
	}
	if isWrong {
		policy["gatse"] = []any{}
	}
	config, err := structpb.NewStruct(policy)
	if err != nil {
		t.Fatal(err)
	}
	return func(plugin *extensions.WasmPlugin) { plugin.PluginConfig = config }
}

// A wrong policy comes to running proxies and to new ones, and a good one comes back.
func TestAWrongPolicyTakesNoTrafficDown(t *testing.T) {
	if !inAgentsPlace(t) {
		return
	}
	binary := envoyBinary(t)
	for _, failStrategy := range []string{"FAIL_OPEN", "FAIL_RELOAD", "FAIL_CLOSE"} {
		t.Run(failStrategy, func(t *testing.T) {
			_, plugin := published(t, failStrategy)
			plugin.policy = `{name: reviews, onWrongPolicy: lastGood, probes: {liveness: {path: /livez}}}`
			m := startMesh(t, plugin)
			name := plugin.resource(t).Name
			running := m.startProxy(t, binary, name)
			wait.Until(t, "LIVE", running.live)
			running.wants(t, "/livez", 200, alive)
			// A policy is kept as a good one once it is in use. The gauge tells that.
			wait.Until(t, "the good policy is in use", func() bool { return running.gauge("build_info") == 1 })
			requests := running.load()

			m.apply(t, policyWith(t, "reviews", "lastGood", true))
			wait.Until(t, "the gauge says that the policy is wrong", func() bool { return running.isRefused() == 1 })
			running.wants(t, "/livez", 200, alive)
			wait.Until(t, "an error line says why", func() bool { return strings.Contains(running.log(), "gatse") })
			if rejected := running.stats("update_rejected"); len(rejected) > 0 {
				t.Errorf("an update was rejected: %v", rejected)
			}

			added := m.startProxy(t, binary, name)
			wait.Until(t, "LIVE", added.live)
			newRequests := added.load()
			added.wants(t, "/", 200, "the app")
			// Nothing is known of a good policy there, so requests pass unmanaged.
			added.wants(t, "/livez", 200, "the app")
			wait.Until(t, "the gauge of the new proxy says so, too", func() bool { return added.isRefused() == 1 })

			m.apply(t, policyWith(t, "reviews", "lastGood", false))
			for _, p := range []*proxy{running, added} {
				wait.Until(t, "the good policy", func() bool { _, text := p.get("/livez"); return strings.HasPrefix(text, alive) })
				wait.Until(t, "the gauge is 0 again", func() bool { return p.isRefused() == 0 })
			}
			for where, requests := range map[string]*appLoad{"running": requests, "new": newRequests} {
				asked, failed := requests.end()
				t.Logf("%s proxy: %d requests, %d failed", where, asked, len(failed))
				if len(failed) > 0 {
					t.Errorf("%s proxy: requests failed: %v", where, failed)
				}
			}
		})
	}
}

// With the default, a running proxy keeps its policy by Envoy's own refusal, and a new one answers 500.
func TestAWrongPolicyThatIsRefusedIsSeenAtTheControlPlane(t *testing.T) {
	if !inAgentsPlace(t) {
		return
	}
	binary := envoyBinary(t)
	_, plugin := published(t, "FAIL_OPEN")
	plugin.policy = livenessOnly
	m := startMesh(t, plugin)
	name := plugin.resource(t).Name
	running := m.startProxy(t, binary, name)
	wait.Until(t, "LIVE", running.live)
	m.apply(t, policyWith(t, "reviews", "", true))
	wait.Until(t, "the refusal", func() bool { return len(running.stats("update_rejected")) > 0 })
	running.wants(t, "/livez", 200, alive)
	added := m.startProxy(t, binary, name)
	wait.Until(t, "LIVE", added.live)
	added.wants(t, "/", 500, "")
}

// isRefused returns the gauge of a wrong policy, or -1 if it does not exist.
func (p *proxy) isRefused() int {
	return p.gauge("policy_refused")
}

// gauge returns the first gauge of graygate with this name, or -1 if there is none.
func (p *proxy) gauge(name string) int {
	for _, line := range strings.Split(p.admin("/stats?filter=graygate_"+name), "\n") {
		if _, value, ok := strings.Cut(line, ": "); ok {
			var number int
			_, _ = fmt.Sscan(value, &number)
			return number
		}
	}
	return -1
}

func (p *proxy) log() string {
	text, _ := os.ReadFile(filepath.Join(p.directory, "envoy.log"))
	return string(text)
}

// appLoad is a client that asks for a page of the app, over and over.
type appLoad struct {
	stop   chan struct{}
	done   sync.WaitGroup
	asked  int
	failed []string
}

func (p *proxy) load() *appLoad {
	l := &appLoad{stop: make(chan struct{})}
	l.done.Go(func() {
		pace := time.NewTicker(2 * time.Millisecond)
		defer pace.Stop()
		for {
			select {
			case <-l.stop:
				return
			case <-pace.C:
			}
			l.asked++
			if status, text := p.get("/"); status != 200 {
				l.failed = append(l.failed, fmt.Sprintf("%d %s", status, text))
			}
		}
	})
	return l
}

// end stops the load, and returns how many requests were sent and those that failed.
func (l *appLoad) end() (asked int, failed []string) {
	close(l.stop)
	l.done.Wait()
	return l.asked, l.failed
}
