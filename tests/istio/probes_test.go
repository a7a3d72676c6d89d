package istio

import "testing"

func TestASidecarAnswersTheProbesOfItsAppAndTheAppSeesNone(t *testing.T) {
	for _, kind := range twoWays {
		t.Run(kind, func(t *testing.T) {
			app := serve(t, "v1", "127.0.0.1")
			app.unwell.Store(true)
			address := ownAddress(t, 9080)
			c := startForEnvoy(t, ordinary(), ingress(address, app), callout(t, app),
				local(t, manifest(t, kind, "inbound", shipped(t, "inbound"))))
			e := c.envoy(appNode)
			caller := newClient(t, address+":9080", "reviews:9080")
			is := func(path string, status int) func() bool {
				return func() bool { return caller.ask(path).status == status }
			}
			if got := caller.ask("/livez"); got.status != 200 {
				t.Errorf("/livez: %v", got)
			}
			for _, path := range []string{"/startupz", "/readyz", "/"} {
				if got := caller.ask(path); got.status != 503 {
					t.Errorf("%s before the app is up: %v", path, got)
				}
			}
			app.unwell.Store(false)
			e.until("the app is ready", is("/readyz", 200))
			if got := caller.ask("/startupz"); got.status != 200 {
				t.Errorf("/startupz once the app is up: %v", got)
			}
			if n := app.requests.Load(); n != 0 {
				t.Errorf("%d requests have come to the app, from probes or a gate", n)
			}
			e.until("requests go to the app", is("/", 200))
			if got := caller.ask("/"); got.body != "v1" || app.requests.Load() != 2 {
				t.Errorf("%d requests have come to the app, not 2: %v", app.requests.Load(), got)
			}
			app.unwell.Store(true)
			e.until("the app is not ready", is("/readyz", 503))
			e.until("callers are told so", is("/", 503))
			if got := caller.ask("/livez"); got.status != 200 {
				t.Errorf("/livez while the app is not ready: %v", got)
			}
		})
	}
}
