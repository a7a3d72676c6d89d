package istio

import (
	"fmt"
	"math/rand/v2"
	"strings"

	networking "istio.io/api/networking/v1alpha3"
)

// The pools of values are small, so that conditions often hold or just fail.
var (
	somePaths = []string{
		"/", "/a", "/A", "/a/", "/a/b", "/a%2Fb", "/a;x=1", "//a", "/ab", "/a/../b", "/\u00e4", "/a.b", "/a+b",
	}
	someQueries = []string{
		"", "", "", "?q=1", "?q=2&q=1", "?q", "?q=", "?q=&q=1", "?q=%31", "?Q=1", "?&&q==1", "?x=?q=1", "?", "?q=1#", "?q=a+b",
		"?q=1;q=2", "?%71=1", "?q=1&",
	}
	someHosts   = []string{"reviews", "REVIEWS", "reviews:8443", "shop.example.com", "[::1]:80", "10.0.0.1"}
	someMethods = []string{"GET", "GET", "GET", "HEAD", "POST", "PUT", "OPTIONS"}
	someValues  = []string{"true", "TRUE", "", "1", "true,false", "a b", "yes/no", "\u00e4", "a\tb", "\xff"}
	someNames   = []string{"x-a", "x-b", "X-C", "cookie", "accept"}
)

// someRequest is a request as its bytes.
type someRequest struct {
	method, target, host string
	headers              [][2]string
}

func (r someRequest) text(index int) string {
	text := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: %s\r\nx-index: %d\r\n", r.method, r.target, r.host, index)
	for _, header := range r.headers {
		text += header[0] + ": " + header[1] + "\r\n"
	}
	return text + "\r\n"
}

// firstValues is the request with the first value of each header. Envoy itself joins those of accept.
func (r someRequest) firstValues() someRequest {
	seen, first := map[string]bool{}, r
	first.headers = nil
	for _, header := range r.headers {
		name := strings.ToLower(header[0])
		if !seen[name] || name == "accept" {
			first.headers = append(first.headers, header)
		}
		seen[name] = true
	}
	return first
}

func pick[T any](random *rand.Rand, from []T) T { return from[random.IntN(len(from))] }

func randomRequest(random *rand.Rand) someRequest {
	r := someRequest{
		method: pick(random, someMethods),
		target: pick(random, somePaths) + pick(random, someQueries),
		host:   pick(random, someHosts),
	}
	for _, name := range someNames {
		for range pick(random, []int{0, 1, 1, 1, 1, 2}) {
			r.headers = append(r.headers, [2]string{name, pick(random, someValues)})
		}
	}
	if random.IntN(5) == 0 {
		r.headers = append(r.headers, [2]string{"x-forwarded-proto", pick(random, []string{"http", "https"})})
	}
	if random.IntN(4) == 0 {
		// With more headers, the filter asks for each by its name.
		for number := range 50 {
			r.headers = append(r.headers, [2]string{fmt.Sprintf("x-filler-%d", number), "y"})
		}
	}
	return r
}

// randomCondition is one on a value of the pool. Only one on a header or a parameter may be empty.
func randomCondition(random *rand.Rand, pool []string, mayBeEmpty bool) *networking.StringMatch {
	value := pick(random, pool)
	for value == "" || value == "\xff" {
		value = pick(random, pool)
	}
	runes := []rune(value)
	start := string(runes[:1+random.IntN(len(runes))])
	literal := strings.NewReplacer(".", "[.]", "+", "[+]", "[::", "\\[::").Replace
	regexes := []string{
		literal(value), literal(start) + ".*", ".*", ".+", literal(value) + "|x", "(?i)" + literal(value), "[a-z/]+", "\\w*",
		"\\d+", ".", ".?", "[^a]*", "(a|" + literal(value) + ")+", "^" + literal(value) + "$", "\\S+\\s?\\S*", "x{0,2}.*",
	}
	kinds := 3
	if mayBeEmpty {
		kinds = 5
	}
	switch random.IntN(kinds) {
	case 0:
		return &networking.StringMatch{MatchType: &networking.StringMatch_Exact{Exact: value}}
	case 1:
		return &networking.StringMatch{MatchType: &networking.StringMatch_Prefix{Prefix: start}}
	case 2:
		return &networking.StringMatch{MatchType: &networking.StringMatch_Regex{Regex: pick(random, regexes)}}
	case 3:
		return &networking.StringMatch{MatchType: &networking.StringMatch_Regex{Regex: "*"}}
	}
	return &networking.StringMatch{}
}

// randomMatch has one to three conditions.
func randomMatch(random *rand.Rand) *networking.HTTPMatchRequest {
	m := &networking.HTTPMatchRequest{}
	name := func() string {
		return pick(random, append([]string{"host", ":authority", "x-none", ":path"}, someNames...))
	}
	named := func(name string) *networking.StringMatch {
		switch name {
		case "host", ":authority":
			return randomCondition(random, someHosts, true)
		case ":path":
			return randomCondition(random, somePaths, true)
		}
		return randomCondition(random, someValues, true)
	}
	for range 1 + random.IntN(3) {
		switch random.IntN(9) {
		case 0, 1:
			m.Uri = randomCondition(random, somePaths, false)
			m.IgnoreUriCase = random.IntN(3) == 0
		case 2:
			m.Method = randomCondition(random, someMethods, false)
		case 3:
			m.Scheme = randomCondition(random, []string{"http", "https"}, false)
		case 4:
			m.Authority = randomCondition(random, someHosts, false)
		case 5, 6:
			header := name()
			m.Headers = map[string]*networking.StringMatch{header: named(header)}
		case 7:
			header := name()
			m.WithoutHeaders = map[string]*networking.StringMatch{header: named(header)}
		case 8:
			parameters := []string{"1", "2", "%31", "=1", "a+b", "1;q=2"}
			parameter := pick(random, []string{"q", "Q", "x", "%71"})
			m.QueryParams = map[string]*networking.StringMatch{parameter: randomCondition(random, parameters, true)}
		}
	}
	return m
}
