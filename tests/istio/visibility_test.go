package istio

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

// judged is a policy in force that gives a failed upstream up at once, and takes it back soon.
const judged = `
name: reviews
upstreams:
  reviews-v1:
    cluster: outbound|9080|v1|reviews.shop.svc.cluster.local
    readinessProbe: {httpGet: {path: /healthz}, periodSeconds: 0.1, failureThreshold: 2}
  reviews-v2:
    cluster: outbound|9080|v2|reviews.shop.svc.cluster.local
    readinessProbe: {httpGet: {path: /healthz}, periodSeconds: 0.1, failureThreshold: 2}
releases:
- name: reviews
  steer: {header: x-gray-version}
  hashOn: [{httpHeaderName: x-user-id}]
  versions:
  - {name: v1, upstream: reviews-v1, weight: 90, default: true}
  - {name: v2, upstream: reviews-v2, weight: 10}
gates:
- upstream: reviews-v1
`

// All tests with Envoy run at the log level that Istio's proxies have by default.
func TestAnOutageAndItsEndAreInTheLogAtIstiosDefaultLevel(t *testing.T) {
	v1, v2 := serve(t, "v1", "127.0.0.2"), serve(t, "v2", "127.0.0.3")
	address := ownAddress(t, 9080)
	c := startForEnvoy(t, world{V1: v1.endpoint, V2: v2.endpoint}, egress(address), built(t, "base/steering/header"),
		local(t, manifest(t, "wasmplugin", "outbound", parsed(t, judged))))
	e := c.envoy(callerNode)
	logged := func(text string) func() bool {
		return func() bool {
			log, _ := os.ReadFile(e.file("log"))
			return strings.Contains(string(log), text)
		}
	}
	v1.unwell.Store(true)
	e.until("the outage is in the log", logged("upstream reviews-v1: ready -> not-ready (check-failed"))
	v1.unwell.Store(false)
	e.until("its end is in the log", logged("upstream reviews-v1: not-ready -> ready"))
	if logged("loaded")() {
		t.Error("the log has lines of level info")
	}
}

// gaugesOf are the gauges of graygate in one Envoy, without those of the policy as a whole.
func gaugesOf(e *envoy, policy string) map[string]int {
	found := map[string]int{}
	for name, value := range e.counters("graygate_(upstream_ready|version_share_basis_points|policy_enforced|policy_document)") {
		if strings.Contains(name, "policy=.="+policy+";") {
			found[name] = value
		}
	}
	return found
}

// What leaves a policy leaves no gauge that an alert would take: not ready, in force, or a share.
func TestGaugesOfWhatLeftAPolicyRaiseNoAlert(t *testing.T) {
	for _, kind := range twoWays {
		t.Run(kind, func(t *testing.T) {
			v1, v2 := serve(t, "v1", "127.0.0.2"), serve(t, "v2", "127.0.0.3")
			address := ownAddress(t, 9080)
			apply := func(c *controlPlane, policy string) {
				c.apply(local(t, manifest(t, kind, "outbound", parsed(t, policy), "--name", "graygate")))
			}
			c := startForEnvoy(t, world{V1: v1.endpoint, V2: v2.endpoint}, egress(address), built(t, "base/steering/header"))
			apply(c, judged)
			e := c.envoy(callerNode)
			v2.unwell.Store(true)
			value := func(part string) (sum, count int) {
				for name, value := range gaugesOf(e, "reviews") {
					if strings.Contains(name, part) {
						sum, count = sum+value, count+1
					}
				}
				return sum, count
			}
			e.until("v2 is not ready", func() bool { sum, count := value("upstream=.=reviews-v2;"); return count == 1 && sum == 0 })

			withoutV2 := strings.NewReplacer("  - {name: v2, upstream: reviews-v2, weight: 10}\n", "", "weight: 90", "weight: 1").Replace(judged)
			begin, end := strings.Index(withoutV2, "  reviews-v2:"), strings.Index(withoutV2, "releases:")
			withoutV2 = withoutV2[:begin] + withoutV2[end:]
			apply(c, withoutV2)
			e.until("no gauge says that v2 is not ready", func() bool {
				sum, count := value("upstream=.=reviews-v2;")
				return count == 0 || sum > 0
			})
			e.until("the shares add up to 100 %", func() bool { sum, _ := value("version_share_basis_points"); return sum == 10_000 })

			apply(c, strings.Replace(withoutV2, "name: reviews\n", "name: reviews\nmode: shadow\n", 1))
			e.until("no gauge says that it is in force", func() bool { sum, _ := value("policy_enforced"); return sum == 0 })
			e.until("the shares add up to 100 %, still", func() bool { sum, _ := value("version_share_basis_points"); return sum == 10_000 })

			apply(c, strings.Replace(withoutV2, "name: reviews\n", "name: others\n", 1))
			e.until("the other policy is in use", func() bool { return len(gaugesOf(e, "others")) > 0 })
			e.until("no gauge of the first says that it is in force", func() bool {
				enforced, _ := value("policy_enforced")
				document, _ := value("policy_document")
				shares, _ := value("version_share_basis_points")
				return enforced == 0 && document == 0 && shares == 0
			})
		})
	}
}

// number is the one that the tool prints for the policy in a manifest.
func number(t *testing.T, text string) int {
	t.Helper()
	command := exec.Command(tool, "policy-number", "-")
	command.Stdin = strings.NewReader(text)
	printed, err := command.Output()
	if err != nil {
		t.Fatal(err)
	}
	number, err := strconv.Atoi(strings.TrimSpace(string(printed)))
	if err != nil {
		t.Fatal(err)
	}
	return number
}

// Istio makes a Struct of the policy in a WasmPlugin, and JSON of that.
func TestAProxyShowsTheNumberOfThePolicyInTheManifest(t *testing.T) {
	for _, kind := range twoWays {
		t.Run(kind, func(t *testing.T) {
			v1, v2 := serve(t, "v1", "127.0.0.2"), serve(t, "v2", "127.0.0.3")
			text := local(t, manifest(t, kind, "outbound", parsed(t, judged)))
			c := startForEnvoy(t, world{V1: v1.endpoint, V2: v2.endpoint}, egress(ownAddress(t, 9080)), built(t, "base/steering/header"), text)
			e := c.envoy(callerNode)
			expected := number(t, text)
			e.until("it shows the number of the manifest", func() bool {
				for name, value := range gaugesOf(e, "reviews") {
					if strings.Contains(name, "policy_document") {
						return value == expected
					}
				}
				return false
			})
		})
	}
}
