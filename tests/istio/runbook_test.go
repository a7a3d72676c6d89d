package istio

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// section is a part of a document below one heading.
type section struct {
	title  string
	blocks []block
	looks  []look
}

// block is a fenced block of a document.
type block struct {
	language, text string
	// label is the line of text before the block, such as "With `render`:".
	label string
	// note is the comment before the block, if it has one.
	note string
}

// look is a row of a table "look at | go on if".
type look struct{ query, condition string }

// sections reads a document.
func sections(t *testing.T, file string) (all []section) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var open *block
	var label, note string
	for _, line := range strings.Split(string(text), "\n") {
		switch {
		case open != nil && line == "```":
			current := &all[len(all)-1]
			current.blocks, open = append(current.blocks, *open), nil
			label, note = "", ""
		case open != nil:
			open.text += line + "\n"
		case strings.HasPrefix(line, "```"):
			open = &block{language: line[3:], label: label, note: note}
		case strings.HasPrefix(line, "#"):
			all = append(all, section{title: strings.TrimLeft(line, "# ")})
		case strings.HasPrefix(line, "<!--"):
			note = strings.TrimSpace(strings.Trim(line, "<!->"))
		case strings.HasPrefix(line, "| `"):
			cells := strings.Split(strings.Trim(line, "| "), " | ")
			current := &all[len(all)-1]
			current.looks = append(current.looks, look{strings.Trim(cells[0], "`"), cells[1]})
		case line != "":
			label = line
		}
	}
	return all
}

const runbook = manifests + "runbook.md"

// placeholders are the two values of the runbook that are the operator's own.
var placeholders = strings.NewReplacer("registry.example.com", "registry.internal", strings.Repeat("0", 64), strings.Repeat("1a", 32))

// commands are the commands of a section for one of the two ways.
func (s section) commands(way string) string {
	var script strings.Builder
	for _, one := range s.blocks {
		if one.language == "sh" && one.note == "" && (!strings.HasPrefix(one.label, "With ") || strings.HasPrefix(one.label, "With "+way)) {
			script.WriteString(one.text)
		}
	}
	return placeholders.Replace(script.String())
}

// holds returns whether the values of a query allow the operator to go on.
func (l look) holds(values []float64) bool {
	ofIstio := strings.Contains(l.query, "istio_")
	if len(values) != 1 {
		// Only Istio's own build and its agent have these metrics.
		return ofIstio && len(values) == 0
	}
	value := values[0]
	word := strings.FieldsFunc(l.condition, func(r rune) bool { return strings.ContainsRune(" :,;", r) })[0]
	switch {
	case strings.HasPrefix(l.condition, "it is the number of the workload's proxies"):
		return value == 1
	case word == "above":
		return value > 0
	case word == "0" || word == "1":
		return fmt.Sprint(value) == word
	default:
		return value >= 0 && value <= 1
	}
}

