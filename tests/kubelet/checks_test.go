// Package kubelet compares our checks with Kubernetes' own prober, on servers that are odd.
package kubelet

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/kubernetes/pkg/probe"
	probehttp "k8s.io/kubernetes/pkg/probe/http"
)

// otherPort is that of a server that answers 500, for redirects to another port.
var otherPort string

// wait returns the timeout of a row's checks.
func (r row) wait() time.Duration {
	if r.timeout > 0 {
		return r.timeout
	}
	return 15 * time.Second
}

// ask sends the checks of a row as the kubelet does, and returns its verdict.
func ask(t *testing.T, r row, port int) string {
	t.Helper()
	get := r.get
	get.Port = intstr.FromInt32(int32(port))
	prober := probehttp.New(false)
	for i := range max(1, r.checks) {
		if i > 0 {
			time.Sleep(200 * time.Millisecond)
		}
		request, err := probehttp.NewRequestForHTTPGetAction(&get, nil, "127.0.0.1", "probe")
		if err != nil {
			return "fails"
		}
		result, _, err := prober.Probe(request, r.wait())
		if err != nil || (result != probe.Success && result != probe.Warning) {
			return "fails"
		}
	}
	return "passes"
}

// upstream is the check of a row as a policy has it.
func upstream(r row, cluster string, port int) tree {
	get := tree{"path": r.get.Path}
	if !r.unnamed {
		get["host"], get["port"] = "127.0.0.1", port
	}
	var headers []tree
	for _, header := range r.get.HTTPHeaders {
		headers = append(headers, tree{"name": header.Name, "value": header.Value})
	}
	if headers != nil {
		get["httpHeaders"] = headers
	}
	period := 3600.0
	if r.checks > 1 {
		period = 0.2
	}
	check := tree{"httpGet": get, "periodSeconds": period, "timeoutSeconds": r.wait().Seconds(), "failureThreshold": 1}
	return tree{"cluster": cluster, "readinessProbe": check}
}

func policyOf(upstreams tree) tree { return tree{"name": "checks", "upstreams": upstreams} }

// verdict is what our checks have found, or nothing while there are too few.
func verdict(found map[string]int, checks int) string {
	switch {
	case found["failed"] > 0:
		return "fails"
	case found["error"] > 0:
		return "is not sent"
	case found["passed"] >= max(1, checks):
		return "passes"
	}
	return ""
}

// outcome is the verdict on a row and what the server was asked.
type outcome struct {
	verdict  string
	requests []seen
}

func TestOddServersAreJudgedAsByTheKubelet(t *testing.T) {
	other := serve(t, row{answer: says(status(500))})
	otherPort = strconv.Itoa(other.port())
	rows := allRows()
	for code := 100; code < 600; code++ {
		rows = append(rows, row{name: fmt.Sprintf("status %d", code), get: path("/"), answer: says(status(code))})
	}
	theirs, ours := compare(t, rows)
	found := map[string]string{}
	for _, r := range rows {
		if said := differences(r, theirs[r.name], ours[r.name]); said != "" {
			found[r.name] = said
		}
	}
	for _, name := range slices.Sorted(maps.Keys(found)) {
		if differsByDesign[name] == "" {
			t.Errorf("%q: %s", name, found[name])
		}
	}
	for name, reason := range differsByDesign {
		if found[name] == "" {
			t.Errorf("%q does not differ: take it off the list (%s)", name, reason)
		}
	}
	t.Logf("%d rows, %d of them differ", len(rows), len(found))
}

