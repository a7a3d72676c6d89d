package istio

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	routeapi "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	networking "istio.io/api/networking/v1alpha3"
	"istio.io/istio/pilot/pkg/networking/core/route"
	"istio.io/istio/pkg/config"
	"istio.io/istio/pkg/config/schema/gvk"
	"istio.io/istio/pkg/config/validation"
)

const (
	// SEED in the environment replaces it, to try other matches and requests.
	matchesSeed    = 20260901
	numberMatches  = 100
	numberRequests = 60
)

// TestMatchesHoldAsInIstiosRoutes has each random match in two places of one Envoy: as the route that Istio makes of it,
// and as a release of ours. A request says by the header x-index which of the matches it is for.
func TestMatchesHoldAsInIstiosRoutes(t *testing.T) {
	seed := uint64(matchesSeed)
	if given, err := strconv.ParseUint(os.Getenv("SEED"), 10, 64); err == nil {
		seed = given
	}
	random := rand.New(rand.NewPCG(seed, 0))
	var matches []*networking.HTTPMatchRequest
	for len(matches) < numberMatches {
		m := randomMatch(random)
		if valid(m) && accepted(t, m) {
			matches = append(matches, m)
		}
	}
	e := startEnvoy(t, bothWays(t, matches))
	c := dial(t, e)
	held, differ := 0, []string{}
	for range numberRequests {
		request := randomRequest(random)
		for index, m := range matches {
			status, ours := c.ask(request.text(index))
			if status == http.StatusBadRequest {
				break // Envoy refuses the request before any filter
			}
			theirs := status == http.StatusOK
			if theirs {
				held++
			}
			if theirs != ours && documented(c, m, index, request, ours) == "" {
				differ = append(differ, fmt.Sprintf("Istio %v, graygate %v\n  %s\n  %q", theirs, ours, asJSON(m), request.text(index)))
			}
		}
	}
	if len(differ) > 0 {
		t.Errorf("seed %d: %d differences\n%s", seed, len(differ), strings.Join(differ[:min(len(differ), 10)], "\n"))
	}
	if held < numberMatches*numberRequests/10 {
		t.Errorf("only %d matches held, which shows little", held)
	}
}

// documented is why a match may hold otherwise for us, or nothing.
func documented(c *rawClient, m *networking.HTTPMatchRequest, index int, r someRequest, ours bool) string {
	if first := r.firstValues(); len(first.headers) < len(r.headers) {
		if status, _ := c.ask(first.text(index)); (status == http.StatusOK) == ours {
			return "of a repeated header, Envoy's routes take all values joined by commas, and we take the first"
		}
	}
	lower := strings.ToLower(r.host) == r.host
	hasPort := !strings.HasSuffix(r.host, "]") && strings.Contains(r.host, ":")
	for _, condition := range onAuthority(m) {
		if said := asJSON(condition); hasPort || !lower || strings.ToLower(said) != said {
			return "in an authority, case does not count for us, nor does the port unless the condition names one"
		}
	}
	if strings.Contains(asJSON(m), `"regex":`) && strings.ContainsFunc(r.text(index), func(c rune) bool { return c > 127 }) {
		return "a regular expression of ours sees the characters of UTF-8 and matches nothing else, and Envoy's sees bytes"
	}
	return ""
}

// onAuthority are the conditions of a match on the authority.
func onAuthority(m *networking.HTTPMatchRequest) []*networking.StringMatch {
	var found []*networking.StringMatch
	for _, condition := range []*networking.StringMatch{
		m.Authority, m.Headers["host"], m.Headers[":authority"], m.WithoutHeaders["host"], m.WithoutHeaders[":authority"],
	} {
		if condition != nil {
			found = append(found, condition)
		}
	}
	return found
}

// unsupported are the conditions on what a filter does not see.
var unsupported = map[string]*networking.HTTPMatchRequest{
	"port":            {Port: 80},
	"gateways":        {Gateways: []string{"mesh"}},
	"sourceLabels":    {SourceLabels: map[string]string{"app": "a"}},
	"sourceNamespace": {SourceNamespace: "shop"},
	"statPrefix":      {StatPrefix: "a"},
}

func TestConditionsOnWhatAFilterDoesNotSeeAreRefused(t *testing.T) {
	for name, m := range unsupported {
		if said := refusalOf(t, m); !strings.Contains(said, name+": not supported") {
			t.Errorf("%s: %s", name, said)
		}
	}
}

// valid tells whether Istio takes the match.
func valid(m *networking.HTTPMatchRequest) bool {
	destination := &networking.HTTPRouteDestination{Destination: &networking.Destination{Host: "reviews"}}
	routes := []*networking.HTTPRoute{{Match: []*networking.HTTPMatchRequest{m}, Route: []*networking.HTTPRouteDestination{destination}}}
	_, err := validation.ValidateVirtualService(config.Config{
		Meta: config.Meta{GroupVersionKind: gvk.VirtualService, Name: "reviews", Namespace: "shop"},
		Spec: &networking.VirtualService{Hosts: []string{"reviews"}, Http: routes},
	})
	return err == nil
}

// accepted tells whether a policy may have the match. The reasons against one are the tool's to tell.
func accepted(t *testing.T, m *networking.HTTPMatchRequest) bool {
	t.Helper()
	return refusalOf(t, m) == ""
}

func refusalOf(t *testing.T, m *networking.HTTPMatchRequest) string {
	t.Helper()
	command := exec.Command(tool, "check", "-")
	command.Stdin = strings.NewReader(asJSON(policyOfMatches([]*networking.HTTPMatchRequest{m})))
	said, err := command.CombinedOutput()
	if err == nil {
		return ""
	}
	return string(said)
}

