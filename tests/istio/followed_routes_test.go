package istio

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcher "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
)

// follows is the cluster of the first route that takes a GET of / with this version in the header.
func follows(t *testing.T, host *route.VirtualHost, version string) string {
	t.Helper()
	for _, one := range host.GetRoutes() {
		if takes(t, one.GetMatch(), version) {
			return one.GetRoute().GetCluster()
		}
	}
	return ""
}

func takes(t *testing.T, match *route.RouteMatch, version string) bool {
	t.Helper()
	if match.GetPath() != "" && match.GetPath() != "/" || match.GetPathSeparatedPrefix() != "" ||
		match.GetPrefix() != "" && match.GetPrefix() != "/" || match.GetSafeRegex() != nil {
		return false
	}
	for _, header := range match.GetHeaders() {
		value := map[string]string{"x-gray-version": version, ":method": "GET"}[strings.ToLower(header.GetName())]
		holds := value != ""
		if text := header.GetStringMatch(); text != nil && (holds || header.GetTreatMissingHeaderAsEmpty()) {
			holds = is(t, text, value)
		}
		if holds == header.GetInvertMatch() {
			return false
		}
	}
	return true
}

func is(t *testing.T, text *matcher.StringMatcher, value string) bool {
	t.Helper()
	switch {
	case text.GetSafeRegex() != nil:
		return regexp.MustCompile("^(?:" + text.GetSafeRegex().GetRegex() + ")$").MatchString(value)
	case text.GetPrefix() != "":
		return strings.HasPrefix(value, text.GetPrefix())
	}
	return text.GetExact() == value
}

// httpRoutes is a VirtualService of `reviews`, or of what `spec` says, with these routes.
func httpRoutes(name, spec, http string) string {
	return "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: " + name + ", namespace: shop}\nspec:\n" +
		spec + "\n  http:\n" + http
}

const (
	ofReviews  = "  hosts: [reviews.shop.svc.cluster.local]"
	toStable   = "  - route: [{destination: {host: reviews.shop.svc.cluster.local, subset: v1, port: {number: 9080}}}]\n"
	toNew      = "    route: [{destination: {host: reviews.shop.svc.cluster.local, subset: v2, port: {number: 9080}}}]\n"
	newByValue = "  - match: [{headers: {x-gray-version: {exact: v2}}}]\n" + toNew
	v1Alone    = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: narrow, namespace: shop}\n" +
		"spec: {host: reviews.shop.svc.cluster.local, subsets: [{name: v1, labels: {version: v1}}]}\n"
)

