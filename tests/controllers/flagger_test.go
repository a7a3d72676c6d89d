package controllers

import (
	"errors"
	"testing"

	flaggerv1 "github.com/fluxcd/flagger/pkg/apis/flagger/v1beta1"
	"github.com/fluxcd/flagger/pkg/metrics/observers"
	"github.com/fluxcd/flagger/pkg/metrics/providers"
)

// flagger is a Canary's metric with its template, as Flagger evaluates it.
type flagger struct {
	w        *world
	canary   flaggerv1.Canary
	template flaggerv1.MetricTemplate
	metric   flaggerv1.CanaryMetric
}

// flaggers are the metrics of a Canary by their names.
func (w *world) flaggers(canary flaggerv1.Canary) map[string]*flagger {
	w.t.Helper()
	found := map[string]*flagger{}
	for _, metric := range canary.Spec.Analysis.Metrics {
		if metric.TemplateRef == nil {
			continue
		}
		one := &flagger{w: w, canary: canary, metric: metric}
		for _, name := range []string{"failures", "slow", "latency"} {
			var template flaggerv1.MetricTemplate
			strict(w.t, file(w.t, ofFlagger+name+".yaml"), &template)
			if template.Name == metric.TemplateRef.Name && template.Namespace == metric.TemplateRef.Namespace {
				one.template = template
			}
		}
		if one.template.Name == "" {
			w.t.Fatalf("%s: no template is called %s", metric.Name, metric.TemplateRef.Name)
		}
		one.template.Spec.Provider.Address = w.prometheus
		found[metric.Name] = one
	}
	return found
}

// run evaluates the metric by Flagger's own code. The model is the one that its scheduler makes of a Canary.
func (f *flagger) run(interval string) (float64, error) {
	f.w.t.Helper()
	query, err := observers.RenderQuery(f.template.Spec.Query, flaggerv1.MetricTemplateModel{
		Name: f.canary.Name, Namespace: f.canary.Namespace, Target: f.canary.Spec.TargetRef.Name,
		Service: f.canary.Spec.TargetRef.Name, Interval: interval, Variables: f.metric.TemplateVariables,
	})
	if err != nil {
		f.w.t.Fatal(err)
	}
	provider, err := providers.Factory{}.Provider(interval, f.template.Spec.Provider, nil, nil)
	if err != nil {
		f.w.t.Fatal(err)
	}
	return provider.RunQuery(query)
}

// within returns whether a value lets Flagger advance.
func (f *flagger) within(value float64) bool {
	allowed := f.metric.ThresholdRange
	return (allowed.Min == nil || value >= *allowed.Min) && (allowed.Max == nil || value <= *allowed.Max)
}

func TestFlaggerReadsTheFailuresAndTheLatencyOfAVersion(t *testing.T) {
	w := start(t, heldBy(t, besideFlagger), primary, canary)
	var read flaggerv1.Canary
	strict(t, block(t, besideFlagger, "provider: kubernetes"), &read)
	metrics := w.flaggers(read)
	if len(metrics) != 3 {
		t.Fatalf("the Canary has %d metrics with a template, not 3", len(metrics))
	}
	for name, metric := range metrics {
		if value, err := metric.run("1m"); !errors.Is(err, providers.ErrNoValuesFound) {
			t.Errorf("%s: without traffic, %v and %v", name, value, err)
		}
	}
	w.mixed()
	for name, wanted := range map[string]struct {
		holds func(float64) bool
		goes  bool
	}{
		"failures": {func(value float64) bool { return near(value, 15) }, false},
		"slow":     {func(value float64) bool { return near(value, 10) }, false},
		// A tenth of the responses took longer than this bucket of Envoy's histogram.
		"latency": {func(value float64) bool { return value >= 2500 }, false},
	} {
		metric := metrics[name]
		var value float64
		w.until(name+" is what was sent", func() (holds bool) {
			var err error
			value, err = metric.run("1m")
			return err == nil && wanted.holds(value)
		})
		if metric.within(value) != wanted.goes {
			t.Errorf("%s: %v, with the range %+v", name, value, *metric.metric.ThresholdRange)
		}
		t.Logf("%s: %v", name, value)
	}
	for _, name := range []string{"failures", "slow"} {
		metrics[name].metric.TemplateVariables["version"] = "primary"
		if value, err := metrics[name].run("1m"); err != nil || value != 0 || !metrics[name].within(value) {
			t.Errorf("%s of the primary: %v and %v", name, value, err)
		}
	}
	w.neverRolledBack()
}