func asJSON(value any) string {
	text, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// forIndex is the match with one condition more, on which of the matches the request is for.
func forIndex(m *networking.HTTPMatchRequest, index int) *networking.HTTPMatchRequest {
	m = proto.Clone(m).(*networking.HTTPMatchRequest)
	if m.Headers == nil {
		m.Headers = map[string]*networking.StringMatch{}
	}
	m.Headers["x-index"] = &networking.StringMatch{MatchType: &networking.StringMatch_Exact{Exact: strconv.Itoa(index)}}
	return m
}

// policyOfMatches has a release for each match, which sets the header x-ours on the requests that it is for.
func policyOfMatches(matches []*networking.HTTPMatchRequest) map[string]any {
	var releases []any
	for index, m := range matches {
		releases = append(releases, map[string]any{
			"name": fmt.Sprintf("r%d", index), "match": []any{forIndex(m, index)}, "steer": map[string]any{"header": "x-ours"},
			"versions": []any{map[string]any{"name": "yes", "upstream": "app", "weight": 1, "default": true}},
		})
	}
	return map[string]any{
		"name": "matches", "upstreams": map[string]any{"app": map[string]any{"cluster": "app"}}, "releases": releases,
	}
}

// bothWays is an Envoy whose routes answer 200 where Istio's match holds and 404 elsewhere, with x-ours where ours does.
func bothWays(t *testing.T, matches []*networking.HTTPMatchRequest) map[string]any {
	t.Helper()
	module, err := filepath.Abs("../../dist/graygate.wasm")
	if err != nil {
		t.Fatal(err)
	}
	var routes []any
	for index, m := range matches {
		translated := route.TranslateRouteMatch(config.Config{}, forIndex(m, index))
		routes = append(routes, map[string]any{"match": asTree(t, translated), "direct_response": map[string]any{"status": 200}})
	}
	all := &routeapi.RouteMatch{PathSpecifier: &routeapi.RouteMatch_Prefix{Prefix: "/"}}
	routes = append(routes, map[string]any{"match": asTree(t, all), "direct_response": map[string]any{"status": 404}})

	extensions := "type.googleapis.com/envoy.extensions."
	configuration := map[string]any{
		"@type": "type.googleapis.com/google.protobuf.StringValue", "value": asJSON(policyOfMatches(matches)),
	}
	filter := map[string]any{
		"@type": extensions + "filters.http.wasm.v3.Wasm",
		"config": map[string]any{
			"name": "graygate",
			"vm_config": map[string]any{
				"vm_id": "graygate", "runtime": "envoy.wasm.runtime.v8",
				"code": map[string]any{"local": map[string]any{"filename": module}},
			},
			"configuration": configuration,
		},
	}
	ours := map[string]any{"header": map[string]any{"key": "x-ours", "value": "%REQ(x-ours)%"}}
	manager := map[string]any{
		"@type":       extensions + "filters.network.http_connection_manager.v3.HttpConnectionManager",
		"stat_prefix": "http",
		"http_filters": []any{
			map[string]any{"name": "graygate", "typed_config": filter},
			map[string]any{"name": "router", "typed_config": map[string]any{"@type": extensions + "filters.http.router.v3.Router"}},
		},
		"route_config": map[string]any{
			"response_headers_to_add": []any{ours},
			"virtual_hosts":           []any{map[string]any{"name": "all", "domains": []any{"*"}, "routes": routes}},
		},
	}
	return map[string]any{
		"admin": map[string]any{"address": address("127.0.0.1", "0")},
		"static_resources": map[string]any{"listeners": []any{map[string]any{
			"name": "http", "address": address("127.0.0.1", "0"),
			"filter_chains": []any{map[string]any{"filters": []any{map[string]any{"name": "http", "typed_config": manager}}}},
		}}},
	}
}

func asTree(t *testing.T, message proto.Message) map[string]any {
	t.Helper()
	text, err := protojson.Marshal(message)
	if err != nil {
		t.Fatal(err)
	}
	tree := map[string]any{}
	if err := json.Unmarshal(text, &tree); err != nil {
		t.Fatal(err)
	}
	return tree
}

// rawClient sends requests byte for byte.
type rawClient struct {
	t       *testing.T
	address string
	conn    net.Conn
	reader  *bufio.Reader
}

func dial(t *testing.T, e *envoy) *rawClient {
	t.Helper()
	listener := ""
	e.until("the listener is there", func() bool {
		_, listener, _ = strings.Cut(strings.TrimSpace(e.admin("/listeners")), "::")
		return listener != ""
	})
	return &rawClient{t: t, address: listener}
}

// ask returns the status of the response and whether it says that our match holds.
func (c *rawClient) ask(request string) (status int, ours bool) {
	c.t.Helper()
	if c.conn == nil {
		conn, err := net.Dial("tcp", c.address)
		if err != nil {
			c.t.Fatal(err)
		}
		c.t.Cleanup(func() { _ = conn.Close() })
		c.conn, c.reader = conn, bufio.NewReader(conn)
	}
	if _, err := c.conn.Write([]byte(request)); err != nil {
		c.t.Fatal(err)
	}
	method, _, _ := strings.Cut(request, " ")
	response, err := http.ReadResponse(c.reader, &http.Request{Method: method})
	if err != nil {
		c.t.Fatalf("%v to %q", err, request)
	}
	_ = response.Body.Close()
	if response.Close {
		c.conn = nil
	}
	return response.StatusCode, response.Header.Get("x-ours") == "yes"
}
