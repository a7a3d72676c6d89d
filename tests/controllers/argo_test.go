package controllers

import (
	"strings"
	"testing"

	argo "github.com/argoproj/argo-rollouts/metricproviders/prometheus"
	"github.com/argoproj/argo-rollouts/pkg/apis/rollouts/v1alpha1"
	"github.com/argoproj/argo-rollouts/utils/analysis"
	"github.com/sirupsen/logrus"
)

// measure runs each metric of the AnalysisTemplate by Argo Rollouts' own provider, for the version that an AnalysisRun
// names. The AnalysisRun is the document's.
func (w *world) measure(version, interval string) map[string]v1alpha1.Measurement {
	w.t.Helper()
	var template v1alpha1.AnalysisTemplate
	strict(w.t, file(w.t, ofArgoRollouts+"analysis-template.yaml"), &template)
	if err := analysis.ValidateMetrics(template.Spec.Metrics); err != nil {
		w.t.Fatal(err)
	}
	var rollout v1alpha1.Rollout
	strict(w.t, block(w.t, besideArgo, "templateName: graygate-version"), &rollout)
	var args []v1alpha1.Argument
	for _, one := range rollout.Spec.Strategy.BlueGreen.PrePromotionAnalysis.Args {
		args = append(args, v1alpha1.Argument{Name: one.Name, Value: &one.Value})
	}
	own := map[string]string{"version": version, "prometheus": w.prometheus, "interval": interval}
	args, err := analysis.MergeArgs(args, template.Spec.Args)
	if err != nil {
		w.t.Fatal(err)
	}
	for i, one := range args {
		if value, ok := own[one.Name]; ok {
			args[i].Value = &value
		}
	}
	found := map[string]v1alpha1.Measurement{}
	for _, metric := range template.Spec.Metrics {
		resolved, err := analysis.ResolveMetricArgs(metric, args)
		if err != nil {
			w.t.Fatal(err)
		}
		api, err := argo.NewPrometheusAPI(*resolved)
		if err != nil {
			w.t.Fatal(err)
		}
		provider, err := argo.NewPrometheusProvider(api, *logrus.NewEntry(logrus.New()), *resolved)
		if err != nil {
			w.t.Fatal(err)
		}
		found[metric.Name] = provider.Run(&v1alpha1.AnalysisRun{}, *resolved)
	}
	return found
}

// phases are those of the measurements, in the order of their names.
func phases(measurements map[string]v1alpha1.Measurement) string {
	return string("failures " + measurements["failures"].Phase + ", slow " + measurements["slow"].Phase)
}

func TestArgoRolloutsJudgesAVersionByItsFailuresAndSlowResponses(t *testing.T) {
	w := start(t, heldBy(t, besideArgo), stable, preview)
	const none = "failures Inconclusive, slow Inconclusive"
	if found := w.measure("preview", "1m"); phases(found) != none {
		t.Errorf("without traffic: %s: %+v", phases(found), found)
	}
	if found := w.measure("nobody", "1m"); phases(found) != none {
		t.Errorf("a version that does not exist: %s: %+v", phases(found), found)
	}
	w.mixed()
	var found map[string]v1alpha1.Measurement
	w.until("the preview fails", func() bool {
		found = w.measure("preview", "1m")
		return phases(found) == "failures Failed, slow Failed"
	})
	for name, wanted := range map[string]float64{"failures": 15, "slow": 10} {
		value := strings.Trim(found[name].Value, "[]")
		if number := w.value(value + " + vector(0)"); !near(number, wanted) {
			t.Errorf("%s: %s, not %v", name, value, wanted)
		}
	}
	if found := w.measure("stable", "1m"); phases(found) != "failures Successful, slow Successful" {
		t.Errorf("the stable version: %s: %+v", phases(found), found)
	}
	w.neverRolledBack()
}
