package istio

import "testing"

// The directories under istio/base of one kind and place, each on its own.
func TestTheBasesStandWhereTheirNamesSay(t *testing.T) {
	scopes := map[string]string{
		"inbound": "workload", "outbound": "namespace", "gateway": "workload", "waypoint": "workload",
	}
	for _, kind := range kinds {
		for _, place := range places {
			directory := "base/" + kind + "/" + place
			if kind != "wasmplugin" && kind != "trafficextension" && place == "waypoint" {
				continue
			}
			t.Run(directory, func(t *testing.T) {
				stood(t, kind, scopes[place], place, policyOf(t, place), subsets, publicGateway, built(t, directory))
			})
		}
	}
}

func TestTheOverlaysStandWhereTheirNamesSayAndAreAsFarAsTheySay(t *testing.T) {
	for _, overlay := range []struct {
		directory, scope, place, mode string
		percent                       float64
	}{
		{"workload", "workload", "inbound", "", 0},
		{"gateway", "workload", "gateway", "", 0},
		{"waypoint", "workload", "waypoint", "", 0},
		{"namespace", "namespace", "outbound", "enforce", 100},
		{"mesh", "mesh", "outbound", "shadow", 100},
		{"rollout/shadow", "mesh", "outbound", "shadow", 100},
		{"rollout/percent-1", "mesh", "outbound", "enforce", 1},
		{"rollout/percent-10", "mesh", "outbound", "enforce", 10},
		{"rollout/percent-50", "mesh", "outbound", "enforce", 50},
		{"rollout/percent-100", "mesh", "outbound", "enforce", 100},
		{"rollout/revision", "mesh", "outbound", "enforce", 100},
	} {
		t.Run(overlay.directory, func(t *testing.T) {
			policy := policyOf(t, overlay.place)
			if overlay.mode != "" {
				policy["mode"], policy["rollout"] = overlay.mode, map[string]any{"percent": overlay.percent}
			}
			texts := []string{built(t, "overlays/"+overlay.directory)}
			if overlay.place != "gateway" {
				texts = append(texts, publicGateway)
			}
			stood(t, "wasmplugin", overlay.scope, overlay.place, policy, texts...)
		})
	}
}
