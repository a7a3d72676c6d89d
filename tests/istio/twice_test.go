package istio

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// checks is whether the tool finds that graygate stands twice somewhere among manifests that are applied together.
func checks(t *testing.T, texts ...string) bool {
	t.Helper()
	file := filepath.Join(t.TempDir(), "applied.yaml")
	if err := os.WriteFile(file, []byte(strings.Join(texts, "\n---\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	said, err := exec.Command(tool, "check", "--istio", file, "--allow", "placeholder").CombinedOutput()
	if _, ended := err.(*exec.ExitError); err != nil && !ended {
		t.Fatalf("%v; `make tool` builds it", err)
	}
	twice := strings.Contains(string(said), "meets it twice")
	if (err != nil) != twice {
		t.Errorf("the tool ended with %v and said: %s", err, said)
	}
	return twice
}

// twice is whether it does in the control plane, in any chain of any proxy.
func twice(t *testing.T, texts ...string) bool {
	t.Helper()
	w := ordinary()
	w.Waypoint = true
	c := start(t, w, append(texts, publicGateway)...)
	found, most := 0, 0
	for _, proxy := range c.proxies(w) {
		for _, times := range c.where(proxy) {
			found, most = found+1, max(most, times)
		}
	}
	if found == 0 {
		t.Error("it stands nowhere")
	}
	return most > 1
}

// An EnvoyFilter for a Service is what the tool refuses to print.
func TestAnEnvoyFilterForAServiceStandsNowhere(t *testing.T) {
	text, err := render(t, "envoyfilter", "waypoint", parsed(t, placed), scoped("workload", "waypoint")...)
	if err != nil {
		t.Fatal(err)
	}
	w := ordinary()
	w.Waypoint = true
	stands := func(text string) bool {
		c := start(t, w, text)
		for _, times := range c.where(c.waypoint()) {
			if times > 0 {
				return true
			}
		}
		return false
	}
	if !stands(text) {
		t.Error("for the Gateway it stands nowhere either")
	}
	text = edited(t, edited(t, text, "group: gateway.networking.k8s.io", `group: ""`), "kind: Gateway", "kind: Service")
	if stands(edited(t, text, "name: waypoint", "name: reviews")) {
		t.Error("for a Service it stands somewhere")
	}
}

func TestTheToolFindsWhatStandsTwiceInTheControlPlane(t *testing.T) {
	of := func(kind, place, scope string, options ...string) string {
		t.Helper()
		text, err := render(t, kind, place, parsed(t, placed), append(scoped(scope, place), options...)...)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	waypoints := func(text string) string {
		text = edited(t, edited(t, text, "kind: Gateway", "kind: GatewayClass"), "name: waypoint", "name: istio-waypoint")
		return edited(t, text, "namespace: shop", "namespace: istio-system")
	}
	service := func(text string) string {
		text = edited(t, edited(t, text, "group: gateway.networking.k8s.io", `group: ""`), "kind: Gateway", "kind: Service")
		return edited(t, text, "name: waypoint", "name: reviews")
	}
	const workload, namespace, mesh = "workload", "namespace", "mesh"
	for name, set := range map[string]struct {
		twice bool
		texts []string
	}{
		"two kinds, inbound": {true, []string{
			of("wasmplugin", "inbound", workload), of("trafficextension", "inbound", workload),
		}},
		"two kinds, outbound": {true, []string{
			of("wasmplugin", "outbound", workload), of("trafficextension", "outbound", workload),
		}},
		"two kinds, gateway": {true, []string{
			of("wasmplugin", "gateway", workload), of("trafficextension", "gateway", workload),
		}},
		"two kinds, waypoint": {true, []string{
			of("wasmplugin", "waypoint", workload), of("trafficextension", "waypoint", workload),
		}},
		"a plugin and an EnvoyFilter": {true, []string{
			of("wasmplugin", "inbound", workload), of("envoyfilter", "inbound", workload),
		}},
		"a plugin and an EnvoyFilter at a waypoint": {true, []string{
			of("wasmplugin", "waypoint", workload), of("envoyfilter", "waypoint", workload),
		}},
		"a workload and its namespace": {true, []string{
			of("wasmplugin", "inbound", workload), of("wasmplugin", "inbound", namespace, "--name", "all"),
		}},
		"a namespace and the mesh": {true, []string{
			of("wasmplugin", "outbound", namespace), of("wasmplugin", "outbound", mesh),
		}},
		"a gateway and the mesh, whose clients gateways are": {true, []string{
			of("wasmplugin", "gateway", workload), of("wasmplugin", "outbound", mesh),
		}},
		"the same port": {true, []string{
			of("wasmplugin", "inbound", workload, "--port", "9080"),
			of("wasmplugin", "inbound", workload, "--port", "9080", "--name", "other"),
		}},
		"one waypoint and all": {true, []string{
			of("wasmplugin", "waypoint", workload), waypoints(of("wasmplugin", "waypoint", workload)),
		}},
		"a waypoint and a Service behind it": {true, []string{
			of("wasmplugin", "waypoint", workload), service(of("wasmplugin", "waypoint", workload, "--name", "service")),
		}},
		"a waypoint and its like in the root namespace": {false, []string{
			of("wasmplugin", "waypoint", workload),
			edited(t, of("wasmplugin", "waypoint", workload), "namespace: shop", "namespace: istio-system"),
		}},
		"inbound and outbound": {false, []string{
			of("wasmplugin", "inbound", workload), of("trafficextension", "outbound", namespace),
		}},
		"two workloads": {false, []string{
			of("wasmplugin", "inbound", workload),
			edited(t, of("wasmplugin", "inbound", workload, "--name", "other"), "app: reviews", "app: productpage"),
		}},
		"two ports": {false, []string{
			of("wasmplugin", "inbound", workload, "--port", "9080"),
			of("wasmplugin", "inbound", workload, "--port", "9092", "--name", "other"),
		}},
		"EnvoyFilters for a gateway and for sidecars": {false, []string{
			of("envoyfilter", "gateway", workload), of("envoyfilter", "outbound", mesh),
		}},
		"a waypoint and its namespace": {false, []string{
			of("wasmplugin", "waypoint", workload), of("wasmplugin", "inbound", namespace),
		}},
		"a waypoint and its namespace, EnvoyFilters": {false, []string{
			of("envoyfilter", "waypoint", workload), of("envoyfilter", "inbound", namespace),
		}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := twice(t, set.texts...); got != set.twice {
				t.Errorf("in the control plane it stands twice: %v", got)
			}
			if got := checks(t, set.texts...); got != set.twice {
				t.Errorf("by the tool it stands twice: %v", got)
			}
		})
	}
}
