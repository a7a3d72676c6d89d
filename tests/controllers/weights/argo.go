package main

import (
	"context"
	"fmt"

	"github.com/argoproj/argo-rollouts/pkg/apis/rollouts/v1alpha1"
	"github.com/argoproj/argo-rollouts/rollout/trafficrouting/istio"
	istioutil "github.com/argoproj/argo-rollouts/utils/istio"
	"github.com/argoproj/argo-rollouts/utils/record"
	"github.com/sirupsen/logrus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/fake"
	"sigs.k8s.io/yaml"
)

// argo lets Argo Rollouts' reconciler take the steps of a Rollout that concern routes, and then end the rollout.
// The hashes of the Pods are v1 for the stable ones and v2 for the canary's.
func argo(text []byte) ([]state, error) {
	logrus.SetLevel(logrus.ErrorLevel)
	services, rules := istioutil.GetIstioVirtualServiceGVR(), istioutil.GetIstioDestinationRuleGVR()
	var rollout v1alpha1.Rollout
	var objects []runtime.Object
	err := documents(text, func(kind string, document []byte) error {
		if kind == "Rollout" {
			return yaml.UnmarshalStrict(document, &rollout)
		}
		var object unstructured.Unstructured
		if err := yaml.Unmarshal(document, &object.Object); err != nil {
			return err
		}
		// An API server converts each version to the one that a client asks for.
		object.SetAPIVersion(services.GroupVersion().String())
		objects = append(objects, &object)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if rollout.Spec.Strategy.Canary == nil {
		return nil, fmt.Errorf("no Rollout with the strategy canary")
	}
	kinds := map[schema.GroupVersionResource]string{services: "VirtualServiceList", rules: "DestinationRuleList"}
	client := fake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), kinds, objects...)
	reconciler := istio.NewReconciler(&rollout, client, record.NewFakeEventRecorder(), nil, nil, nil)
	var states []state
	took := func(step string, err error) error {
		if err != nil {
			return fmt.Errorf("%s: %w", step, err)
		}
		now, err := argosObjects(client, rollout.Namespace, services, rules)
		states = append(states, state{step, now})
		return err
	}
	if err := reconciler.UpdateHash("v2", "v1"); err != nil {
		return nil, err
	}
	if err := took("begin", reconciler.SetWeight(0)); err != nil {
		return nil, err
	}
	for _, step := range rollout.Spec.Strategy.Canary.Steps {
		var err error
		switch {
		case step.SetWeight != nil:
			err = took(fmt.Sprintf("setWeight %d", *step.SetWeight), reconciler.SetWeight(*step.SetWeight))
		case step.SetHeaderRoute != nil:
			err = took("setHeaderRoute "+step.SetHeaderRoute.Name, reconciler.SetHeaderRoute(step.SetHeaderRoute))
		}
		if err != nil {
			return nil, err
		}
	}
	// The canary's Pods are the stable ones now, and the weight goes back to 0.
	if err := reconciler.UpdateHash("v2", "v2"); err != nil {
		return nil, err
	}
	if err := reconciler.SetWeight(0); err != nil {
		return nil, err
	}
	return states, took("end", reconciler.RemoveManagedRoutes())
}

func argosObjects(client dynamic.Interface, namespace string, kinds ...schema.GroupVersionResource) ([]any, error) {
	var objects []any
	for _, kind := range kinds {
		list, err := client.Resource(kind).Namespace(namespace).List(context.Background(), metav1.ListOptions{})
		if err != nil {
			return nil, err
		}
		for _, one := range list.Items {
			objects = append(objects, one.Object)
		}
	}
	return objects, nil
}