// The steps of the runbook, as they stand in the document, under load. No step may fail a request.
func TestTheRunbooksStepsRaiseARolloutAndNoRequestFails(t *testing.T) {
	for _, way := range []string{"`render`", "the overlays"} {
		t.Run(strings.Trim(way, "`"), func(t *testing.T) {
			v1, v2 := serve(t, "v1", "127.0.0.2"), serve(t, "v2", "127.0.0.3")
			address := ownAddress(t, 9080)
			c := startForEnvoy(t, world{V1: v1.endpoint, V2: v2.endpoint}, egress(address))
			k := c.cluster(workspace(t))
			// The variables of the first steps are those of the later ones.
			var before string
			run := func(s section, script string) {
				k.shell(before + script)
				for _, line := range strings.Split(script, "\n") {
					if name, _, ok := strings.Cut(line, "="); ok && !strings.ContainsAny(name, " {\"'") {
						before += line + "\n"
					}
				}
			}
			k.edit("istio/components/module/kustomization.yaml", placeholders.Replace)
			e := c.envoy(callerNode)
			caller := newClient(t, address+":9080", "reviews:9080")
			p := startPrometheus(t, e)
			requests := caller.load(2)
			e.until("requests flow", func() bool { return requests.answered.Load() > 100 })
			document := func() (number float64) {
				values, err := p.query(`graygate_policy_document{policy="reviews"}`)
				if err == nil && len(values) == 1 {
					number = values[0]
				}
				return number
			}
			enforced := 0.0
			step := regexp.MustCompile(`^Step (\d)|^Before|^Stop$`)
			for _, s := range sections(t, runbook) {
				if !step.MatchString(s.title) {
					continue
				}
				begun := requests.answered.Load()
				script := s.commands(way)
				if s.title == "Stop" {
					// The harder way back comes after the queries.
					script, _, _ = strings.Cut(s.blocks[0].text, "\nkubectl")
				}
				// The runbook has the operator wait here until all proxies have the subsets.
				if first, rest, ok := strings.Cut(script, "kubectl kustomize istio/base/steering"); ok {
					run(s, first)
					e.until("the proxy has the subsets", func() bool {
						return strings.Contains(e.admin("/clusters"), "outbound|9080|v2|reviews.shop.svc.cluster.local::"+v2.IP)
					})
					script = "kubectl kustomize istio/base/steering" + rest
				}
				inUse := document()
				run(s, script)
				// From step 3 on, every step changes the document.
				if strings.HasPrefix(s.title, "Step") && s.title[5] > '2' {
					e.until("the proxy has the new document", func() bool { now := document(); return now != 0 && now != inUse })
				}
				k.meets(e, p, s)
				if strings.Contains(s.title, "weights") {
					for _, weight := range []string{"10", "50", "100"} {
						run(s, withWeight(script, weight))
						k.meets(e, p, s)
						e.until("v2 has its share", func() bool {
							values, err := p.query(`max(graygate_version_share_basis_points{policy="reviews",version="v2"}) / 100`)
							return err == nil && len(values) == 1 && fmt.Sprint(values[0]) == weight
						})
					}
					e.until("all users are on v2", func() bool { return len(caller.onV2()) == 500 })
				}
				if strings.HasPrefix(s.title, "Step") {
					enforces := 0.0
					e.until("testers get v2 where the policy is enforced", func() bool {
						values, err := p.query(`graygate_policy_enforced{policy="reviews"}`)
						if err != nil || len(values) != 1 {
							return false
						}
						enforces = values[0]
						return (caller.ask("/", "x-tester", "true").body == "v2") == (enforces == 1)
					})
					if enforces < enforced {
						t.Errorf("%s: a proxy that enforced the policy no longer does", s.title)
					}
					enforced = enforces
				}
				if s.title == "Stop" {
					e.until("nothing is changed any more", func() bool { return len(caller.onV2()) == 0 })
				}
				e.until("requests flow on", func() bool { return requests.answered.Load() > begun+500 })
				if failed := requests.failed.Load(); failed != nil {
					t.Fatalf("%s: a request failed: %v", s.title, *failed)
				}
				t.Logf("%s: %d requests, 0 failed", s.title, requests.answered.Load()-begun)
			}
			k.shell("kubectl -n istio-system delete wasmplugin graygate-reviews-outbound")
			e.until("there is no filter", func() bool { return len(e.counters("graygate_policy_document")) == 0 })
			requests.finished(e)
		})
	}
}

// withWeight makes of the commands for a weight of 1 those for another one.
func withWeight(script, weight string) string {
	var rest int
	_, _ = fmt.Sscan(weight, &rest)
	return strings.NewReplacer(`\199/`, fmt.Sprintf(`\1%d/`, 100-rest), `\11/`, `\1`+weight+`/`,
		"weight-1\n", "weight-"+weight+"\n", "weight-1 ", "weight-"+weight+" ").Replace(script)
}

// edit changes a file of the workspace.
func (k *kubectlCluster) edit(name string, change func(string) string) {
	k.t.Helper()
	file := k.directory + "/" + name
	text, err := os.ReadFile(file)
	if err != nil {
		k.t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(change(string(text))), 0o600); err != nil {
		k.t.Fatal(err)
	}
}