// compare sends the checks of all rows, first as the kubelet and then by Envoy.
func compare(t *testing.T, rows []row) (theirs, ours map[string]outcome) {
	t.Helper()
	theirs, ours = map[string]outcome{}, map[string]outcome{}
	servers := map[string]*server{}
	var mutex sync.Mutex
	var all sync.WaitGroup
	for _, r := range rows {
		s := serve(t, r)
		servers[r.name] = s
		all.Go(func() {
			found := ask(t, r, s.port())
			mutex.Lock()
			defer mutex.Unlock()
			theirs[r.name] = outcome{found, s.take()}
		})
	}
	all.Wait()

	upstreams, clusters := tree{}, map[string]int{}
	named := map[string]row{}
	for number, r := range rows {
		// A new server, as the first one may accept no more connections.
		s := servers[r.name]
		if r.accepts > 0 {
			s = serve(t, r)
			servers[r.name] = s
		}
		name := fmt.Sprintf("row_%d", number)
		one := upstream(r, name, s.port())
		if said := refusalOf(t, r, one); said != "" {
			ours[r.name] = outcome{"is refused: " + said, nil}
			continue
		}
		upstreams[name], clusters[name], named[name] = one, s.port(), r
	}
	e := start(t, policyOf(upstreams), clusters, false)
	e.until("each upstream was checked", func() bool {
		checks := e.checks()
		for name, r := range named {
			if verdict(checks[name], r.checks) == "" {
				return false
			}
		}
		return true
	})
	checks := e.checks()
	for name, r := range named {
		ours[r.name] = outcome{verdict(checks[name], r.checks), servers[r.name].take()}
	}
	return theirs, ours
}

// refusalOf is what the tool says against this check. The statuses are not asked for, which are many and alike.
func refusalOf(t *testing.T, r row, one tree) string {
	t.Helper()
	if strings.HasPrefix(r.name, "status ") {
		return ""
	}
	said := refusal(t, policyOf(tree{"app": one}))
	first, _, _ := strings.Cut(said, "\n")
	return first
}

// ownHeaders are those in which requests differ by design: who asks, and what the proxy adds. Go's client sends a
// referer after a redirect. Envoy sends an empty body in chunks if it sends a request again.
var ownHeaders = []string{
	"user-agent", "referer", "connection", "transfer-encoding", "x-forwarded-proto", "x-request-id", "x-forwarded-for",
	"x-envoy-expected-rq-timeout-ms", "x-envoy-internal",
}

// differences says in what the two outcomes differ.
func differences(r row, theirs, ours outcome) string {
	var found []string
	if theirs.verdict != ours.verdict {
		found = append(found, fmt.Sprintf("for the kubelet it %s, for us it %s", theirs.verdict, ours.verdict))
	}
	if strings.HasPrefix(ours.verdict, "is refused") {
		return strings.Join(found, "; ")
	}
	for i, request := range ours.requests {
		said := ""
		switch {
		case i < len(theirs.requests):
			said = differenceOf(r, theirs.requests[i], request)
		// A request without a response may be sent again, and the number of repeated checks is a matter of time.
		case i > 0 && (ours.verdict == "fails" || r.checks > 0 || r.timeout > 0):
			said = differenceOf(r, ours.requests[i-1], request)
		default:
			said = "a request more than the kubelet's"
		}
		if said != "" {
			return strings.Join(append(found, fmt.Sprintf("request %d: %s", i+1, said)), "; ")
		}
	}
	if len(theirs.requests) > len(ours.requests) && r.checks == 0 && r.timeout == 0 {
		found = append(found, fmt.Sprintf("%d requests, and ours are %d", len(theirs.requests), len(ours.requests)))
	}
	return strings.Join(found, "; ")
}

func differenceOf(r row, theirs, ours seen) string {
	for _, request := range []seen{theirs, ours} {
		for name := range request.headers {
			is := slices.ContainsFunc(r.get.HTTPHeaders, func(h core.HTTPHeader) bool { return strings.EqualFold(h.Name, name) })
			if slices.Contains(ownHeaders, name) && !is {
				delete(request.headers, name)
			}
		}
	}
	if r.unnamed {
		theirs.host, ours.host = "", "" // the Pod's address for the kubelet, a name for us
	}
	if reflect.DeepEqual(theirs, ours) {
		return ""
	}
	return fmt.Sprintf("%v, and ours is %v", theirs, ours)
}
