package istio

import (
	"fmt"
	"strings"
	"testing"
)

// split is a policy for callers, which gives v2 a tenth of the users.
const split = `
name: reviews
upstreams:
  reviews-v1: {cluster: outbound|9080|v1|reviews.shop.svc.cluster.local}
  reviews-v2: {cluster: outbound|9080|v2|reviews.shop.svc.cluster.local}
releases:
- name: reviews
  steer: {header: x-gray-version}
  hashOn: [{httpHeaderName: x-user-id}]
  versions:
  - {name: v1, upstream: reviews-v1, weight: 90, default: true}
  - {name: v2, upstream: reviews-v2, weight: 10}
`

func TestUsersKeepTheirVersion(t *testing.T) {
	for _, way := range []struct{ directory, steer string }{
		{"header", "header: x-gray-version"},
		{"cluster-header", "clusterHeader: x-gray-cluster"},
		{"random-value-header", "randomValueHeader: x-gray-random"},
	} {
		t.Run(way.directory, func(t *testing.T) {
			v1, v2 := serve(t, "v1", "127.0.0.2"), serve(t, "v2", "127.0.0.3")
			policy := parsed(t, strings.Replace(split, "header: x-gray-version", way.steer, 1))
			address := ownAddress(t, 9080)
			c := startForEnvoy(t, world{V1: v1.endpoint, V2: v2.endpoint}, egress(address),
				built(t, "base/steering/"+way.directory), local(t, manifest(t, "wasmplugin", "outbound", policy)))
			c.envoy(callerNode)
			caller := newClient(t, address+":9080", "reviews:9080")
			versions := map[string]string{}
			ask := func(i int) (user, version string) {
				user = fmt.Sprintf("user-%d", i)
				got := caller.ask("/", "x-user-id", user)
				if got.status != 200 {
					t.Fatalf("%s: %v", user, got)
				}
				return user, got.body
			}
			for i := range 2000 {
				user, version := ask(i)
				versions[user] = version
			}
			// 200 of 2000 are expected; the deviation is 13, and five of them are allowed.
			if users := v2.requests.Load(); users < 135 || users > 265 {
				t.Errorf("%d of 2000 users on v2, with a weight of 10 of 100", users)
			}
			if all := v1.requests.Load() + v2.requests.Load(); all != 2000 {
				t.Errorf("%d requests have come, not 2000", all)
			}
			for i := range 500 {
				if user, version := ask(i); versions[user] != version {
					t.Fatalf("%s: moved from %s to %s", user, versions[user], version)
				}
			}
		})
	}
}