// meets waits until all that the section says to look at allows to go on. Each query must be one that Prometheus takes.
func (k *kubectlCluster) meets(e *envoy, p *prometheus, s section) {
	k.t.Helper()
	for _, one := range s.looks {
		var values []float64
		deadline := time.Now().Add(patience)
		for {
			var err error
			if values, err = p.query(one.query); err != nil {
				k.t.Fatalf("%s: %v", s.title, err)
			}
			if one.holds(values) {
				break
			}
			if time.Now().After(deadline) {
				k.t.Fatalf("%s: %s is %v, not %q\n%s", s.title, one.query, values, one.condition, e.admin("/stats?filter=graygate"))
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	for _, one := range s.blocks {
		if one.language == "promql" {
			if _, err := p.query(one.text); err != nil {
				k.t.Fatalf("%s: %v", s.title, err)
			}
		}
	}
}

// The line that stops a policy, for each kind of resource that brings it.
func TestTheRunbooksLineForEachKindStopsAPolicyAtOnceAndNoRequestFails(t *testing.T) {
	var stop section
	for _, s := range sections(t, runbook) {
		if s.title == "Stop" {
			stop = s
		}
	}
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			v1, v2 := serve(t, "v1", "127.0.0.2"), serve(t, "v2", "127.0.0.3")
			address := ownAddress(t, 9080)
			c := startForEnvoy(t, world{V1: v1.endpoint, V2: v2.endpoint}, egress(address), built(t, "base/steering/header"))
			k := c.cluster(workspace(t))
			plugin, err := render(t, kind, "outbound", weighted(t, split, "50", "50"), "--scope", "mesh", "--mode", "enforce")
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(k.directory+"/plugin.yaml", []byte(plugin), 0o600); err != nil {
				t.Fatal(err)
			}
			k.shell("kubectl apply -f plugin.yaml")
			e := c.envoy(callerNode)
			caller := newClient(t, address+":9080", "reviews:9080")
			e.until("users get v2", func() bool { return len(caller.onV2()) > 100 })
			requests := caller.load(4)
			e.until("requests flow", func() bool { return requests.answered.Load() > 100 })
			resource, _ := strings.CutSuffix(kind, "-ecds")
			found := slices.IndexFunc(stop.blocks, func(b block) bool { return strings.Contains(b.text, " "+resource+" ") })
			if found < 0 {
				t.Fatalf("the runbook has no line for %s", kind)
			}
			begun := time.Now()
			k.shell(stop.blocks[found].text)
			e.until("nothing is changed any more", func() bool { return len(caller.onV2()) == 0 })
			t.Logf("stopped after %v", time.Since(begun).Round(time.Millisecond))
			requests.finished(e)
		})
	}
}

// The commands for teams that share a mesh, with a file for each.
func TestTheRunbooksCommandsForTeamsMakeOnePluginThatOneLineStops(t *testing.T) {
	v1, v2 := serve(t, "v1", "127.0.0.2"), serve(t, "v2", "127.0.0.3")
	address := ownAddress(t, 9080)
	c := startForEnvoy(t, world{V1: v1.endpoint, V2: v2.endpoint}, egress(address), built(t, "base/steering/header"))
	k := c.cluster(workspace(t))
	reviews := strings.NewReplacer("weight: 90", "weight: 50", "weight: 10", "weight: 50", "name: reviews\nupstreams", "name: reviews\nhosts: [reviews.shop]\nupstreams").Replace(split)
	ratings := "name: ratings\nhosts: [ratings.shop]\nupstreams: {ratings: {cluster: outbound|9080||ratings.shop.svc.cluster.local, circuitBreaker: {}}}\ngates: [{upstream: ratings}]\n"
	k.shell("mkdir teams")
	for name, text := range map[string]string{"reviews": reviews, "ratings": ratings} {
		if err := os.WriteFile(k.directory+"/teams/"+name+".yaml", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var stop, teams string
	for _, s := range sections(t, runbook) {
		switch s.title {
		case "Stop":
			stop, _, _ = strings.Cut(s.blocks[0].text, "\n\n")
		case "Teams that share a mesh":
			teams = s.blocks[0].text
		}
	}
	k.shell("module=oci://registry.internal/graygate:1\nsha256=" + strings.Repeat("1a", 32) + "\n" + teams + "kubectl apply -f plugin.yaml")
	e := c.envoy(callerNode)
	caller := newClient(t, address+":9080", "reviews:9080")
	e.until("users get v2", func() bool { return len(caller.onV2()) > 100 })
	plugin, _ := os.ReadFile(k.directory + "/plugin.yaml")
	_, name, _ := strings.Cut(string(plugin), "\n  name: ")
	name, _, _ = strings.Cut(name, "\n")
	k.shell(strings.Replace(stop, "graygate-reviews-outbound", name, 1))
	e.until("nothing is changed any more", func() bool { return len(caller.onV2()) == 0 })
}
