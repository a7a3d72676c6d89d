package istio

import (
	"slices"
	"testing"

	"istio.io/istio/pilot/pkg/config/kube/crd"
	"istio.io/istio/pkg/config"
)

// A control plane reads what has no revision or its own; one that has none itself reads all. This asks its own rule,
// which its store goes by before any other part of it sees a resource.
func TestARevisionReadsWhatIsItsOwnOrNobodys(t *testing.T) {
	for _, kind := range []string{"wasmplugin", "trafficextension", "envoyfilter"} {
		for label, readers := range map[string][]string{"": {"", "default", "canary"}, "canary": {"", "canary"}} {
			t.Run(kind+"/"+label, func(t *testing.T) {
				options := scoped("mesh", "inbound")
				if label != "" {
					options = append(options, "--revision", label)
				}
				text, err := render(t, kind, "inbound", parsed(t, placed), options...)
				if err != nil {
					t.Fatal(err)
				}
				configs, _, err := crd.ParseInputs(text)
				if err != nil || len(configs) != 1 {
					t.Fatalf("%d resources: %v", len(configs), err)
				}
				for _, revision := range []string{"", "default", "canary", "stable"} {
					reads := config.ObjectInRevision(&configs[0], revision)
					if wanted := label == "" || slices.Contains(readers, revision); reads != wanted {
						t.Errorf("revision %q reads it: %v", revision, reads)
					}
				}
			})
		}
	}
}

// A label on the routes, too, would take them from the proxies of all other revisions.
func TestWhatIsForARevisionIsTheFilterAndNotTheRoutes(t *testing.T) {
	rendered, err := render(t, "wasmplugin", "outbound", policyOf(t, "outbound"), "--namespace", "shop", "--routes")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"the overlay": built(t, "overlays/rollout/revision"),
		// Rendered routes have the filter's labels.
		"the component over what the tool prints": composed(t, rendered, "revision"),
	} {
		t.Run(name, func(t *testing.T) {
			configs, _, err := crd.ParseInputs(text)
			if err != nil {
				t.Fatal(err)
			}
			filters := 0
			for _, one := range configs {
				isFilter := one.GroupVersionKind.Group == "extensions.istio.io"
				if others := config.ObjectInRevision(&one, "stable"); others == isFilter {
					t.Errorf("%s %s: the other revisions read it: %v", one.GroupVersionKind.Kind, one.Name, others)
				}
				if isFilter {
					filters++
				}
			}
			if filters != 1 || len(configs) < 3 {
				t.Errorf("%d filters among %d resources", filters, len(configs))
			}
		})
	}
}