// Where Istio sends the versions of a release, and what the tool says of it. Both follow the same routes. The control plane
// of these tests has no domain, so that it completes no short name to a full one.
func TestTheToolFollowsRoutesAsTheControlPlaneDoes(t *testing.T) {
	plugin, err := render(t, "wasmplugin", "outbound", parsed(t, split), scoped("workload", "outbound")...)
	if err != nil {
		t.Fatal(err)
	}
	in := func(text, old, new string) string { return edited(t, text, old, new) }
	right := httpRoutes("reviews", ofReviews, newByValue+toStable)
	for name, set := range map[string]struct {
		right bool
		texts []string
	}{
		"right":                           {true, []string{right, subsets}},
		"no port in the destination":      {true, []string{in(right, ", port: {number: 9080}", ""), subsets}},
		"a name cut to its namespace":     {false, []string{in(right, "hosts: [reviews.shop.svc.cluster.local]", "hosts: [reviews.shop]"), subsets}},
		"a destination cut":               {false, []string{in(right, "host: reviews.shop.svc.cluster.local, subset: v2", "host: reviews.shop, subset: v2"), subsets}},
		"a wildcard":                      {true, []string{in(right, ofReviews, "  hosts: ['*.shop.svc.cluster.local']"), subsets}},
		"a wildcard beside the host":      {true, []string{httpRoutes("wide", "  hosts: ['*.shop.svc.cluster.local']", toStable), right, subsets}},
		"a wildcard and no host":          {false, []string{httpRoutes("wide", "  hosts: ['*.shop.svc.cluster.local']", toStable), subsets}},
		"for a gateway alone":             {false, []string{in(right, ofReviews, ofReviews+"\n  gateways: [public]"), subsets, publicGateway}},
		"for the mesh and a gateway":      {true, []string{in(right, ofReviews, ofReviews+"\n  gateways: [public, mesh]"), subsets, publicGateway}},
		"exported elsewhere":              {false, []string{in(right, ofReviews, ofReviews+"\n  exportTo: [other]"), subsets}},
		"exported to its own namespace":   {true, []string{in(right, ofReviews, ofReviews+"\n  exportTo: ['.']"), subsets}},
		"left out":                        {false, []string{httpRoutes("reviews", ofReviews, toStable), subsets}},
		"default first":                   {false, []string{httpRoutes("reviews", ofReviews, toStable+newByValue), subsets}},
		"every path first":                {false, []string{httpRoutes("reviews", ofReviews, in(toStable, "- route", "- match: [{uri: {prefix: /}}]\n    route")+newByValue), subsets}},
		"another path first":              {true, []string{httpRoutes("reviews", ofReviews, "  - match: [{uri: {prefix: /static}}]\n    redirect: {uri: /}\n"+newByValue+toStable), subsets}},
		"another header":                  {false, []string{in(right, "x-gray-version", "x-grey-version"), subsets}},
		"a header in capitals":            {true, []string{in(right, "x-gray-version", "X-Gray-Version"), subsets}},
		"a value in capitals":             {false, []string{in(right, "exact: v2", "exact: V2"), subsets}},
		"a regex":                         {true, []string{in(right, "exact: v2", "regex: 'v[2-9]'"), subsets}},
		"a regex for a part":              {false, []string{in(right, "exact: v2", "regex: 'v'"), subsets}},
		"a prefix":                        {true, []string{in(right, "exact: v2", "prefix: v2"), subsets}},
		"a prefix of both":                {false, []string{in(right, "exact: v2", "prefix: v"), subsets}},
		"all but v1":                      {true, []string{in(right, "headers: {x-gray-version: {exact: v2}}", "withoutHeaders: {x-gray-version: {exact: v1}}"), subsets}},
		"any value":                       {false, []string{in(right, "{exact: v2}", "{}"), subsets}},
		"senders of another namespace":    {true, []string{httpRoutes("reviews", ofReviews, in(toStable, "- route", "- match: [{sourceNamespace: other}]\n    route")+newByValue+toStable), subsets}},
		"senders of this namespace":       {false, []string{httpRoutes("reviews", ofReviews, in(toStable, "- route", "- match: [{sourceNamespace: shop}]\n    route")+newByValue+toStable), subsets}},
		"senders with other labels":       {true, []string{httpRoutes("reviews", ofReviews, in(toStable, "- route", "- match: [{sourceLabels: {app: reviews}}]\n    route")+newByValue+toStable), subsets}},
		"senders with these labels":       {false, []string{httpRoutes("reviews", ofReviews, in(toStable, "- route", "- match: [{sourceLabels: {app: productpage}}]\n    route")+newByValue+toStable), subsets}},
		"another port first":              {true, []string{httpRoutes("reviews", ofReviews, in(toStable, "- route", "- match: [{port: 80}]\n    route")+newByValue+toStable), subsets}},
		"this port first":                 {false, []string{httpRoutes("reviews", ofReviews, in(toStable, "- route", "- match: [{port: 9080}]\n    route")+newByValue+toStable), subsets}},
		"a gateway's route first":         {true, []string{httpRoutes("reviews", ofReviews, in(toStable, "- route", "- match: [{gateways: [public]}]\n    route")+newByValue+toStable), subsets}},
		"subset missing":                  {false, []string{right, v1Alone}},
		"subset in a second rule":         {true, []string{right, v1Alone, in(in(subsets, "name: reviews", "name: second"), "  - {name: v1, labels: {version: v1}}\n", "")}},
		"rule in another namespace":       {false, []string{right, v1Alone, in(subsets, "namespace: shop", "namespace: istio-system")}},
		"rule in the root namespace":      {true, []string{right, in(subsets, "namespace: shop", "namespace: istio-system")}},
		"rule that is not exported":       {true, []string{right, in(subsets, "spec:", "spec:\n  exportTo: ['.']")}},
		"another port of the destination": {false, []string{in(right, "subset: v2, port: {number: 9080}", "subset: v2, port: {number: 80}"), subsets}},
		"an HTTPRoute by header":          {false, []string{subsets, httpRouteOfReviews}},
	} {
		t.Run(name, func(t *testing.T) {
			c := start(t, ordinary(), set.texts...)
			proxy := c.productpage()
			host := c.host(proxy, "9080/"+reviews)
			clusters := c.clusters(proxy)
			got := true
			for version, cluster := range map[string]string{"v1": v1Cluster, "v2": v2Cluster} {
				got = got && follows(t, host, version) == cluster && slices.Contains(clusters, cluster)
			}
			if got != set.right {
				t.Errorf("in the control plane, all versions reach their clusters: %v; routes: %v", got, host.GetRoutes())
			}
			file := filepath.Join(t.TempDir(), "applied.yaml")
			text := strings.Join(append(set.texts, plugin), "\n---\n")
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			said, err := exec.Command(tool, "check", "--istio", file).CombinedOutput()
			if _, ended := err.(*exec.ExitError); err != nil && !ended {
				t.Fatalf("%v; `make tool` builds it", err)
			}
			if (err == nil) != set.right {
				t.Errorf("the tool ends with %v and says: %s", err, said)
			}
		})
	}
}

// httpRouteOfReviews sends the new version's requests to the whole service, as an HTTPRoute knows no subsets.
const httpRouteOfReviews = `
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: reviews, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: reviews}]
  rules:
  - matches: [{path: {type: PathPrefix, value: /}}]
    backendRefs: [{name: reviews, port: 9080}]
  - matches: [{path: {type: PathPrefix, value: /}, headers: [{type: Exact, name: x-gray-version, value: v2}]}]
    backendRefs: [{name: reviews, port: 9080}]
`
