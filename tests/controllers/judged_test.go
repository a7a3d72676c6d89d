package controllers

import (
	"errors"
	"strings"
	"testing"

	flaggerv1 "github.com/fluxcd/flagger/pkg/apis/flagger/v1beta1"
	"github.com/fluxcd/flagger/pkg/metrics/providers"
)

const (
	primary = "outbound|9080||reviews-primary.shop.svc.cluster.local"
	canary  = "outbound|9080||reviews-canary.shop.svc.cluster.local"
	stable  = "outbound|9080||reviews.shop.svc.cluster.local"
	preview = "outbound|9080||reviews-preview.shop.svc.cluster.local"
)

// heldBy is the policy of a document in which graygate holds the weights, with half of the users on each version. Less
// than the tests' slow responses take is not slow.
func heldBy(t *testing.T, document string) string {
	t.Helper()
	policy := block(t, document, "judge: false")
	for from, to := range map[string]string{"weight: 90": "weight: 50", "weight: 10": "weight: 50", "above: 300ms": "above: 3s"} {
		if strings.Count(policy, from) != 1 {
			t.Fatalf("the policy has no single %q:\n%s", from, policy)
		}
		policy = strings.Replace(policy, from, to, 1)
	}
	return policy
}

// mixed gets 2,000 responses of the other version, of which 15 % fail and 10 % are slow, and 500 good ones of the stable
// version.
func (w *world) mixed() {
	w.t.Helper()
	users, others := w.usersOf("stable", 20), w.usersOf("other", 20)
	// Envoy shows a histogram once it has a value, so a rate misses the first ones.
	w.until("the first responses are counted", func() bool {
		return w.value(`count(envoy_cluster_upstream_rq_time_count > 0)`) == 2
	})
	begun := int(w.other.requests.Load())
	w.send(others, "/fails", 300)
	w.send(others, "/slow", 200)
	w.send(others, "/", 1500-begun)
	w.send(users, "/", 500)
	w.until("all responses of the other version are scraped", func() bool {
		return w.value(`max(sum by (version) (graygate_responses_total))`) == 2000
	})
}

// neverRolledBack asserts that nothing was rolled back, although the other version failed.
func (w *world) neverRolledBack() {
	w.t.Helper()
	if n := w.value(`sum(graygate_rollbacks_total) or vector(0)`); n != 0 {
		w.t.Errorf("%v versions were rolled back", n)
	}
}

// Both judge the version. The first to act is graygate, and the controllers then have no traffic to judge by.
func TestAfterARollbackByGraygateTheControllersHoldStill(t *testing.T) {
	policy := strings.Replace(heldBy(t, besideFlagger), "judge: false", "failurePercent: 5", 1)
	w := start(t, policy, primary, canary)
	var read flaggerv1.Canary
	strict(t, block(t, besideFlagger, "provider: kubernetes"), &read)
	failures := w.flaggers(read)["failures"]
	users := w.usersOf("other", 20)
	w.until("the canary is rolled back", func() bool {
		w.send(users, "/fails", 40)
		return w.value("sum(graygate_rollbacks_total)") == 1
	})
	// The primary has values in the same interval, so the scrapes are not what is missing.
	w.until("Flagger finds values of the primary alone", func() bool {
		w.send(users, "/", 10)
		failures.metric.TemplateVariables["version"] = "canary"
		_, none := failures.run("2s")
		failures.metric.TemplateVariables["version"] = "primary"
		value, err := failures.run("2s")
		return errors.Is(none, providers.ErrNoValuesFound) && err == nil && value == 0
	})
	// Workers hear of a rollback at different times. By now, all have.
	before := w.other.requests.Load()
	w.until("Argo Rollouts comes to a conclusion on the primary alone", func() bool {
		w.send(users, "/", 10)
		return phases(w.measure("canary", "2s")) == "failures Inconclusive, slow Inconclusive" &&
			phases(w.measure("primary", "2s")) == "failures Successful, slow Successful"
	})
	if came := w.other.requests.Load() - before; came != 0 {
		t.Errorf("%d requests came to the canary after its rollback", came)
	}
}
